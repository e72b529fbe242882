"""The selective scan over a map in four directions, in Triton, with its gradient (d_state 1).

`selective_scan_2d` here replaces vssm.selective_scan_2d when gradients or a GPU are used.

Notation: B batch, H W map, L = H*W, D channels, R dt_rank, K = 4 directions. One program (a warp) takes
one image, one direction and BD channels, and walks the L positions BL at a time: the loads of BL
positions first, then the recurrence. No map is permuted: a direction is a function from the
position on its path to the pixel.
    h_l = a_l h_(l-1) + delta_l Bmat_l x_l,  a = exp(delta A),  delta = softplus(dt + bias),  y_l = Cmat_l h_l + Ds x_l
Forward stores the state at every BL-th position; backward starts from these, recomputes the BL states
and walks backwards: e_l = Cmat_l gy_l + a_(l+1) e_(l+1) is the gradient of h_l.
"""

import json
import os

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from triton.language.extra import libdevice

K = 4


if os.environ.get("TRITON_INTERPRET") == "1":

    @triton.jit
    def fast_log(x):
        return tl.log(x)

    @triton.jit
    def fast_divide(x, y):
        return x / y

else:
    fast_log, fast_divide = libdevice.fast_logf, libdevice.fast_dividef


@triton.jit
def softplus(z):
    """-> log(1 + e^z) and its slope"""
    power = tl.exp2(tl.minimum(z, 20.0) * 1.4426950408889634)
    return tl.where(z > 20.0, z, fast_log(1.0 + power)), fast_divide(power, 1.0 + power)


@triton.jit
def pixel_of(l, k, H: tl.constexpr, W: tl.constexpr):
    """The pixel at position l of direction k: rows, columns, rows backwards, columns backwards."""
    l = tl.where(k >= 2, H * W - 1 - l, l)
    return tl.where(k % 2 == 1, (l % H) * W + l // H, l)


@triton.jit
def channels_of(part, D: tl.constexpr, BD: tl.constexpr):
    """The channels of a part and whether they exist. The hint keeps a position's channels side by side
    in a warp, two to a thread."""
    channels = part * BD + tl.arange(0, BD)
    return tl.max_contiguous(tl.multiple_of(channels, 2), 2), channels < D


@triton.jit
def scan_forward_kernel(
    x_ptr, dt_ptr, b_ptr, c_ptr, bias_ptr, a_ptr, d_ptr, y_ptr, state_ptr,
    H: tl.constexpr, W: tl.constexpr, D: tl.constexpr, BL: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    L: tl.constexpr = H * W
    TILES: tl.constexpr = (L + BL - 1) // BL
    image, k = (tl.program_id(0) // 4).to(tl.int64), tl.program_id(0) % 4
    channels, in_d = channels_of(tl.program_id(1), D, BD)
    bias = tl.load(bias_ptr + k * D + channels, mask=in_d, other=0.0)
    A = tl.load(a_ptr + k * D + channels, mask=in_d, other=0.0) * 1.4426950408889634
    Ds = tl.load(d_ptr + k * D + channels, mask=in_d, other=0.0)
    x_ptr += image * L * D
    dt_ptr += image * L * 4 * D + k * D
    b_ptr += image * L * 4 + k
    c_ptr += image * L * 4 + k
    y_ptr += (image * 4 + k) * L * D
    state_ptr += (image * 4 + k) * TILES * D
    h = tl.zeros([BD], tl.float32)
    for tile in range(TILES):
        first = tile * BL + 0 * k  # a tensor in Triton's interpreter, too
        tl.store(state_ptr + tile * D + channels, h, mask=in_d)
        xs, dts, Bs, Cs = (), (), (), ()
        for j in tl.static_range(BL):
            l = tl.minimum(first + j, L - 1)
            pixel = pixel_of(l, k, H, W)
            xs = xs + (tl.load(x_ptr + pixel * D + channels, mask=in_d, other=0.0),)
            dts = dts + (tl.load(dt_ptr + pixel * 4 * D + channels, mask=in_d, other=0.0),)
            Bs = Bs + (tl.load(b_ptr + pixel * 4),)
            Cs = Cs + (tl.load(c_ptr + pixel * 4),)
        for j in tl.static_range(BL):
            l = first + j
            pixel = pixel_of(tl.minimum(l, L - 1), k, H, W)
            x = xs[j].to(tl.float32)
            delta, _ = softplus(dts[j].to(tl.float32) + bias)
            h = tl.exp2(delta * A) * h + delta * (Bs[j].to(tl.float32) * x)
            y = h * Cs[j].to(tl.float32) + Ds * x
            tl.store(y_ptr + pixel * D + channels, y.to(y_ptr.dtype.element_ty), mask=channels < tl.where(l < L, D, 0))


@triton.jit
def scan_backward_kernel(
    x_ptr, dt_ptr, b_ptr, c_ptr, bias_ptr, a_ptr, d_ptr, gy_ptr, state_ptr,
    gx_ptr, gdt_ptr, gb_ptr, gc_ptr, gparam_ptr,
    H: tl.constexpr, W: tl.constexpr, D: tl.constexpr, BL: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    L: tl.constexpr = H * W
    TILES: tl.constexpr = (L + BL - 1) // BL
    PARTS: tl.constexpr = (D + BD - 1) // BD
    image, k = (tl.program_id(0) // 4).to(tl.int64), tl.program_id(0) % 4
    part = tl.program_id(1)
    channels, in_d = channels_of(part, D, BD)
    bias = tl.load(bias_ptr + k * D + channels, mask=in_d, other=0.0)
    A = tl.load(a_ptr + k * D + channels, mask=in_d, other=0.0)
    Ds = tl.load(d_ptr + k * D + channels, mask=in_d, other=0.0)
    x_ptr += image * L * D
    gy_ptr += image * L * D
    dt_ptr += image * L * 4 * D + k * D
    gdt_ptr += image * L * 4 * D + k * D
    b_ptr += image * L * 4 + k
    c_ptr += image * L * 4 + k
    gb_ptr += (image * L * 4 + k) * PARTS + part
    gc_ptr += (image * L * 4 + k) * PARTS + part
    gx_ptr += (image * 4 + k) * L * D
    state_ptr += (image * 4 + k) * TILES * D
    f = tl.zeros([BD], tl.float32)
    gbias = tl.zeros([BD], tl.float32)
    gA = tl.zeros([BD], tl.float32)
    gD = tl.zeros([BD], tl.float32)
    for step in range(TILES):
        tile = TILES - 1 - step
        first = tile * BL + 0 * k
        h = tl.load(state_ptr + tile * D + channels, mask=in_d, other=0.0)
        xs, dts, gys, Bs, Cs = (), (), (), (), ()
        for j in tl.static_range(BL):
            l = first + j
            there = channels < tl.where(l < L, D, 0)
            pixel = pixel_of(tl.minimum(l, L - 1), k, H, W)
            xs = xs + (tl.load(x_ptr + pixel * D + channels, mask=there, other=0.0),)
            dts = dts + (tl.load(dt_ptr + pixel * 4 * D + channels, mask=there, other=0.0),)
            gys = gys + (tl.load(gy_ptr + pixel * D + channels, mask=there, other=0.0),)
            Bs = Bs + (tl.load(b_ptr + pixel * 4).to(tl.float32),)
            Cs = Cs + (tl.load(c_ptr + pixel * 4).to(tl.float32),)
        deltas, slopes, decays, carries = (), (), (), ()
        for j in tl.static_range(BL):
            delta, slope = softplus(dts[j].to(tl.float32) + bias)
            a = tl.exp2(delta * (A * 1.4426950408889634))
            carry = a * h
            h = carry + delta * (Bs[j] * xs[j].to(tl.float32))
            deltas = deltas + (delta,)
            slopes = slopes + (slope,)
            decays = decays + (a,)
            carries = carries + (carry,)
        # Positions past the end come first and have gy = 0, so that they leave no trace.
        for j in tl.static_range(BL - 1, -1, -1):
            l = first + j
            there = channels < tl.where(l < L, D, 0)
            pixel = pixel_of(tl.minimum(l, L - 1), k, H, W)
            x, gy, delta, carry = xs[j].to(tl.float32), gys[j].to(tl.float32), deltas[j], carries[j]
            bx = Bs[j] * x
            h = carry + delta * bx
            e = Cs[j] * gy + f
            f = decays[j] * e
            carried = e * carry
            gz = (e * bx + carried * A) * slopes[j]
            ed = e * delta
            gx = ed * Bs[j] + Ds * gy
            tl.store(gdt_ptr + pixel * 4 * D + channels, gz.to(gdt_ptr.dtype.element_ty), mask=there)
            tl.store(gx_ptr + pixel * D + channels, gx.to(gx_ptr.dtype.element_ty), mask=there)
            tl.store(gb_ptr + pixel * 4 * PARTS, tl.sum(ed * x, axis=0), mask=l < L)
            tl.store(gc_ptr + pixel * 4 * PARTS, tl.sum(h * gy, axis=0), mask=l < L)
            gbias += gz
            gA += carried * delta
            gD += gy * x
    out = gparam_ptr + (image * 4 + k) * 3 * D + channels
    tl.store(out, gbias, mask=in_d)
    tl.store(out + D, gA, mask=in_d)
    tl.store(out + 2 * D, gD, mask=in_d)


# (BL, BD, warps), chosen by timing (tune.py); BL must be the same in both.
TILES = {"forward": (4, 64, 1), "backward": (4, 64, 1)}
TILES.update(json.loads(os.environ.get("VSSM_TILES", "{}")))


def tiling(kind, L, D):
    BL, BD, warps = TILES[kind]
    BL = min(BL, triton.next_power_of_2(L))
    return BL, min(BD, max(16, triton.next_power_of_2(D))), warps


@torch.library.custom_op("vssm::scan", mutates_args=())
def scan(
    x: torch.Tensor, dt: torch.Tensor, Bmat: torch.Tensor, Cmat: torch.Tensor,
    bias: torch.Tensor, A: torch.Tensor, Ds: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """x (B, H, W, D), dt (B, H, W, K, D), Bmat, Cmat (B, H, W, K), bias, A, Ds (K, D) float32
    -> y of each direction (B, K, H, W, D), the states between tiles (B, K, tiles, D)"""
    B, H, W, D = x.shape
    BL, BD, warps = tiling("forward", H * W, D)
    tiles = triton.cdiv(H * W, BL)
    y = torch.empty(B, K, H, W, D, dtype=x.dtype, device=x.device)
    states = torch.empty(B, K, tiles, D, dtype=torch.float32, device=x.device)
    scan_forward_kernel[(B * K, triton.cdiv(D, BD))](
        x, dt, Bmat, Cmat, bias, A, Ds, y, states, H, W, D, BL=BL, BD=BD, num_warps=warps
    )
    return y, states


@scan.register_fake
def _(x, dt, Bmat, Cmat, bias, A, Ds):
    B, H, W, D = x.shape
    tiles = triton.cdiv(H * W, tiling("forward", H * W, D)[0])
    return x.new_empty(B, K, H, W, D), x.new_empty(B, K, tiles, D, dtype=torch.float32)


@torch.library.custom_op("vssm::scan_backward", mutates_args=())
def scan_backward(
    gy: torch.Tensor, x: torch.Tensor, dt: torch.Tensor, Bmat: torch.Tensor, Cmat: torch.Tensor,
    bias: torch.Tensor, A: torch.Tensor, Ds: torch.Tensor, states: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """gy (B, H, W, D): the gradient of the directions' sum -> gradients of x by direction, dt, Bmat
    and Cmat by part of the channels, (bias, A, Ds) by image"""
    B, H, W, D = x.shape
    _, BD, warps = tiling("backward", H * W, D)
    BL = tiling("forward", H * W, D)[0]
    parts = triton.cdiv(D, BD)
    gx = torch.empty(B, K, H, W, D, dtype=x.dtype, device=x.device)
    gdt = torch.empty_like(dt)
    gB = torch.empty(B, H, W, K, parts, dtype=torch.float32, device=x.device)
    gC = torch.empty_like(gB)
    gparams = torch.empty(B, K, 3, D, dtype=torch.float32, device=x.device)
    scan_backward_kernel[(B * K, parts)](
        x, dt, Bmat, Cmat, bias, A, Ds, gy, states, gx, gdt, gB, gC, gparams, H, W, D,
        BL=BL, BD=BD, num_warps=warps,
    )  # fmt: skip
    return gx, gdt, gB, gC, gparams


@scan_backward.register_fake
def _(gy, x, dt, Bmat, Cmat, bias, A, Ds, states):
    B, H, W, D = x.shape
    parts = triton.cdiv(D, tiling("backward", H * W, D)[1])
    sums = x.new_empty(B, H, W, K, parts, dtype=torch.float32)
    gparams = x.new_empty(B, K, 3, D, dtype=torch.float32)
    return x.new_empty(B, K, H, W, D), torch.empty_like(dt), sums, torch.empty_like(sums), gparams


def remember(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[1])


def differentiate(ctx, gy, _):
    x, dt, Bmat, Cmat, bias, A, Ds, states = ctx.saved_tensors
    # y's gradient is the same for every direction: they are summed right after.
    gx, gdt, gB, gC, gparams = scan_backward(gy[:, 0].contiguous(), x, dt, Bmat, Cmat, bias, A, Ds, states)
    gbias, gA, gD = gparams.sum(0).unbind(1)
    gx = gx.sum(1, dtype=torch.float32).to(x.dtype)
    return gx, gdt, gB.sum(-1).to(Bmat.dtype), gC.sum(-1).to(Cmat.dtype), gbias, gA, gD


scan.register_autograd(differentiate, setup_context=remember)


def selective_scan_2d(x, projections, dt_weight, dt_bias, A, Ds, order="cross"):
    """As vssm.selective_scan_2d, for d_state 1 and the cross order."""
    directions, D, R = dt_weight.shape
    if A.shape[-1] != 1 or order != "cross":
        raise ValueError(f"this scan is for d_state 1 and the cross order, not {A.shape[-1]} and {order}")
    # One product for all directions: a block-diagonal weight that ignores Bmat and Cmat.
    eye = torch.eye(K, device=x.device)
    weight = F.pad(dt_weight, (0, 2))[:, :, None, :] * eye[:, None, :, None]
    dt = F.linear(projections, weight.view(K * D, K * (R + 2)).to(projections.dtype)).unflatten(-1, (K, D))
    parts = projections.unflatten(-1, (K, R + 2))
    Bmat, Cmat = parts[..., R].contiguous(), parts[..., R + 1].contiguous()
    x = x.contiguous()
    y, _ = scan(x, dt.to(x.dtype), Bmat, Cmat, dt_bias.float(), A[..., 0].float(), Ds.float())
    return y.sum(1, dtype=torch.float32).to(x.dtype)
