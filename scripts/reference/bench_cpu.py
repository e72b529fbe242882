"""Times the reference model on a CPU and prints one JSON line: VMamba-T [s1l8], float32, by default.

    bench_cpu.py [--threads 2] [--batch 1] [--size 224] [--config FILE] [--runs 20] [--mode best]

Modes: eager; trace: torch.jit.trace and freeze; optimize: torch.jit.optimize_for_inference on top;
compile: torch.compile with freezing, except the scan; best: tries all modes that work and reports the fastest.
Weights are random; the time does not depend on them.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import sys
import time
import warnings

TINY_S1L8 = {
    "depths": [2, 2, 8, 2],
    "dims": 96,
    "ssm_d_state": 1,
    "ssm_ratio": 1.0,
    "ssm_conv_bias": False,
    "forward_type": "v05_noz",
    "norm_layer": "ln2d",
    "downsample_version": "v3",
    "patchembed_version": "v2",
}


MODES = ("eager", "trace", "optimize", "compile")


def build(mode, config, images):
    import torch
    import vssm

    torch.manual_seed(0)
    scan = vssm.selective_scan_2d
    model = vssm.VSSM(config, scan=torch.compiler.disable(scan) if mode == "compile" else scan).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    if mode == "eager":
        return model
    if mode == "compile":
        return torch.compile(model, options={"freezing": True})
    model = torch.jit.freeze(torch.jit.trace(model, images, check_trace=False))
    return torch.jit.optimize_for_inference(model) if mode == "optimize" else model


def measure(model, images, warmup, runs):
    times = []
    for i in range(warmup + runs):
        start = time.perf_counter()
        model(images)
        times.append(time.perf_counter() - start)
    return times[warmup:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--config", help="config.json of another model")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--mode", choices=MODES + ("best",), default="best")
    args = parser.parse_args()
    for library in ("OMP", "MKL", "OPENBLAS"):  # read when torch is imported
        os.environ[f"{library}_NUM_THREADS"] = str(args.threads)
    import torch

    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    config = TINY_S1L8
    if args.config:
        with open(args.config) as file:
            config = json.load(file)
    images = torch.randn(args.batch, 3, args.size, args.size)
    found, wanted = {}, None
    for mode in MODES if args.mode == "best" else (args.mode,):
        try:
            with torch.inference_mode():
                model = build(mode, copy.deepcopy(config), images)
                logits = model(images)
                if wanted is not None and not torch.allclose(logits, wanted, rtol=1e-3, atol=1e-4):
                    raise RuntimeError("other logits than in eager mode")
                wanted = logits.clone()
                found[mode] = measure(model, images, args.warmup, args.runs)
        except Exception as error:
            if args.mode != "best":
                raise
            print(f"mode {mode} does not work here: {str(error).strip().splitlines()[-1][:200]}", file=sys.stderr)
    best = min(found, key=lambda mode: statistics.median(found[mode]))
    times = found[best]
    result = {
        "model": config.get("name", "vmamba-tiny-s1l8" if config is TINY_S1L8 else args.config),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "mode": best,
        "threads": args.threads,
        "batch": args.batch,
        "size": args.size,
        "runs": args.runs,
        "median_ms": round(1000 * statistics.median(times), 2),
        "min_ms": round(1000 * min(times), 2),
        "max_ms": round(1000 * max(times), 2),
        "images_per_s": round(args.batch / statistics.median(times), 2),
        "medians_ms": {mode: round(1000 * statistics.median(t), 2) for mode, t in found.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
