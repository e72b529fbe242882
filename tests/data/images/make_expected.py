"""Writes expected.tsv, what Pillow makes of every image of these tests; with --images the small images as well.

    python3 make_expected.py [--images]        (needs pillow and numpy)

All by Pillow 13.0.

A line of expected.tsv is  file, step, FNV-1a 64 of the RGB bytes; the step is "decode", or
"RESIZE CROP INTERPOLATION" for the evaluation transform of torchvision with those sizes.
"""
import os
import struct
import sys
import zlib

import numpy as np
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & (2**64 - 1)
    return f"{value:016x}"


def crop(image, size, side, interpolation):
    """Short side to `size`, then the centre side × side, black where there is nothing."""
    w, h = image.size
    short, long = min(w, h), max(w, h)
    resized = int(size * long / short)
    shape = (size, resized) if w <= h else (resized, size)
    if shape != image.size:
        # Across, then down: Pillow 13 takes the other order for some tall images, and differs there by 1.
        for step in ((shape[0], h), shape):
            image = image.resize(step, getattr(Image.Resampling, interpolation.upper()))
    w, h = image.size
    if side > w or side > h:
        left, top = max(side - w, 0) // 2, max(side - h, 0) // 2
        padded = Image.new("RGB", (max(side, w), max(side, h)))
        padded.paste(image, (left, top))
        image = padded
        w, h = image.size
    left, top = int(round((w - side) / 2.0)), int(round((h - side) / 2.0))
    return image.crop((left, top, left + side, top + side))


def png(path, width, height, depth, color, rows, interlaced=0):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) +
                chunk(b"IEND", b""))


def adam7(pixels):
    rows = b""
    for x, y, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)):
        part = pixels[y::dy, x::dx]
        if part.size:
            rows += b"".join(b"\0" + row.tobytes() for row in part)
    return rows


def write_small():
    cat = Image.open(os.path.join(HERE, "..", "chelsea.png")).convert("RGB")
    small = cat.resize((61, 47))
    rng = np.random.default_rng(0)
    faded = small.copy()
    faded.putalpha(Image.fromarray(rng.integers(0, 256, (47, 61), dtype=np.uint8)))
    turned = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    def save(image, name, **options):
        image.save(os.path.join(HERE, name), **options)

    save(small, "rgb.bmp")
    save(small.convert("P"), "palette.bmp")
    save(small.convert("1"), "1bit.bmp")
    save(faded, "rgba.bmp")
    save(faded, "rgba.png")
    save(small, "colour_key.png", transparency=small.getpixel((5, 5)))
    save(small.convert("P", palette=Image.ADAPTIVE, colors=4), "palette_2bit.png", bits=2)
    save(small.convert("P"), "palette.gif")
    save(small.convert("P"), "transparent.gif", transparency=small.convert("P").getpixel((9, 9)))
    save(small, "animated.gif", save_all=True, append_images=[turned])
    save(faded, "lossless_alpha.webp", lossless=True, exact=True)
    save(small, "lossy.webp")
    save(small, "animated.webp", save_all=True, append_images=[turned])
    save(small, "444_progressive.jpg", subsampling=0, progressive=True)
    save(small, "420_restart.jpg", restart_marker_blocks=3)
    save(small, "rgb_components.jpg", keep_rgb=True)
    pixels = np.asarray(small)
    png(os.path.join(HERE, "interlaced.png"), 61, 47, 8, 2, adam7(pixels), interlaced=1)
    wide = pixels.astype(np.uint16) << 8 | rng.integers(0, 256, pixels.shape, dtype=np.uint16)
    png(os.path.join(HERE, "rgb_16bit.png"), 61, 47, 16, 2,
        b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide))
    png(os.path.join(HERE, "gray_16bit.png"), 61, 47, 16, 0,
        b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide[:, :, 1]))
    # 1 × 1 pixel whose data inflates to 4 MB.
    png(os.path.join(HERE, "bomb.png"), 1, 1, 8, 2, bytes(4 << 20))


def main():
    if "--images" in sys.argv[1:]:
        write_small()
    lines = []
    endings = (".png", ".jpg", ".webp", ".bmp", ".gif")
    files = ["../chelsea.png", "../coffee.png"] + sorted(f for f in os.listdir(HERE) if f.endswith(endings) and f != "bomb.png")
    for name in files:
        image = Image.open(os.path.join(HERE, name))
        image = image.convert("RGB")
        steps = [(256, 224, "bicubic"), (73, 64, "bicubic")]
        if name in ("../coffee.png", "tiny_3x2.png", "tall_37x800.png", "rgb.bmp"):
            steps += [(256, 224, "bilinear"), (100, 131, "bicubic"), (31, 30, "bilinear"), (64, 64, "bicubic")]
        lines.append(f"{name}\tdecode\t{fnv(image.tobytes())}")
        for size, side, interpolation in steps:
            lines.append(f"{name}\t{size} {side} {interpolation}\t{fnv(crop(image, size, side, interpolation).tobytes())}")
    with open(os.path.join(HERE, "expected.tsv"), "w") as f:
        f.write("\n".join(lines) + "\n")


main()
