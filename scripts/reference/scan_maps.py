#!/usr/bin/env python3
"""Compares the weight maps of `vmamba-cli look --save-maps` with the public code: its model and its analyze/utils.py.

    scan_maps.py VMamba config.json weights.safetensors input.safetensors look.safetensors LAYER BLOCK ROW COLUMN

VMamba: the repository; input.safetensors: classify --save-input of the image; look.safetensors: the maps of that image, layer and
output pixel (of the layer's map). Prints, for every direction, the largest difference from attnmap_mamba(mode="CwBdtw") and from the
same row computed from the public model's values in logarithms. The former divides exp(cumulative sums), which are 0 in float32 from
about -100 on; the smallest sum is printed too.
"""

import json
import math
import os
import sys
from collections import OrderedDict

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import dump_reference
import tensorfile

OWN_KEYS = ("name", "preprocess", "selective_scan_backend", "forward_core_version", "float32_ops")


def attention_class(repository):
    """AttnMamba alone: its file imports much that is not needed."""
    with open(os.path.join(repository, "analyze", "utils.py"), encoding="utf-8") as file:
        text = file.read()
    begin = text.index("class AttnMamba:")
    names = {"torch": torch, "math": math, "OrderedDict": OrderedDict}
    exec(text[begin : text.index("\nclass ", begin + 1)].rsplit("\n#", 1)[0], names)
    return names["AttnMamba"]


@torch.no_grad()
def main():
    repository, config, weights, image, maps, *place = sys.argv[1:]
    layer, block, row, column = map(int, place)
    with open(config, encoding="utf-8") as file:
        kwargs = {key: value for key, value in json.load(file).items() if key not in OWN_KEYS}
    model = dump_reference.build(os.path.join(repository, "classification", "models"), kwargs).eval()
    wanted = model.state_dict()
    model.load_state_dict({name: value.view(wanted[name].shape) for name, value in tensorfile.load(weights).items()})
    op = model.layers[layer].blocks[block].op
    op.__dict__["__DEBUG__"] = True
    with dump_reference.without_gpu_kernels(model):
        model(tensorfile.load(image)["input"])
    data, ours = op.__data__, tensorfile.load(maps)["weight"].double()
    height, width = ours.shape[1:]
    attention = attention_class(repository)
    A = -torch.exp(data["A_logs"].double())
    B, C = data["Bs"].double()[0], data["Cs"].double()[0]
    directions, states, length = B.shape
    delta = torch.nn.functional.softplus((data["dts"] + data["delta_bias"][:, None]).double()).view(directions, -1, length)
    pixels = torch.arange(length).view(height, width)
    for k in range(4):
        sequence = (pixels.t() if k % 2 else pixels).reshape(-1)
        sequence = sequence.flip(0) if k >= 2 else sequence
        i = int((sequence == row * width + column).nonzero())
        sums = torch.cumsum(A.view(directions, -1, states)[k][:, :, None] * delta[k][:, None, :], -1)
        decays = torch.exp(torch.clamp(sums[:, :, i : i + 1] - sums, max=0))
        weight = (C[k][None, :, i, None] * decays * B[k][None]).sum(1).mul(delta[k]).mean(0)
        weight[i + 1 :] = 0
        public = attention.attnmap_mamba(data, mode="CwBdtw", ret=f"a{k}")[0][row * width + column].double()
        in_logarithms = (weight - ours[k].reshape(-1)[sequence]).abs().max()
        print(
            f"k{k}: largest weight {weight.abs().max():.3g}, off analyze/ {(public - ours[k].reshape(-1)).abs().max():.1e}, "
            f"off logarithms {in_logarithms:.1e}, smallest sum {sums.min():.0f}"
        )


main()
