"""A VSSM with the modules and attributes that the public repository's class has, for the test of
scripts/dump_reference.py: the reference of scripts/reference, each step a module that a hook can watch. It asks for what the
public code asks for: packages at import, a CUDA device's context and compiled kernels wherever they seem to be."""

import functools
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scripts/reference"))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from einops import rearrange  # noqa: E402
from fvcore.nn import flop_count  # noqa: E402, F401
from timm.models.layers import DropPath, trunc_normal_  # noqa: E402
from torch import nn  # noqa: E402

import vssm  # noqa: E402

WITH_TRITON = WITH_SELECTIVESCAN_OFLEX = True
try:
    import triton
    import triton.language as tl
except ImportError:
    WITH_TRITON = False


@triton.jit
def triton_scan(x: tl.tensor, length: tl.constexpr):
    raise AssertionError("no GPU runs this")


def selective_scan_fn(*args):
    assert not WITH_TRITON and not WITH_SELECTIVESCAN_OFLEX
    return vssm.sequential_scan(*args)


SCAN_MODES = {"cross": "cross2d", "unidi": "unidi", "bidi": "bidi"}
ACTIVATIONS = {"silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}


class SS2D(vssm.SS2D):
    def watchable(self, config):
        base, postfixes, _ = vssm.parse_forward_type(config["forward_type"])
        self.act = ACTIVATIONS[config["ssm_act_layer"]]()
        self.out_act = nn.GELU() if "oact" in postfixes else nn.Identity()
        self.disable_z, self.disable_z_act = not self.has_z, not self.z_act
        self.forward_core = functools.partial(
            self.core, scan_mode=SCAN_MODES[self.order], force_fp32=base == "v03", selective_scan_backend="torch"
        )

    def core(self, x, scan_mode, force_fp32, selective_scan_backend):
        """x (B, D, H, W) -> the directions' sum (B, H, W, D); keeps what it read and made where it is asked to."""
        x = x.permute(0, 2, 3, 1)
        height, width = x.shape[1:3]
        dt_weight, dt_bias, A, Ds = self.scan_parameters()
        K, D, R = dt_weight.shape
        projections = F.linear(x, self.x_proj_weight.flatten(0, 1))
        dt, Bmat, Cmat = vssm.split_projections(projections, K, R, A.shape[-1])
        total, kept = 0, {"ys": [], "Bs": [], "Cs": []}
        for k, direction in enumerate(vssm.DIRECTIONS[self.order]):
            delta = F.softplus(F.linear(dt[..., k, :], dt_weight[k], dt_bias[k]))
            xs, delta, Bs, Cs = (vssm.path(v, *direction) for v in (x, delta, Bmat[..., k, :], Cmat[..., k, :]))
            with torch.cuda.device(x.device):
                ys = selective_scan_fn(xs, delta, A[k], Bs, Cs) + Ds[k] * xs
            total = total + vssm.unpath(ys, height, width, *direction)
            for name, value in (("ys", ys), ("Bs", Bs), ("Cs", Cs)):
                kept[name].append(value.transpose(1, 2))
        if getattr(self, "__DEBUG__", False):
            setattr(self, "__data__", {name: torch.stack(values, 1) for name, values in kept.items()})
        return total

    def forward(self, x):
        x = self.in_proj(x)
        if self.has_z:
            x, z = x.chunk(2, dim=-1)
            z = self.act(z) if self.z_act else z
        y = self.out_act(self.out_norm(self.forward_core(self.act(self.conv2d(x.permute(0, 3, 1, 2))))))
        return self.out_proj(y * z if self.has_z else y)


class Pool(nn.Module):
    def forward(self, x):
        return x.mean(dim=(1, 2))


class VSSM(vssm.VSSM):
    def __init__(self, with_einops=False, **config):
        super().__init__(config)
        self.with_einops = with_einops
        self.drop_path = DropPath(0.1)
        trunc_normal_(self.classifier.head.weight, std=0.02)
        for stage in self.layers:
            for block in stage.blocks:
                block.op.__class__ = SS2D
                block.op.watchable(self.config)
                block.mlp.act = ACTIVATIONS[self.config["mlp_act_layer"]]()
            stage.blocks = nn.Sequential(*stage.blocks)
            stage.downsample = stage.downsample or nn.Identity()
        self.classifier.flatten = Pool()

    def forward(self, x):
        x = rearrange(x, "b c h w -> b h w c") if self.with_einops else x.permute(0, 2, 3, 1)
        x = self.drop_path(self.patch_embed(x))
        for stage in self.layers:
            x = stage.downsample(stage.blocks(x))
        return self.classifier.head(self.classifier.flatten(self.classifier.norm(x)))
