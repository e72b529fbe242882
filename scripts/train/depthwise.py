"""Depthwise 3x3 convolution and SiLU over NHWC maps, in Triton, with their gradient.

`depthwise_silu` here replaces vssm.depthwise_act. A program takes BP pixels and BC channels at a time;
the nine neighbours come from the cache. Each program sums the weight's gradient over a range of pixels;
the sums of all programs are then added.
"""

import json
import os

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

BC = 64
# (BP, warps) of a program's tile, chosen by timing (tune.py)
TILES = {"depthwise_forward": (8, 2), "depthwise_backward": (4, 1)}
TILES.update(json.loads(os.environ.get("VSSM_TILES", "{}")))
STRETCH = 32  # tiles of pixels that one program of the backward pass takes


@triton.jit
def load_tap(x_ptr, pixel, row, column, channel, j: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr):
    """The j-th of the nine neighbours of each pixel (pixels, BC); 0 outside the map"""
    dr: tl.constexpr = j // 3 - 1
    dc: tl.constexpr = j % 3 - 1
    inside = (row + dr >= 0) & (row + dr < H) & (column + dc >= 0) & (column + dc < W)
    at = (pixel + dr * W + dc)[:, None] * C + channel[None, :]
    return tl.load(x_ptr + at, mask=inside[:, None] & (channel < C)[None, :], other=0.0).to(tl.float32)


@triton.jit
def depthwise_forward_kernel(
    x_ptr, w_ptr, bias_ptr, y_ptr, total,
    H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
    FLIP: tl.constexpr, BIAS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * BP
    x_ptr += first.to(tl.int64) * C
    y_ptr += first.to(tl.int64) * C
    pixel = tl.arange(0, BP)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    column, row = (first + pixel) % W, ((first + pixel) // W) % H
    row = tl.where(first + pixel < total, row, 2 * H)  # nothing past the end has neighbours
    acc = tl.zeros([BP, BC], tl.float32)
    if BIAS:
        acc += tl.load(bias_ptr + channel, mask=channel < C, other=0.0)[None, :]
    for j in tl.static_range(9):
        w = tl.load(w_ptr + (8 - j if FLIP else j) * C + channel, mask=channel < C, other=0.0)
        acc += load_tap(x_ptr, pixel, row, column, channel, j, H, W, C) * w[None, :]
    if SILU:
        acc = acc * tl.sigmoid(acc)
    mask = (first + pixel < total)[:, None] & (channel < C)[None, :]
    tl.store(y_ptr + pixel[:, None] * C + channel[None, :], acc.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def depthwise_backward_kernel(
    x_ptr, w_ptr, bias_ptr, gy_ptr, gp_ptr, gw_ptr, total,
    H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
    STRETCH: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    in_c = channel < C
    first = tl.program_id(0) * BP * STRETCH
    x_ptr += first.to(tl.int64) * C
    gy_ptr += first.to(tl.int64) * C
    gp_ptr += first.to(tl.int64) * C
    bias = tl.zeros([BC], tl.float32)
    if BIAS:
        bias = tl.load(bias_ptr + channel, mask=in_c, other=0.0)
    ws, sums = (), ()
    for j in tl.static_range(9):
        ws = ws + (tl.load(w_ptr + j * C + channel, mask=in_c, other=0.0),)
        sums = sums + (tl.zeros([BP, BC], tl.float32),)
    gbias = tl.zeros([BP, BC], tl.float32)
    for tile in range(STRETCH):
        pixel = tile * BP + tl.arange(0, BP)
        there = first + pixel < total
        column, row = (first + pixel) % W, ((first + pixel) // W) % H
        row = tl.where(there, row, 2 * H)
        acc = tl.zeros([BP, BC], tl.float32) + bias[None, :]
        taps = ()
        for j in tl.static_range(9):
            taps = taps + (load_tap(x_ptr, pixel, row, column, channel, j, H, W, C),)
            acc += taps[j] * ws[j][None, :]
        at = pixel[:, None] * C + channel[None, :]
        mask = there[:, None] & in_c[None, :]
        gy = tl.load(gy_ptr + at, mask=mask, other=0.0).to(tl.float32)
        s = tl.sigmoid(acc)
        gp = gy * s * (1.0 + acc * (1.0 - s))
        tl.store(gp_ptr + at, gp.to(gp_ptr.dtype.element_ty), mask=mask)
        added = ()
        for j in tl.static_range(9):
            added = added + (sums[j] + taps[j] * gp,)
        sums = added
        gbias += gp
    out = gw_ptr + tl.program_id(0) * 16 * C + channel
    for j in tl.static_range(9):
        tl.store(out + j * C, tl.sum(sums[j], axis=0), mask=in_c)
    tl.store(out + 9 * C, tl.sum(gbias, axis=0), mask=in_c)


def forward(x, weight, bias, flip, silu):
    B, H, W, C = x.shape
    y = torch.empty_like(x)
    BP, warps = TILES["depthwise_forward"]
    depthwise_forward_kernel[(triton.cdiv(B * H * W, BP), triton.cdiv(C, BC))](
        x, weight, bias, y, B * H * W, H, W, C, BP=BP, BC=BC, FLIP=flip, BIAS=bias is not None, SILU=silu,
        num_warps=warps,
    )  # fmt: skip
    return y


@torch.library.custom_op("vssm::depthwise_silu", mutates_args=())
def depthwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x (B, H, W, C), weight (9, C) float32, bias (C)"""
    return forward(x, weight, bias, flip=False, silu=True)


@depthwise.register_fake
def _(x, weight, bias):
    return torch.empty_like(x)


@torch.library.custom_op("vssm::depthwise_silu_backward", mutates_args=())
def depthwise_backward(
    gy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """-> gradients of x and, by program, of the nine weights and the bias (programs, 16, C)"""
    B, H, W, C = x.shape
    BP, warps = TILES["depthwise_backward"]
    programs = triton.cdiv(B * H * W, BP * STRETCH)
    before_act = torch.empty_like(x)
    gw = torch.empty(programs, 16, C, dtype=torch.float32, device=x.device)
    depthwise_backward_kernel[(programs, triton.cdiv(C, BC))](
        x, weight, bias, gy, before_act, gw, B * H * W, H, W, C, BP=BP, BC=BC, STRETCH=STRETCH,
        BIAS=bias is not None, num_warps=warps,
    )  # fmt: skip
    return forward(before_act, weight, None, flip=True, silu=False), gw


@depthwise_backward.register_fake
def _(gy, x, weight, bias):
    B, H, W, C = x.shape
    programs = triton.cdiv(B * H * W, TILES["depthwise_backward"][0] * STRETCH)
    return torch.empty_like(x), x.new_empty(programs, 16, C, dtype=torch.float32)


def remember(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def differentiate(ctx, gy):
    x, weight, bias = ctx.saved_tensors
    gx, gw = depthwise_backward(gy.contiguous(), x, weight, bias)
    gw = gw.sum(0)
    return gx, gw[:9], gw[9] if bias is not None else None


depthwise.register_autograd(differentiate, setup_context=remember)


def depthwise_silu(x, conv, act):
    if act is not F.silu or conv.kernel_size != (3, 3):
        raise ValueError("this convolution is 3x3 and followed by SiLU")
    weight = conv.weight.float().flatten(1).t().contiguous()
    bias = None if conv.bias is None else conv.bias.float()
    return depthwise(x.contiguous(), weight, bias)
