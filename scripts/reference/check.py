"""Compares vssm.py with reference vectors: folders of config.json, weights.safetensors, io.safetensors.

    check.py FOLDER [NAME…] [--scan fast|sequential] [--rtol 1e-5]

An error is the largest difference over the largest reference value. Exit status 1 if any exceeds rtol.
"""

import argparse
import os
import sys

import torch

import tensorfile
import vssm

SCANS = {"fast": vssm.selective_scan_2d, "sequential": vssm.sequential_scan_2d}


def errors(folder, scan):
    model = vssm.load_model(f"{folder}/config.json", f"{folder}/weights.safetensors", scan=scan)
    reference = tensorfile.load(f"{folder}/io.safetensors")
    taps = {}
    with torch.inference_mode():
        taps["logits"] = model(reference.pop("input"), taps)
    return {
        name: ((taps[name] - wanted).abs().max() / wanted.abs().max()).item() for name, wanted in reference.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--scan", choices=SCANS, default="fast")
    parser.add_argument("--rtol", type=float, default=1e-5)
    args = parser.parse_args()
    failed = skipped = 0
    names = args.names or sorted(os.listdir(args.folder))
    for name in names:
        try:
            found = errors(os.path.join(args.folder, name), SCANS[args.scan])
        except ValueError as error:
            print(f"skip  {name}: {error}")
            skipped += 1
            continue
        worst = max(found, key=found.get)
        good = all(value <= args.rtol for value in found.values())
        failed += not good
        print(f"{'ok  ' if good else 'FAIL'}  {name}: {len(found)} tensors, worst {found[worst]:.1e} ({worst})")
    print(f"{len(names) - failed - skipped} ok, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed or skipped == len(names) else 0)


if __name__ == "__main__":
    main()
