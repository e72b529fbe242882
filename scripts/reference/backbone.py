#!/usr/bin/env python3
"""Writes tests/data/backbones: small checkpoints and what the public Backbone_VSSM returns for them.

    backbone.py VMamba/classification/models OUT

For each layout OUT/NAME/ holds checkpoint.pth, config.json and io.safetensors with input and outnormI (NHWC, as taps are):
    classifier  what classification/main.py saves; Backbone_VSSM(pretrained=…) takes it, and its own outnorms stay as initialised
    mmdet       a detector: backbone., neck., bbox_head. under state_dict
    mmseg       a segmenter: backbone., decode_head., auxiliary_head., its backbone without the first stage's output
"""

import json
import os
import sys

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import dump_reference

COMMON = dict(dims=8, depths=[1, 2, 1, 1], ssm_d_state=2, ssm_ratio=2.0, ssm_dt_rank="auto", ssm_conv=3, mlp_ratio=2.0, imgsize=64)
LAYOUTS = {
    "classifier": dict(
        COMMON, num_classes=5, forward_type="v05_noz", ssm_conv_bias=False, norm_layer="ln2d", downsample_version="v3", patchembed_version="v2"
    ),
    "mmdet": dict(
        COMMON, out_indices=(0, 1, 2, 3), forward_type="v05_noz", ssm_conv_bias=False, norm_layer="ln2d", downsample_version="v3", patchembed_version="v2"
    ),
    "mmseg": dict(
        COMMON, out_indices=(1, 2, 3), forward_type="v05", norm_layer="bn", downsample_version="v1", patchembed_version="v1", posembed=True
    ),
}
AROUND = {
    "mmdet": {"neck.lateral_convs.0.conv.weight": (4, 8, 1, 1), "bbox_head.fc_cls.weight": (3, 8)},
    "mmseg": {"decode_head.conv_seg.weight": (3, 8, 1, 1), "auxiliary_head.conv_seg.weight": (3, 8, 1, 1)},
}


def spread(state):
    """Parameters that are ones or zeros at the start get values, so that a wrong one shows."""
    for name, value in state.items():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand_like(value))
        elif value.dtype.is_floating_point and (value.dim() == 1 or name == "pos_embed"):
            value.add_(0.2 * torch.randn_like(value))


@torch.no_grad()
def write(module, name, kwargs, folder):
    torch.manual_seed(len(name))
    os.makedirs(folder, exist_ok=True)
    checkpoint = os.path.join(folder, "checkpoint.pth")
    if name == "classifier":
        model = module.VSSM(**kwargs)
        spread(model.state_dict())
        torch.save({"model": model.state_dict(), "epoch": 1}, checkpoint)
        backbone = module.Backbone_VSSM(pretrained=checkpoint, **kwargs)
    else:
        backbone = module.Backbone_VSSM(**kwargs)
        spread(backbone.state_dict())
        state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
        state.update({key: torch.randn(shape) for key, shape in AROUND[name].items()})
        torch.save({"meta": {"epoch": 1}, "state_dict": state}, checkpoint)
    backbone.eval()
    x = torch.randn(2, 3, 64, 96)
    with dump_reference.without_gpu_kernels(backbone):
        outputs = backbone(x)
    values = {f"outnorm{i}": y.permute(0, 2, 3, 1) for i, y in zip(kwargs.get("out_indices", range(4)), outputs)}
    dump_reference.save_safetensors(os.path.join(folder, "io.safetensors"), {"input": x, **values}, {"torch": torch.__version__})
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump({key: value for key, value in kwargs.items() if key != "out_indices"}, file, indent=2)
        file.write("\n")


def main():
    repository, out = sys.argv[1:]
    dump_reference.build(repository, LAYOUTS["classifier"])
    for name, kwargs in LAYOUTS.items():
        write(sys.modules["vmamba"], name, kwargs, os.path.join(out, name))


main()
