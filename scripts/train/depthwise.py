"""Depthwise 3x3 convolution and SiLU over NHWC maps, in Triton, with their gradient.

`depthwise_silu` here replaces vssm.depthwise_act. A program takes BP pixels and BC channels; the nine
neighbours come from the cache. The weight's gradient is summed by each program over a stretch of
pixels, then over programs.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

BP, BC, WARPS = 32, 64, 4
STRETCH = 32  # tiles of pixels that one program of the backward pass takes


@triton.jit
def neighbours(pixel, j, H, W, total):
    """Where the j-th of the nine neighbours of a pixel lies, and whether it is on the map"""
    row = (pixel // W) % H + j // 3 - 1
    column = pixel % W + j % 3 - 1
    inside = (row >= 0) & (row < H) & (column >= 0) & (column < W) & (pixel < total)
    return pixel + (j // 3 - 1) * W + j % 3 - 1, inside


@triton.jit
def depthwise_forward_kernel(
    x_ptr, w_ptr, bias_ptr, y_ptr, total, H, W, C,
    BP: tl.constexpr, BC: tl.constexpr, FLIP: tl.constexpr, BIAS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0).to(tl.int64) * BP + tl.arange(0, BP)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    in_c = channel < C
    acc = tl.zeros([BP, BC], tl.float32)
    if BIAS:
        acc += tl.load(bias_ptr + channel, mask=in_c, other=0.0)[None, :]
    for j in tl.static_range(9):
        at, inside = neighbours(pixel, j, H, W, total)
        x = tl.load(x_ptr + at[:, None] * C + channel[None, :], mask=inside[:, None] & in_c[None, :], other=0.0)
        w = tl.load(w_ptr + (8 - j if FLIP else j) * C + channel, mask=in_c, other=0.0)
        acc += x.to(tl.float32) * w[None, :]
    if SILU:
        acc = acc * tl.sigmoid(acc)
    mask = (pixel < total)[:, None] & in_c[None, :]
    tl.store(y_ptr + pixel[:, None] * C + channel[None, :], acc.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def depthwise_backward_kernel(
    x_ptr, w_ptr, bias_ptr, gy_ptr, gp_ptr, gw_ptr, total, H, W, C, stretch,
    BP: tl.constexpr, BC: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    in_c = channel < C
    ids = tl.arange(0, 16)
    gw = tl.zeros([16, BC], tl.float32)
    for tile in range(stretch):
        pixel = (tl.program_id(0).to(tl.int64) * stretch + tile) * BP + tl.arange(0, BP)
        acc = tl.zeros([BP, BC], tl.float32)
        if BIAS:
            acc += tl.load(bias_ptr + channel, mask=in_c, other=0.0)[None, :]
        for j in tl.static_range(9):
            at, inside = neighbours(pixel, j, H, W, total)
            x = tl.load(x_ptr + at[:, None] * C + channel[None, :], mask=inside[:, None] & in_c[None, :], other=0.0)
            w = tl.load(w_ptr + j * C + channel, mask=in_c, other=0.0)
            acc += x.to(tl.float32) * w[None, :]
        mask = (pixel < total)[:, None] & in_c[None, :]
        at = pixel[:, None] * C + channel[None, :]
        gy = tl.load(gy_ptr + at, mask=mask, other=0.0).to(tl.float32)
        s = tl.sigmoid(acc)
        gp = gy * s * (1.0 + acc * (1.0 - s))
        tl.store(gp_ptr + at, gp.to(gp_ptr.dtype.element_ty), mask=mask)
        for j in tl.static_range(9):
            at, inside = neighbours(pixel, j, H, W, total)
            x = tl.load(x_ptr + at[:, None] * C + channel[None, :], mask=inside[:, None] & in_c[None, :], other=0.0)
            gw += tl.where((ids == j)[:, None], tl.sum(x.to(tl.float32) * gp, axis=0)[None, :], 0.0)
        gw += tl.where((ids == 9)[:, None], tl.sum(gp, axis=0)[None, :], 0.0)
    out = gw_ptr + (tl.program_id(0) * 16 + ids)[:, None] * C + channel[None, :]
    tl.store(out, gw, mask=in_c[None, :])


def forward(x, weight, bias, flip, silu):
    B, H, W, C = x.shape
    y = torch.empty_like(x)
    grid = (triton.cdiv(B * H * W, BP), triton.cdiv(C, BC))
    depthwise_forward_kernel[grid](
        x, weight, bias, y, B * H * W, H, W, C, BP=BP, BC=BC, FLIP=flip, BIAS=bias is not None, SILU=silu,
        num_warps=WARPS,
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
    programs = triton.cdiv(B * H * W, BP * STRETCH)
    before_act = torch.empty_like(x)
    gw = torch.empty(programs, 16, C, dtype=torch.float32, device=x.device)
    depthwise_backward_kernel[(programs, triton.cdiv(C, BC))](
        x, weight, bias, gy, before_act, gw, B * H * W, H, W, C, STRETCH, BP=BP, BC=BC, BIAS=bias is not None,
        num_warps=WARPS,
    )  # fmt: skip
    return forward(before_act, weight, None, flip=True, silu=False), gw


@depthwise_backward.register_fake
def _(gy, x, weight, bias):
    B, H, W, C = x.shape
    programs = triton.cdiv(B * H * W, BP * STRETCH)
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
