"""Writes small files of every kind that decoders like to get wrong beside itself, and expected.tsv, what Pillow makes of
them: file, "decode", FNV-1a 64 of the RGB bytes; or file, "refused", nothing.

    python3 make_odd.py        (needs pillow 13)
"""
import os
import struct
import zlib

from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
PHOTO = os.path.join(HERE, "..", "images", "rgb.bmp")


# Pillow reads these; this program does not: pixels of 8 bits taken for ones of 1, no palette, a cut in the sum that shows
# whether the pixels are right, scans that are guessed, colours that need a colour profile.
REFUSED = ("one_black.bmp", "no_palette.png", "cut_zlib_sum.png", "progressive_few_scans.jpg", "lab.tif", "ycbcr_raw.tif",
           "one_bit.tga", "palette_index_beyond.tga", "palette_start.tga")


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & (2**64 - 1)
    return f"{value:016x}"


def write(name, data):
    with open(os.path.join(HERE, name), "wb") as f:
        f.write(data)


# --- BMP

COLORS = [(10 * i % 256, 255 - 7 * i % 256, 3 * i % 256) for i in range(256)]  # blue, green, red


def bmp(bits, width, height, pixels, header=40, coding=0, colors=None, count=0, masks=(), gap=0, offset=None,
        top_down=False):
    rows = -height if top_down else height
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
        table = b"".join(bytes(c) for c in colors or [])
    else:
        info = struct.pack("<IiiHHIIiiII", 40, width, rows, 1, bits, coding, len(pixels), 2835, 2835, count, 0)
        packed = struct.pack(f"<{len(masks)}I", *masks)
        info = struct.pack("<I", header) + info[4:] + packed
        info = info.ljust(max(header, len(info) if header == 40 else header), b"\0")
        table = b"".join(bytes(c) + b"\0" for c in colors or [])
    start = 14 + len(info) + len(table) + gap
    where = start if offset is None else offset
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, where) + info + table + b"\xee" * gap + pixels


def rows(bits, width, height, value):
    out = b""
    for y in range(height):
        number = 0
        for x in range(width):
            number = number << bits | value(x, y) & ((1 << bits) - 1)
        used = width * bits
        padded = (used + 31) // 32 * 32
        out += (number << (padded - used)).to_bytes(padded // 8, "big")
    return out


def write_bmp():
    index = lambda x, y: x * 5 + y * 3
    for bits in (1, 4, 8):
        few = COLORS[:1 << bits]
        write(f"core_{bits}bit.bmp", bmp(bits, 13, 5, rows(bits, 13, 5, index), header=12, colors=few))
        write(f"palette_{bits}bit.bmp", bmp(bits, 13, 5, rows(bits, 13, 5, index), colors=few))
    write("short_palette_8bit.bmp", bmp(8, 16, 16, rows(8, 16, 16, lambda x, y: y * 16 + x), colors=COLORS[:5], count=5))
    write("short_palette_4bit.bmp", bmp(4, 16, 2, rows(4, 16, 2, lambda x, y: x), colors=COLORS[:3], count=3))
    write("one_black.bmp", bmp(8, 16, 16, rows(8, 16, 16, lambda x, y: y * 16 + x), colors=[(0, 0, 0)], count=1))
    write("one_black_1bit.bmp", bmp(1, 13, 3, rows(1, 13, 3, lambda x, y: x + y), colors=[(0, 0, 0)], count=1))
    grey = [(i, i, i) for i in range(256)]
    write("grey.bmp", bmp(8, 16, 16, rows(8, 16, 16, lambda x, y: y * 16 + x), colors=grey))
    write("grey_ramp_of_nine.bmp", bmp(8, 16, 16, rows(8, 16, 16, lambda x, y: y * 16 + x), colors=grey[:9], count=9))
    write("grey_ramp_4bit.bmp", bmp(4, 8, 2, rows(4, 8, 2, index), colors=grey[:16]))
    write("too_many_colors.bmp", bmp(8, 8, 2, rows(8, 8, 2, index), colors=COLORS + COLORS[:9], count=265))
    write("black_and_white.bmp", bmp(1, 13, 3, rows(1, 13, 3, index), colors=[(0, 0, 0), (255, 255, 255)]))
    write("white_and_black.bmp", bmp(1, 13, 3, rows(1, 13, 3, index), colors=[(255, 255, 255), (0, 0, 0)]))
    color = lambda x, y: 0x10203 * (x + 1) + 0x40506 * y
    for header in (40, 52, 56, 64, 108, 124):
        write(f"header_{header}.bmp", bmp(24, 5, 4, rows(24, 5, 4, color), header=header))
    write("header_41.bmp", bmp(24, 5, 4, rows(24, 5, 4, color), header=41))
    write("24bit_palette.bmp", bmp(24, 5, 4, rows(24, 5, 4, color), colors=COLORS[:7], count=7))
    write("gap.bmp", bmp(8, 5, 4, rows(8, 5, 4, index), colors=COLORS, gap=23))
    write("pixels_at_palette.bmp", bmp(8, 5, 4, rows(8, 5, 4, index), colors=COLORS, offset=54))
    write("pixels_at_0.bmp", bmp(8, 5, 4, rows(8, 5, 4, index), colors=COLORS, offset=0))
    write("top_down.bmp", bmp(24, 5, 4, rows(24, 5, 4, color), top_down=True))
    write("cut.bmp", bmp(24, 5, 4, rows(24, 5, 4, color))[:-4])
    write("cut_padding.bmp", bmp(24, 5, 4, rows(24, 5, 4, color))[:-1])
    deep = lambda x, y: 0x1357 * (x + 3) + 0x2468 * y
    write("16bit.bmp", bmp(16, 5, 4, rows(16, 5, 4, deep)))
    write("565.bmp", bmp(16, 5, 4, rows(16, 5, 4, deep), coding=3, masks=(0xF800, 0x7E0, 0x1F)))
    write("555.bmp", bmp(16, 5, 4, rows(16, 5, 4, deep), coding=3, masks=(0x7C00, 0x3E0, 0x1F)))
    write("444.bmp", bmp(16, 5, 4, rows(16, 5, 4, deep), coding=3, masks=(0xF00, 0xF0, 0xF)))
    full = lambda x, y: 0x10203040 * (x + 1) + 0x01050709 * y
    write("32bit.bmp", bmp(32, 5, 4, rows(32, 5, 4, full)))
    for name, masks in {"bgrx": (0xFF0000, 0xFF00, 0xFF, 0), "xbgr": (0xFF000000, 0xFF0000, 0xFF00, 0),
                        "bgxr": (0xFF000000, 0xFF00, 0xFF, 0), "abgr": (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
                        "rgba": (0xFF, 0xFF00, 0xFF0000, 0xFF000000), "bgar": (0xFF000000, 0xFF00, 0xFF, 0xFF0000),
                        "none": (0, 0, 0, 0), "odd": (0xFF, 0xFF00, 0xFF0000, 0)}.items():
        write(f"{name}.bmp", bmp(32, 5, 4, rows(32, 5, 4, full), header=56, coding=3, masks=masks))
    write("three_masks.bmp", bmp(32, 5, 4, rows(32, 5, 4, full), header=40, coding=3, masks=(0xFF0000, 0xFF00, 0xFF)))
    # Runs: encoded, absolute (padded), a jump, rows that end early or too late.
    rle8 = bytes([5, 7, 0, 3, 1, 2, 3, 0, 0, 0, 9, 1, 0, 0, 0, 2, 2, 1, 3, 9, 0, 0, 0, 4, 4, 5, 6, 7, 0, 0, 8, 200, 0, 1])
    write("rle8.bmp", bmp(8, 8, 5, rle8, coding=1, colors=COLORS))
    write("rle8_early_end.bmp", bmp(8, 8, 5, rle8[:12] + b"\0\1", coding=1, colors=COLORS))
    write("rle8_cut.bmp", bmp(8, 8, 5, rle8[:12], coding=1, colors=COLORS))
    rle4 = bytes([5, 0x12, 0, 3, 0x34, 0x50, 0, 0, 8, 0x9A, 0, 0, 0, 8, 1, 0x23, 0x45, 0x67, 0, 0, 8, 0xFF])
    write("rle4.bmp", bmp(4, 8, 4, rle4, coding=2, colors=COLORS[:16]))
    write("rle4_jump.bmp", bmp(4, 8, 4, bytes([2, 0x12, 0, 2, 3, 3, 3, 0x45, 0, 0]), coding=2, colors=COLORS[:16]))


# --- GIF

def gif_codes(codes, bits):
    """[(code, size)] → blocks behind the number of literal bits."""
    number = at = 0
    for code, size in codes:
        number |= code << at
        at += size
    data = number.to_bytes((at + 7) // 8, "little")
    out = bytes([bits])
    for i in range(0, len(data), 255):
        out += bytes([len(data[i:i + 255])]) + data[i:i + 255]
    return out + b"\0"


def literal_codes(indices, bits):
    """Every index as it is, a clear code before the size would grow."""
    codes, clear = [], 1 << bits
    for i, index in enumerate(indices):
        if i % (clear - 2) == 0:
            codes.append((clear, bits + 1))
        codes.append((index, bits + 1))
    return codes + [(clear + 1, bits + 1)]


def gif(canvas, frame, indices, colors=None, local=None, bits=8, transparent=None, interlaced=False, end=b";", codes=None):
    def table(c):
        size = max(1, (len(c) - 1).bit_length())
        return size - 1, b"".join(bytes(x) for x in c).ljust(3 << size, b"\0")
    out = b"GIF89a" + struct.pack("<HH", *canvas)
    if colors:
        flags, data = table(colors)
        out += bytes([0x80 | flags, 0, 0]) + data
    else:
        out += bytes(3)
    if transparent is not None:
        out += bytes([0x21, 0xF9, 4, 1, 0, 0, transparent, 0])
    flags, data = table(local) if local else (0, b"")
    out += b"," + struct.pack("<HHHH", *frame) + bytes([(0x80 | flags if local else 0) | (0x40 if interlaced else 0)]) + data
    return out + gif_codes(codes or literal_codes(indices, bits), bits) + end


def write_gif():
    picture = [x * 7 + y * 16 & 255 for y in range(9) for x in range(11)]
    write("plain.gif", gif((11, 9), (0, 0, 11, 9), picture, COLORS))
    write("interlaced.gif", gif((11, 9), (0, 0, 11, 9), picture, COLORS, interlaced=True))
    write("interlaced_1_row.gif", gif((11, 1), (0, 0, 11, 1), picture[:11], COLORS, interlaced=True))
    write("short_palette.gif", gif((11, 9), (0, 0, 11, 9), picture, COLORS[:4]))
    write("short_grey_palette.gif", gif((11, 9), (0, 0, 11, 9), picture, [(i, i, i) for i in range(8)]))
    write("no_palette.gif", gif((11, 9), (0, 0, 11, 9), picture))
    write("local_palette.gif", gif((11, 9), (0, 0, 11, 9), picture, COLORS[9:25], COLORS[3:35]))
    write("smaller_frame.gif", gif((20, 15), (3, 2, 11, 9), picture, COLORS))
    write("smaller_frame_transparent.gif", gif((20, 15), (3, 2, 11, 9), picture, COLORS, transparent=77))
    write("larger_frame.gif", gif((5, 4), (3, 2, 11, 9), picture, COLORS))
    write("no_end.gif", gif((11, 9), (0, 0, 11, 9), picture, COLORS, end=b""))
    write("no_terminator.gif", gif((11, 9), (0, 0, 11, 9), picture, COLORS, end=b"")[:-1])
    write("cut.gif", gif((11, 9), (0, 0, 11, 9), picture, COLORS)[:-20])
    write("no_image.gif", gif((11, 9), (0, 0, 11, 9), picture, COLORS)[:13 + 768] + b";")
    write("early_end.gif", gif((11, 9), (0, 0, 11, 9), picture[:40], COLORS))
    write("code_beyond.gif", gif((11, 9), (0, 0, 11, 9), [], COLORS, codes=[(256, 9), (1, 9), (300, 9)]))
    write("no_clear.gif", gif((3, 1), (0, 0, 3, 1), [], COLORS[:4], bits=2, codes=[(1, 3), (2, 3), (3, 3), (5, 4)]))
    plain = gif((11, 9), (0, 0, 11, 9), picture, COLORS)
    write("garbage_between.gif", plain[:781] + b"\1\2" + plain[781:])
    # A table that fills up and is kept: 20 000 pixels without a clear code but the first.
    indices = [(i * i // 7 + i) % 4 for i in range(20000)]
    codes, size = [(4, 3)], 3
    entries = {(i,): i for i in range(4)}
    text, free = (), 6
    for index in indices:
        if text + (index,) in entries:
            text += (index,)
            continue
        codes.append((entries[text], size))
        if free < 4096:
            entries[text + (index,)] = free
            if free == 1 << size and size < 12:
                size += 1
            free += 1
        text = (index,)
    codes += [(entries[text], size), (5, size)]
    write("full_table.gif", gif((200, 100), (0, 0, 200, 100), [], COLORS[:4], bits=2, codes=codes))


# --- PNG

def chunk(kind, data, crc=None):
    return (struct.pack(">I", len(data)) + kind + data +
            (struct.pack(">I", zlib.crc32(kind + data)) if crc is None else crc))


def png(width, height, depth, color, data, before=b"", idat_crc=None, interlaced=0, level=9):
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(data, level), idat_crc) +
            chunk(b"IEND", b""))


def write_png():
    plte = chunk(b"PLTE", bytes(range(3, 18)))  # five colours
    every = b"".join(b"\0" + bytes(range(16 * y, 16 * y + 16)) for y in range(16))
    write("short_palette.png", png(16, 16, 8, 3, every, plte))
    write("short_palette_4bit.png", png(16, 1, 4, 3, b"\0" + bytes.fromhex("0123456789abcdef"), plte))
    write("no_palette.png", png(16, 16, 8, 3, every))
    grey = b"".join(b"\0" + bytes((x * 9 + y * 17) & 255 for x in range(7)) for y in range(5))
    whole = png(7, 5, 8, 0, grey)
    write("grey.png", whole)
    write("no_end.png", whole[:-12])
    write("cut_end.png", whole[:-5])
    write("bad_end_crc.png", whole[:-4] + b"\1\2\3\4")
    write("bad_idat_crc.png", png(7, 5, 8, 0, grey, idat_crc=b"\1\2\3\4"))
    write("cut_idat_crc.png", whole[:-14])
    write("cut_zlib_sum.png", whole[:-18])
    write("cut_data.png", whole[:-30])
    write("short_data.png", png(7, 5, 8, 0, grey[:-3]))
    write("long_data.png", png(7, 5, 8, 0, grey + bytes(99)))
    at = whole.index(b"IDAT") + 14
    write("bad_data.png", whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1:])
    stored = png(7, 5, 8, 0, grey, level=0)
    at = stored.index(b"IDAT") + 4 + 12
    write("bad_stored_data.png", stored[:at] + bytes([stored[at] ^ 0x10]) + stored[at + 1:])
    write("bad_header_crc.png", whole[:29] + b"\1\2\3\4" + whole[33:])
    write("bad_text_crc.png", png(7, 5, 8, 0, grey, chunk(b"tEXt", b"a\0b", b"\1\2\3\4")))
    deep = b"".join(b"\0" + b"".join(struct.pack(">H", x * 60 + y * 3000) for x in range(7)) for y in range(5))
    write("grey_16bit.png", png(7, 5, 16, 0, deep))
    low = b"".join(b"\0" + b"".join(struct.pack(">H", x * 30 + y) for x in range(7)) for y in range(5))
    write("grey_16bit_low.png", png(7, 5, 16, 0, low))
    pair = b"".join(b"\0" + b"".join(struct.pack(">HH", x * 9000, y * 9000) for x in range(7)) for y in range(5))
    write("grey_alpha_16bit.png", png(7, 5, 16, 4, pair))
    wide = b"".join(b"\0" + b"".join(struct.pack(">HHHH", x * 9000, y * 9000, x * y, 99) for x in range(7)) for y in range(5))
    write("rgba_16bit.png", png(7, 5, 16, 6, wide))
    for depth in (1, 2, 4):
        packed = b"".join(b"\0" + bytes((x * 37 + y * 11) & 255 for x in range((9 * depth + 7) // 8)) for y in range(5))
        write(f"grey_{depth}bit.png", png(9, 5, depth, 0, packed))
        write(f"palette_{depth}bit.png", png(9, 5, depth, 3, packed, chunk(b"PLTE", bytes(range(3 << depth)))))
    for size, name in ((1, "interlaced_1x1"), (9, "interlaced_9x9")):
        data = b""
        for x, y, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
                             (0, 1, 1, 2)):
            for row in range(y, size, dy):
                if x < size:
                    data += b"\0" + bytes((row * 20 + column * 3) & 255 for column in range(x, size, dx))
        write(name + ".png", png(size, size, 8, 0, data, interlaced=1))
        write(name + "_no_end.png", png(size, size, 8, 0, data, interlaced=1)[:-12])


# --- JPEG

def write_jpeg():
    picture = Image.open(PHOTO)
    picture.save(os.path.join(HERE, "whole.jpg"), quality=60)
    with open(os.path.join(HERE, "whole.jpg"), "rb") as f:
        whole = f.read()
    picture.save(os.path.join(HERE, "progressive.jpg"), quality=60, progressive=True)
    with open(os.path.join(HERE, "progressive.jpg"), "rb") as f:
        progressive = f.read()
    for name, data in (("whole", whole), ("progressive", progressive)):
        write(name + "_zeroed_end.jpg", data[:-2] + b"\0\0")
        write(name + "_zeroes_for_end.jpg", data[:-2] + bytes(20))
        write(name + "_no_end.jpg", data[:-2])
        write(name + "_text_after.jpg", data + b"and more")
        write(name + "_cut.jpg", data[:len(data) * 2 // 3])
    write("progressive_few_scans.jpg", progressive[:progressive.rindex(b"\xff\xc4")] + b"\xff\xd9")


# --- PNM

def write_pnm():
    write("p1.pbm", b"P1\n# comment\n5 3\n10101\n0 1 0 1 0\n11#x\n100")
    write("p1_bad.pbm", b"P1\n5 3\n10101\n01012\n11100")
    write("p1_short.pbm", b"P1\n5 3\n1010101010111\n")
    write("p2.pgm", b"P2\n3 2\n255\n0 1 2\n253 254 255")
    write("p2_scaled.pgm", b"P2\n4 2\n9\n0 1 2 3 4 5 8 9\n")
    write("p2_16bit.pgm", b"P2\n4 2\n1000\n0 1 2 3 4 5 900 1000\n")
    write("p2_too_large.pgm", b"P2\n2 1\n9\n0 10\n")
    write("p2_short.pgm", b"P2\n2 2\n9\n0 1 2\n")
    write("p2_long_token.pgm", b"P2\n2 1\n9\n00000000001 1\n")
    write("p3.ppm", b"P3 2 2 255 1 2 3 4 5 6 7 8 9 10 11 12")
    write("p3_16bit.ppm", b"P3 2 2 1023 1 2 3 400 500 600 700 800 900 1000 1011 1023")
    write("p4.pbm", b"P4\n13 3\n" + bytes([0xAA, 0x50, 0x0F, 0xF0, 0x12, 0x38]))
    write("p4_cut.pbm", b"P4\n13 3\n" + bytes([0xAA, 0x50, 0x0F, 0xF0, 0x12]))
    write("p5.pgm", b"P5\n5 2\n255\n" + bytes([0, 1, 50, 100, 200, 201, 202, 253, 254, 255]))
    write("p5_scaled.pgm", b"P5 5 2 100\n" + bytes([0, 1, 2, 33, 49, 50, 51, 98, 99, 100]))
    write("p5_beyond.pgm", b"P5 2 2 100\n" + bytes([0, 99, 101, 255]))
    write("p5_16bit.pgm", b"P5\n4 2\n65535\n" + struct.pack(">8H", 0, 1, 200, 255, 256, 300, 40000, 65535))
    write("p5_12bit.pgm", b"P5\n4 2\n4095\n" + struct.pack(">8H", 0, 1, 2, 15, 16, 17, 18, 4095))
    write("p6.ppm", b"P6 2 2 255\n" + bytes(range(100, 112)))
    write("p6_scaled.ppm", b"P6 2 2 31\n" + bytes(range(20, 32)))
    write("p6_16bit.ppm", b"P6 2 2 65535\n" + struct.pack(">12H", *range(0, 65536, 5957)))
    write("p6_cut.ppm", b"P6 2 2 255\n" + bytes(range(100, 111)))
    write("p6_zero.ppm", b"P6 0 2 255\n")
    write("p6_comment.ppm", b"P6\n#a\n2#b\n 2\n255\n" + bytes(range(100, 112)))
    write("p6_no_max.ppm", b"P6 2 2 0\n" + bytes(12))


# --- TGA

def tga(kind, bits, data, palette=b"", map_bits=0, map_start=0, descriptor=0x20, entries=None):
    """3 x 2 pixels, with 4 bytes of identification."""
    if entries is None:
        entries = len(palette) * 8 // map_bits if map_bits else 0
    header = struct.pack("<BBBHHBHHHHBB", 4, 1 if map_bits else 0, kind, map_start, entries, map_bits, 0, 0, 3, 2, bits,
                         descriptor)
    return header + b"id: " + palette + data


def write_tga():
    colours = bytes(range(0, 252, 14))
    palette = bytes([10, 20, 30, 40, 50, 60, 70, 80, 90])
    write("colour.tga", tga(2, 24, colours))
    write("bottom_up.tga", tga(2, 24, colours, descriptor=0))
    write("right_to_left.tga", tga(2, 24, colours, descriptor=0x30))
    write("alpha.tga", tga(2, 32, bytes(range(100, 124)), descriptor=0x28))
    write("555.tga", tga(2, 16, struct.pack("<6H", 0, 0x7FFF, 0x7C00, 0x3E0, 0x1F, 0x8421)))
    write("grey.tga", tga(3, 8, bytes([0, 50, 100, 150, 200, 255])))
    write("grey_alpha.tga", tga(3, 16, bytes(range(12, 24))))
    write("grey_cut.tga", tga(3, 8, bytes([0, 50, 100, 150, 200])))
    write("palette.tga", tga(1, 8, bytes([0, 1, 2, 2, 1, 0]), palette, 24))
    write("palette_555.tga", tga(1, 8, bytes([0, 1, 1, 1, 1, 0]), struct.pack("<2H", 0x1234, 0x7654), 16))
    write("palette_index_beyond.tga", tga(1, 8, bytes([0, 1, 2, 3, 1, 0]), palette, 24))
    write("palette_start.tga", tga(1, 8, bytes([1, 2, 3, 3, 2, 1]), palette, 24, map_start=1))
    write("palette_missing.tga", tga(1, 8, bytes([0, 1, 2, 2, 1, 0]), b"", 24, entries=200))
    write("runs.tga", tga(10, 24, b"\x81" + bytes([1, 2, 3]) + b"\x01" + bytes(range(4, 10)) + b"\x81" + bytes([7, 8, 9])))
    write("runs_across_rows.tga", tga(11, 8, bytes([0x84, 77, 0x00, 99])))
    write("literal_across_rows.tga", tga(11, 8, bytes([0x04, 1, 2, 3, 4, 5, 0x80, 99])))
    write("runs_cut.tga", tga(10, 24, b"\x81" + bytes([1, 2, 3]) + b"\x03" + bytes(range(4, 10))))
    write("runs_palette.tga", tga(9, 8, bytes([0x82, 1, 0x02, 0, 2, 1]), palette, 24))
    write("one_bit.tga", tga(3, 1, bytes([0xA0, 0x40])))


# --- TIFF

def tiff(width, height, bits, samples, photometric, data, order="<", compression=1, extra=(), colormap=(), orientation=1,
         planes=1, sample_format=None, tile=None, rows_per_strip=None, tags=()):
    """One strip, or strips or tiles that follow each other in `data` (a list)."""
    parts = data if isinstance(data, list) else [data]
    entries = [(256, 3, [width]), (257, 3, [height]), (258, 3, [bits] * samples), (259, 3, [compression]),
               (262, 3, [photometric]), (274, 3, [orientation]), (277, 3, [samples]), (284, 3, [planes])]
    body, offsets = b"", []
    for part in parts:
        offsets.append(8 + len(body))
        body += part + b"\0" * (len(part) % 2)
    if tile:
        entries += [(322, 3, [tile[0]]), (323, 3, [tile[1]]), (324, 4, offsets), (325, 4, [len(p) for p in parts])]
    else:
        entries += [(273, 4, offsets), (278, 3, [rows_per_strip or height]), (279, 4, [len(p) for p in parts])]
    if extra:
        entries.append((338, 3, list(extra)))
    if colormap:
        entries.append((320, 3, list(colormap)))
    if sample_format:
        entries.append((339, 3, [sample_format] * samples))
    entries += tags
    directory_at = 8 + len(body)
    after = directory_at + 2 + 12 * len(entries) + 4
    directory, far = struct.pack(order + "H", len(entries)), b""
    for tag, kind, values in sorted(entries):
        packed = struct.pack(order + f"{len(values)}{'H' if kind == 3 else 'I'}", *values)
        directory += struct.pack(order + "HHI", tag, kind, len(values))
        if len(packed) > 4:
            directory += struct.pack(order + "I", after + len(far))
            far += packed + b"\0" * (len(packed) % 2)
        else:
            directory += packed.ljust(4, b"\0")
    return ((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", directory_at) + body + directory +
            bytes(4) + far)


def write_tiff():
    values = lambda n, step=7: bytes(i * step & 255 for i in range(n))
    words = lambda n, order="<", step=977: struct.pack(f"{order}{n}H", *(i * step & 65535 for i in range(n)))
    for photometric in (0, 1):
        for bits in (1, 2, 4, 8):
            write(f"grey{photometric}_{bits}bit.tif", tiff(9, 5, bits, 1, photometric, values((9 * bits + 7) // 8 * 5, 37)))
    write("grey0_16bit.tif", tiff(9, 5, 16, 1, 0, words(45, step=9)))
    write("grey_16bit.tif", tiff(9, 5, 16, 1, 1, words(45, step=9)))
    write("grey_16bit_big.tif", tiff(9, 5, 16, 1, 1, words(45, ">", 9), ">"))
    write("grey_16bit_signed.tif", tiff(9, 5, 16, 1, 1, words(45, step=3011), sample_format=2))
    write("grey_32bit.tif", tiff(9, 5, 32, 1, 1, struct.pack("<45i", *(i * 13 - 90 for i in range(45))), sample_format=2))
    write("grey_float.tif", tiff(9, 5, 32, 1, 1, struct.pack("<45f", *(i * 7.3 - 20 for i in range(45))), sample_format=3))
    write("grey_alpha.tif", tiff(9, 5, 8, 2, 1, values(90), extra=(2,)))
    write("palette.tif", tiff(9, 5, 8, 1, 3, values(45), colormap=[i * 199 & 65535 for i in range(768)]))
    write("palette_4bit.tif", tiff(9, 5, 4, 1, 3, values(25, 29), colormap=[i * 1361 & 65535 for i in range(48)]))
    for order in "<>":
        name = "little" if order == "<" else "big"
        write(f"rgb_{name}.tif", tiff(9, 5, 8, 3, 2, values(135), order))
        write(f"rgb_16bit_{name}.tif", tiff(9, 5, 16, 3, 2, words(135, order), order))
    write("rgba.tif", tiff(9, 5, 8, 4, 2, values(180), extra=(2,)))
    write("rgba_premultiplied.tif", tiff(9, 5, 8, 4, 2, values(180, 11), extra=(1,)))
    write("rgba_unexplained.tif", tiff(9, 5, 8, 4, 2, values(180)))
    write("rgbx.tif", tiff(9, 5, 8, 4, 2, values(180), extra=(0,)))
    write("rgba_16bit.tif", tiff(9, 5, 16, 4, 2, words(180), extra=(2,)))
    write("cmyk.tif", tiff(9, 5, 8, 4, 5, values(180)))
    write("lab.tif", tiff(9, 5, 8, 3, 8, values(135)))
    write("ycbcr_raw.tif", tiff(9, 5, 8, 3, 6, values(135), tags=[(530, 3, [1, 1])]))
    write("rgb_planes.tif", tiff(9, 5, 8, 3, 2, [values(45), values(45, 5), values(45, 3)], planes=2))
    strips = [values(27 * rows) for rows in (2, 2, 1)]
    write("strips.tif", tiff(9, 5, 8, 3, 2, strips, rows_per_strip=2))
    write("strips_deflate.tif", tiff(9, 5, 8, 3, 2, [zlib.compress(s) for s in strips], compression=8, rows_per_strip=2))
    write("strips_cut.tif", tiff(9, 5, 8, 3, 2, [zlib.compress(s[:9]) for s in strips], compression=8, rows_per_strip=2))
    write("deflate_broken.tif", tiff(9, 5, 8, 3, 2, [b"no zlib" for _ in strips], compression=8, rows_per_strip=2))
    write("tiles.tif", tiff(20, 18, 8, 3, 2, [values(768, s) for s in (3, 5, 7, 9)], tile=(16, 16)))
    write("tiles_deflate.tif", tiff(20, 18, 8, 3, 2, [zlib.compress(values(768, s)) for s in (3, 5, 7, 9)], compression=8,
                                    tile=(16, 16)))
    write("tiles_grey_16bit.tif", tiff(20, 18, 16, 1, 1, [words(256, step=s) for s in (3, 5, 7, 9)], tile=(16, 16)))
    write("packbits.tif", tiff(9, 2, 8, 1, 1, bytes([0xF9, 7, 0, 200, 7]) + values(9)[:8] + bytes([0, 4]),
                               compression=32773))
    for orientation in range(1, 9):
        write(f"orientation_{orientation}.tif", tiff(5, 3, 8, 3, 2, values(45), orientation=orientation))
    write("3bit.tif", tiff(9, 5, 3, 1, 1, values(20)))
    write("unknown_compression.tif", tiff(9, 5, 8, 3, 2, values(135), compression=777))
    write("cut.tif", tiff(9, 5, 8, 3, 2, values(135))[:100])
    picture = Image.open(PHOTO)
    for name, image, options in (("lzw", picture, {"compression": "tiff_lzw"}),
                                 ("jpeg", picture, {"compression": "jpeg", "quality": 60}),
                                 ("jpeg_grey", picture.convert("L"), {"compression": "jpeg"}),
                                 ("group4", picture.convert("1"), {"compression": "group4"}),
                                 ("big_tiff", picture.convert("L").resize((9, 9)), {"big_tiff": True})):
        image.save(os.path.join(HERE, name + ".tif"), **options)


def main():
    for write_format in (write_bmp, write_gif, write_png, write_jpeg, write_pnm, write_tga, write_tiff):
        write_format()
    lines = []
    for name in sorted(os.listdir(HERE)):
        if name.endswith((".py", ".tsv")):
            continue
        try:
            with Image.open(os.path.join(HERE, name)) as image:
                lines.append(f"{name}\tdecode\t{fnv(image.convert('RGB').tobytes())}")
            if name in REFUSED:
                lines[-1] = f"{name}\trefused\t0"
        except Exception:
            lines.append(f"{name}\trefused\t0")
    with open(os.path.join(HERE, "expected.tsv"), "w") as f:
        f.write("\n".join(lines) + "\n")


main()
