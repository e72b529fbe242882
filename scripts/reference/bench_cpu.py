"""Times the reference model on a CPU and prints one JSON line: VMamba-T [s1l8], float32, by default.

    bench_cpu.py [--threads 2] [--batch 1] [--size 224] [--config FILE] [--runs 20] [--mode eager|trace|compile]

Weights are random: the time does not depend on them.
"""

import argparse
import json
import platform
import statistics
import time

import torch

import vssm

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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--config", help="config.json of another model")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--mode", choices=["eager", "trace", "compile"], default="eager")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = TINY_S1L8
    if args.config:
        with open(args.config) as file:
            config = json.load(file)
    model = vssm.VSSM(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    images = torch.randn(args.batch, 3, args.size, args.size)
    with torch.inference_mode():
        if args.mode == "trace":
            model = torch.jit.freeze(torch.jit.trace(model, images, check_trace=False))
        elif args.mode == "compile":
            model = torch.compile(model, options={"freezing": True})
        for _ in range(args.warmup):
            model(images)
        times = []
        for _ in range(args.runs):
            start = time.perf_counter()
            model(images)
            times.append(time.perf_counter() - start)
    result = {
        "model": config.get("name", "vmamba-tiny-s1l8" if config is TINY_S1L8 else args.config),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "mode": args.mode,
        "threads": args.threads,
        "batch": args.batch,
        "size": args.size,
        "runs": args.runs,
        "median_ms": round(1000 * statistics.median(times), 2),
        "min_ms": round(1000 * min(times), 2),
        "max_ms": round(1000 * max(times), 2),
        "images_per_s": round(args.batch / statistics.median(times), 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
