"""Compares scan.py and depthwise.py with plain PyTorch: values and gradients, in float32 and bfloat16.

    check_kernels.py        on a GPU, or on a CPU with TRITON_INTERPRET=1 set (slow: small sizes)
"""

import os
import sys

import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference"))

import depthwise
import scan
import vssm

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def error(found, wanted):
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


def compare(title, names, ours, reference, arguments, dtypes):
    """Runs both on the same values; the reference in float64 on what the dtypes leave of them."""
    stored = [a.to(t) for a, t in zip(arguments, dtypes)]
    mine = [a.clone().requires_grad_() for a in stored]
    theirs = [a.double().requires_grad_() for a in stored]
    out, wanted = ours(*mine), reference(*theirs)
    direction = torch.randn_like(wanted)
    out.backward(direction.to(out.dtype))
    wanted.backward(direction.to(out.dtype).double())
    errors = {"value": error(out, wanted)}
    errors.update({name: error(a.grad, b.grad) for name, a, b in zip(names, mine, theirs)})
    tolerance = TOLERANCE[dtypes[0]]
    good = all(value <= tolerance for value in errors.values())
    print("ok  " if good else "FAIL", title, dtypes[0], {k: f"{v:.1e}" for k, v in errors.items()}, flush=True)
    return good


def check_scan(device, dtype, B, H, W, D, R):
    K = 4
    arguments = [
        torch.randn(B, H, W, D), torch.randn(B, H, W, K * (R + 2)), 0.5 * torch.randn(K, D, R),
        torch.randn(K, D) - 2, -torch.exp(torch.randn(K, D, 1)), torch.randn(K, D),
    ]  # fmt: skip
    names = ("x", "projections", "dt_weight", "dt_bias", "A", "Ds")
    dtypes = [dtype, dtype, dtype, torch.float32, torch.float32, torch.float32]
    arguments = [a.to(device) for a in arguments]
    title = f"scan {(B, H, W, D, R)}"
    return compare(title, names, scan.selective_scan_2d, vssm.sequential_scan_2d, arguments, dtypes)


def check_depthwise(device, dtype, B, H, W, C):
    arguments = [torch.randn(B, H, W, C), torch.randn(9, C), torch.randn(C)]

    def reference(x, weight, bias):
        weight = weight.t().reshape(C, 1, 3, 3)
        return F.silu(F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=C)).permute(0, 2, 3, 1)

    arguments = [a.to(device) for a in arguments]
    dtypes = [dtype, torch.float32, torch.float32]
    title = f"depthwise {(B, H, W, C)}"
    return compare(title, ("x", "weight", "bias"), depthwise.depthwise, reference, arguments, dtypes)


def main():
    torch.manual_seed(0)
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    good = True
    for dtype in (torch.float32, torch.bfloat16):
        shapes = [(2, 3, 5, 16, 2), (1, 7, 6, 48, 3)]
        shapes += [(2, 32, 32, 64, 4), (2, 8, 8, 256, 16)] if gpu else []
        for shape in shapes:
            good &= check_scan(device, dtype, *shape)
        for shape in [(2, 5, 7, 16)] + ([(3, 32, 32, 64), (5, 4, 4, 512)] if gpu else []):
            good &= check_depthwise(device, dtype, *shape)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
