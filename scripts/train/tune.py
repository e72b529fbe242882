"""Times tile sizes of scan.py's and depthwise.py's kernels at the sizes of a model's stages, and prints
the best as VSSM_TILES, a variable that both files read.

    tune.py [--batch 512] [--config vmamba-tiny-imagenet.json]

Variants are first compiled in parallel, each in its own process.
"""

import argparse
import concurrent.futures
import json
import os

import torch
import triton.testing

import depthwise
import scan

HERE = os.path.dirname(os.path.abspath(__file__))
SCAN = [(4, 64, 1), (8, 64, 1), (16, 64, 1), (4, 32, 1), (8, 32, 1), (16, 32, 1)]
VARIANTS = {
    "forward": SCAN,
    "backward": SCAN,
    "depthwise_forward": [(8, 1), (8, 2), (16, 4), (32, 4)],
    "depthwise_backward": [(2, 1), (4, 1), (8, 2), (16, 4)],
}


def call(kind, tile, B, side, D):
    """A function that runs one kernel (scan) or one pass (depthwise) once"""
    x = torch.randn(B, side, side, D, device="cuda").bfloat16()
    if kind.startswith("depthwise"):
        depthwise.TILES[kind] = tile
        weight = torch.randn(9, D, device="cuda")
        if kind == "depthwise_forward":
            return lambda: depthwise.depthwise(x, weight, None)
        return lambda: depthwise.depthwise_backward(x, x, weight, None)
    scan.TILES["forward"] = tile if kind == "forward" else (tile[0], 64, 1)
    scan.TILES["backward"] = tile
    dt = torch.randn(B, side, side, 4, D, device="cuda").bfloat16() - 2
    Bmat, Cmat = torch.randn(2, B, side, side, 4, device="cuda").bfloat16()
    bias, A, Ds = (torch.full((4, D), v, device="cuda") for v in (0.0, -1.0, 1.0))
    inputs = (x, dt, Bmat, Cmat, bias, A, Ds)
    states = scan.scan(*inputs)[1]
    return (lambda: scan.scan(*inputs)) if kind == "forward" else (lambda: scan.scan_backward(x, *inputs, states))


def compile_one(job):
    kind, tile, shapes = job
    for side, D in shapes:
        call(kind, tile, 2, side, D)()
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
    jobs = [(kind, tile, shapes) for kind, tiles in VARIANTS.items() for tile in tiles]
    jobs.sort(key=lambda job: job[0] != "backward")
    with concurrent.futures.ProcessPoolExecutor(16) as pool:
        list(pool.map(compile_one, jobs))
    times = {}
    for kind, tile, _ in jobs:
        parts = [
            depth * triton.testing.do_bench(call(kind, tile, args.batch, s, D), warmup=2, rep=8, return_mode="median")
            for (s, D), (depth, _, _) in zip(shapes, stages)
        ]
        times[kind, tile] = sum(parts)
        print(f"{kind:20} {tile!s:12} {sum(parts):6.2f} ms a step", [round(p, 2) for p in parts], flush=True)
    best = {kind: min(tiles, key=lambda tile: times[kind, tile]) for kind, tiles in VARIANTS.items()}
    pairs = [(times["forward", f] + times["backward", b], f, b) for f in SCAN for b in SCAN if f[0] == b[0]]
    _, best["forward"], best["backward"] = min(pairs)
    print("VSSM_TILES=" + json.dumps(best, separators=(",", ":")))


if __name__ == "__main__":
    main()
