#!/usr/bin/env python3
"""Compares the pixels that this project and Pillow (Image.open(…).convert("RGB")) decode from every image in a folder.

    cmake --build --preset cpu --target print_pixels
    compare_with_pillow.py build/cpu/print_pixels FOLDER        (needs pillow and numpy)

Files are selected by extension. Prints a table by format: identical, refused by both, refused by us, read by us alone,
different; then the files of the last three kinds, with the reason. Exit code 1 if one is different or read by us alone.
"""
import collections
import os
import subprocess
import sys
import warnings

from PIL import Image

FORMATS = {"JPEG": "jpg jpeg jpe jfif", "PNG": "png", "WebP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif tiff",
           "PNM": "ppm pgm pbm pnm", "TGA": "tga"}
FORMAT_OF = {"." + ending: name for name, endings in FORMATS.items() for ending in endings.split()}
KINDS = ("identical", "refused by both", "refused by us", "read by us alone", "different")


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def pillow(path):
    """(width, height, hash), or why there is none."""
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
            return str(rgb.width), str(rgb.height), fnv(rgb.tobytes())
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]


def main():
    binary, folder = sys.argv[1:]
    warnings.simplefilter("ignore")
    files = sorted(os.path.join(where, name) for where, _, names in os.walk(folder) for name in names
                   if os.path.splitext(name)[1].lower() in FORMAT_OF)
    ours = subprocess.run([binary], input="\n".join(files) + "\n", capture_output=True, text=True, check=True).stdout
    counts = collections.Counter()
    remarks = collections.defaultdict(list)
    for path, line in zip(files, ours.splitlines(), strict=True):
        got, wanted = tuple(line.split("\t")), pillow(path)
        if got[0] == "error":
            kind = "refused by both" if isinstance(wanted, str) else "refused by us"
            remark = got[1].removeprefix(path + ": ")
        elif isinstance(wanted, str):
            kind, remark = "read by us alone", wanted
        else:
            kind = "identical" if got == wanted else "different"
            remark = "x".join(got[:2]) + " and " + "x".join(wanted[:2])
        format_name = FORMAT_OF[os.path.splitext(path)[1].lower()]
        counts[format_name, kind] += 1
        if kind in KINDS[2:]:
            remarks[kind].append(f"{os.path.relpath(path, folder)}: {remark}")
    print("| | " + " | ".join(KINDS) + " |\n" + "|---" * (len(KINDS) + 1) + "|")
    for name in FORMATS:
        print(f"| {name} | " + " | ".join(str(counts[name, kind]) for kind in KINDS) + " |")
    for kind in KINDS[2:]:
        if remarks[kind]:
            print(f"\n{kind}:")
            print("\n".join("  " + remark for remark in remarks[kind]))
    return 1 if remarks["different"] or remarks["read by us alone"] else 0


sys.exit(main())
