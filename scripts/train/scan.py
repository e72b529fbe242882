"""The selective scan over a map in four directions, in Triton, with its gradient (d_state 1).

`selective_scan_2d` here replaces vssm.selective_scan_2d where gradients or a GPU are wanted.

Letters: B batch, H W map, L = H*W, D channels, R dt_rank, K = 4 directions. One program takes one
image, one direction and BD channels, and walks the L positions BL at a time: inside a tile the
recurrence is an associative scan, between tiles the state is carried. No map is ever permuted: a
direction is a function from the position on its path to the pixel.
    h_l = a_l h_(l-1) + delta_l Bmat_l x_l,  a = exp(delta A),  delta = softplus(dt + bias),  y_l = Cmat_l h_l + Ds x_l
Backwards: e_l = Cmat_l gy_l + a_(l+1) e_(l+1) is the gradient of h_l, and a_l h_(l-1) is what the
scan's inputs and outputs differ by, so no division is needed.
"""

import json
import os

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

K = 4


@triton.jit
def combine(a1, b1, a2, b2):
    return a1 * a2, b1 * a2 + b2


@triton.jit
def softplus(x):
    return tl.where(x > 20.0, x, tl.log(1.0 + tl.exp(x)))


@triton.jit
def pixel_of(l, k, H, W):
    """The pixel at position l of direction k: rows, columns, rows backwards, columns backwards."""
    l = tl.where(k >= 2, H * W - 1 - l, l)
    return tl.where(k % 2 == 1, (l % H) * W + l // H, l)


@triton.jit
def scan_forward_kernel(
    x_ptr, dt_ptr, b_ptr, c_ptr, bias_ptr, a_ptr, d_ptr, y_ptr, state_ptr, H, W, D, tiles,
    BL: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    image, k = (tl.program_id(0) // 4).to(tl.int64), tl.program_id(0) % 4
    L = H * W
    channels = tl.program_id(1) * BD + tl.arange(0, BD)
    in_d = channels < D
    rows = tl.arange(0, BL)
    bias = tl.load(bias_ptr + k * D + channels, mask=in_d, other=0.0)
    A = tl.load(a_ptr + k * D + channels, mask=in_d, other=0.0)
    Ds = tl.load(d_ptr + k * D + channels, mask=in_d, other=0.0)
    h = tl.zeros([BD], tl.float32)
    for tile in range(tiles):
        l = tile * BL + rows
        in_l = l < L
        mask = in_l[:, None] & in_d[None, :]
        pixel = image * L + pixel_of(l, k, H, W)
        x = tl.load(x_ptr + pixel[:, None] * D + channels[None, :], mask=mask, other=0.0).to(tl.float32)
        dt = tl.load(dt_ptr + (pixel * 4 + k)[:, None] * D + channels[None, :], mask=mask, other=0.0)
        Bmat = tl.load(b_ptr + pixel * 4 + k, mask=in_l, other=0.0).to(tl.float32)
        Cmat = tl.load(c_ptr + pixel * 4 + k, mask=in_l, other=0.0).to(tl.float32)
        delta = tl.where(mask, softplus(dt.to(tl.float32) + bias[None, :]), 0.0)
        a = tl.exp(delta * A[None, :])
        product, inner = tl.associative_scan((a, delta * Bmat[:, None] * x), 0, combine)
        tl.store(state_ptr + ((image * 4 + k) * tiles + tile) * D + channels, h, mask=in_d)
        hs = inner + product * h[None, :]
        y = hs * Cmat[:, None] + Ds[None, :] * x
        out = y_ptr + ((image * 4 + k) * L + pixel - image * L)[:, None] * D + channels[None, :]
        tl.store(out, y.to(y_ptr.dtype.element_ty), mask=mask)
        h = tl.sum(tl.where((rows == BL - 1)[:, None], hs, 0.0), axis=0)


@triton.jit
def scan_backward_kernel(
    x_ptr, dt_ptr, b_ptr, c_ptr, bias_ptr, a_ptr, d_ptr, gy_ptr, state_ptr,
    gx_ptr, gdt_ptr, gb_ptr, gc_ptr, gparam_ptr, H, W, D, tiles,
    BL: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    image, k = (tl.program_id(0) // 4).to(tl.int64), tl.program_id(0) % 4
    part, parts = tl.program_id(1), tl.num_programs(1)
    L = H * W
    channels = part * BD + tl.arange(0, BD)
    in_d = channels < D
    rows = tl.arange(0, BL)
    bias = tl.load(bias_ptr + k * D + channels, mask=in_d, other=0.0)
    A = tl.load(a_ptr + k * D + channels, mask=in_d, other=0.0)
    Ds = tl.load(d_ptr + k * D + channels, mask=in_d, other=0.0)
    e = tl.zeros([BD], tl.float32)
    gbias = tl.zeros([BD], tl.float32)
    gA = tl.zeros([BD], tl.float32)
    gD = tl.zeros([BD], tl.float32)
    for step in range(tiles):
        tile = tiles - 1 - step
        l = tile * BL + rows
        in_l = l < L
        mask = in_l[:, None] & in_d[None, :]
        pixel = image * L + pixel_of(l, k, H, W)
        at = pixel[:, None] * D + channels[None, :]
        at_k = (pixel * 4 + k)[:, None] * D + channels[None, :]
        x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
        gy = tl.load(gy_ptr + at, mask=mask, other=0.0).to(tl.float32)
        z = tl.load(dt_ptr + at_k, mask=mask, other=0.0).to(tl.float32) + bias[None, :]
        Bmat = tl.load(b_ptr + pixel * 4 + k, mask=in_l, other=0.0).to(tl.float32)
        Cmat = tl.load(c_ptr + pixel * 4 + k, mask=in_l, other=0.0).to(tl.float32)
        delta = tl.where(mask, softplus(z), 0.0)
        a = tl.exp(delta * A[None, :])
        u = delta * Bmat[:, None] * x
        h0 = tl.load(state_ptr + ((image * 4 + k) * tiles + tile) * D + channels, mask=in_d, other=0.0)
        product, inner = tl.associative_scan((a, u), 0, combine)
        hs = inner + product * h0[None, :]
        # a of the next position; nothing comes after the last.
        next_l = l + 1
        next_mask = (next_l < L)[:, None] & in_d[None, :]
        next_pixel = image * L + pixel_of(tl.where(next_l < L, next_l, 0), k, H, W)
        next_dt = tl.load(dt_ptr + (next_pixel * 4 + k)[:, None] * D + channels[None, :], mask=next_mask, other=0.0)
        next_a = tl.exp(softplus(next_dt.to(tl.float32) + bias[None, :]) * A[None, :])
        next_a = tl.where(next_mask, next_a, 0.0)
        product, inner = tl.associative_scan((next_a, Cmat[:, None] * gy), 0, combine, reverse=True)
        es = inner + product * e[None, :]
        e = tl.sum(tl.where((rows == 0)[:, None], es, 0.0), axis=0)
        carried = es * (hs - u)
        bx = Bmat[:, None] * x
        gz = (es * bx + carried * A[None, :]) * tl.sigmoid(z)
        gz = tl.where(mask, gz, 0.0)
        gx = es * delta * Bmat[:, None] + Ds[None, :] * gy
        tl.store(gdt_ptr + at_k, gz.to(gdt_ptr.dtype.element_ty), mask=mask)
        gx_at = ((image * 4 + k) * L + pixel - image * L)[:, None] * D + channels[None, :]
        tl.store(gx_ptr + gx_at, gx.to(gx_ptr.dtype.element_ty), mask=mask)
        sums_at = (pixel * 4 + k) * parts + part
        tl.store(gb_ptr + sums_at, tl.sum(es * delta * x, axis=1), mask=in_l)
        tl.store(gc_ptr + sums_at, tl.sum(hs * gy, axis=1), mask=in_l)
        gbias += tl.sum(gz, axis=0)
        gA += tl.sum(carried * delta, axis=0)
        gD += tl.sum(gy * x, axis=0)
    out = gparam_ptr + (image * 4 + k) * 3 * D + channels
    tl.store(out, gbias, mask=in_d)
    tl.store(out + D, gA, mask=in_d)
    tl.store(out + 2 * D, gD, mask=in_d)


# (BL, BD, warps), forward and backward, chosen by timing (tune_scan.py). BL must be the same in both.
TILES = {"forward": (32, 32, 1), "backward": (32, 32, 2)}
TILES.update(json.loads(os.environ.get("VSSM_TILES", "{}")))


def tiling(kind, L, D):
    BL, BD, warps = TILES[kind]
    BL = min(BL, max(16, triton.next_power_of_2(L)))
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
        x, dt, Bmat, Cmat, bias, A, Ds, y, states, H, W, D, tiles, BL=BL, BD=BD, num_warps=warps
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
        x, dt, Bmat, Cmat, bias, A, Ds, gy, states, gx, gdt, gB, gC, gparams, H, W, D, states.shape[2],
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
