"""Times VMamba-T [s1l8] in PyTorch on a GPU, in 16 bits, replayed as a CUDA graph; prints one JSON line per batch size.

    bench_cuda.py [--batch 1,128] [--dtype float16] [--runs 60]

The model is vssm.py with the scan and the depthwise convolution of scripts/train (Triton), its blocks compiled
(torch.compile) and all weights in `dtype`. Weights are random.
"""

import argparse
import functools
import json
import os
import statistics
import sys

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "train"))

import vssm
from bench_cpu import TINY_S1L8
from depthwise import depthwise_silu
from scan import selective_scan_2d


def build(dtype):
    torch.manual_seed(0)
    model = vssm.VSSM(TINY_S1L8, scan=selective_scan_2d, depthwise=depthwise_silu).eval().cuda().to(dtype)
    torch._dynamo.config.recompile_limit = 64
    for kind in (vssm.Block, vssm.PatchEmbed, vssm.Downsample):
        compiled = torch.compile(kind.forward, dynamic=False)
        for module in model.modules():
            if isinstance(module, kind):
                module.forward = functools.partial(compiled, module)
    return model


def captured(model, images):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(images)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(images)
    return graph


def median_ms(graph, runs):
    for _ in range(10):
        graph.replay()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
    events[0].record()
    for event in events[1:]:
        graph.replay()
        event.record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in zip(events, events[1:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", default="1,128")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--runs", type=int, default=60)
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    model = build(dtype)
    with torch.inference_mode():
        for batch in map(int, args.batch.split(",")):
            images = torch.randn(batch, 3, 224, 224, device="cuda", dtype=dtype)
            ms = median_ms(captured(model, images), args.runs)
            result = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(), "dtype": args.dtype}
            print(json.dumps({**result, "batch": batch, "median_ms": round(ms, 3), "images_per_s": round(1000 * batch / ms)}))


if __name__ == "__main__":
    main()
