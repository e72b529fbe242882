"""Times tile sizes of scan.py's kernels at the sizes of a model's stages, and prints the best as VSSM_TILES.

    tune_scan.py [--batch 512] [--config vmamba-tiny-imagenet.json]

Each variant is compiled by a process of its own first, so that compiling takes as long as the slowest.
"""

import argparse
import concurrent.futures
import itertools
import json
import os

import torch
import triton.testing

import scan

HERE = os.path.dirname(os.path.abspath(__file__))
FORWARD = [(BL, BD, w) for BL in (32, 64) for BD in (32, 64) for w in (1, 2, 4)]
BACKWARD = [(BL, BD, w) for BL in (32, 64) for BD in (32, 64) for w in (1, 2, 4) if BL * BD // w <= 2048]


def arguments(B, side, D, device="cuda"):
    x = torch.randn(B, side, side, D, device=device).bfloat16()
    dt = torch.randn(B, side, side, 4, D, device=device).bfloat16() - 2
    Bmat, Cmat = torch.randn(2, B, side, side, 4, device=device).bfloat16()
    bias, A, Ds = torch.zeros(4, D, device=device), -torch.ones(4, D, device=device), torch.ones(4, D, device=device)
    return x, dt, Bmat, Cmat, bias, A, Ds


def run(kind, tile, inputs):
    scan.TILES["forward"] = tile if kind == "forward" else (tile[0], 32, 1)
    scan.TILES["backward"] = tile
    states = scan.scan(*inputs)[1]
    if kind == "forward":
        return lambda: scan.scan(*inputs)
    return lambda: scan.scan_backward(inputs[0], *inputs, states)


def compile_one(job):
    kind, tile, shapes = job
    for side, D in shapes:
        run(kind, tile, arguments(2, side, D))()
    torch.cuda.synchronize()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--config", default=os.path.join(HERE, "vmamba-tiny-imagenet.json"))
    args = parser.parse_args()
    with open(args.config) as file:
        config = json.load(file)
    side = config["imgsize"] // config["patch_size"]
    stages = list(zip(config["depths"], (side >> i for i in range(9)), config["dims"]))
    shapes = [(s, int(D * config["ssm_ratio"])) for _, s, D in stages]
    jobs = [(kind, t, shapes) for kind, ts in (("forward", FORWARD), ("backward", BACKWARD)) for t in ts]
    with concurrent.futures.ProcessPoolExecutor(12) as pool:
        list(pool.map(compile_one, jobs))
    times = {}
    for (side, D), (depth, _, _) in zip(shapes, stages):
        inputs = arguments(args.batch, side, D)
        for kind, tile, _ in jobs:
            ms = triton.testing.do_bench(run(kind, tile, inputs), warmup=2, rep=8, return_mode="median")
            times.setdefault((kind, tile), []).append(ms * depth)
    for (kind, tile), parts in sorted(times.items(), key=lambda item: (item[0][0], sum(item[1]))):
        print(kind, tile, f"{sum(parts):.2f} ms a step", [round(p, 2) for p in parts], flush=True)
    pairs = [
        (sum(times["forward", f]) + sum(times["backward", b]), f, b)
        for f, b in itertools.product(FORWARD, BACKWARD)
        if f[0] == b[0]
    ]
    _, forward, backward = min(pairs)
    print("VSSM_TILES=" + json.dumps({"forward": forward, "backward": backward}, separators=(",", ":")))


if __name__ == "__main__":
    main()
