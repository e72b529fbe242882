"""Tiny ImageNet as two uint8 tensors (images, 3, 64, 64) and their labels.

A folder contains train-*.npz (arrays blob: encoded images, concatenated; offsets; labels), val.tar.xz
(JPEG files, one folder per class) and classes.tsv (id, tab, names; the order of the labels).
"""

import concurrent.futures
import glob
import io
import os
import tarfile

import numpy as np
import torch
from PIL import Image

SIDE = 64


def decode(encoded):
    """Many encoded images -> (n, 64, 64, 3)"""
    out = np.empty((len(encoded), SIDE, SIDE, 3), np.uint8)
    for i, data in enumerate(encoded):
        out[i] = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return out


def decode_all(encoded, workers):
    pieces = [encoded[i : i + 500] for i in range(0, len(encoded), 500)]
    if workers <= 1:
        images = np.concatenate([decode(p) for p in pieces])
    else:
        with concurrent.futures.ProcessPoolExecutor(workers) as pool:
            images = np.concatenate(list(pool.map(decode, pieces)))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def class_names(folder):
    """-> [(id, 'first name, second name, …')] in the labels' order"""
    with open(os.path.join(folder, "classes.tsv")) as file:
        return [tuple(line.rstrip("\n").split("\t")) for line in file]


def load_train(folder, workers):
    encoded, labels = [], []
    paths = sorted(glob.glob(os.path.join(folder, "train-*.npz")))
    if not paths:
        raise FileNotFoundError(f"{folder}: no train-*.npz")
    for path in paths:
        part = np.load(path)
        blob, offsets = part["blob"].tobytes(), part["offsets"]
        count = len(part["labels"])
        ends = list(offsets[1:]) + ([len(blob)] if len(offsets) == count else [])
        encoded += [blob[offsets[i] : ends[i]] for i in range(count)]
        labels.append(part["labels"])
    return decode_all(encoded, workers), torch.from_numpy(np.concatenate(labels).astype(np.int64))


def load_val(folder, workers):
    """-> images, labels, file names"""
    index = {identity: i for i, (identity, _) in enumerate(class_names(folder))}
    encoded, labels, names = [], [], []
    with tarfile.open(os.path.join(folder, "val.tar.xz")) as archive:
        for member in archive:
            if not member.isfile():
                continue
            identity = os.path.basename(os.path.dirname(member.name))
            encoded.append(archive.extractfile(member).read())
            labels.append(index[identity])
            names.append(f"{identity}/{os.path.basename(member.name)}")
    order = sorted(range(len(names)), key=names.__getitem__)
    images = decode_all([encoded[i] for i in order], workers)
    return images, torch.tensor([labels[i] for i in order]), [names[i] for i in order]


def load_cached(folder, cache, workers):
    """-> (train images, labels), (val images, labels); decoded once, then kept in the file `cache`.
    The folder name 'random' selects noise, to time a step without data."""
    if folder == "random":
        noise = torch.randint(0, 256, (4096, 3, SIDE, SIDE), dtype=torch.uint8)
        return ((noise, torch.arange(4096) % 200),) * 2
    if cache and os.path.exists(cache):
        return torch.load(cache)
    images, labels, _ = load_val(folder, workers)
    both = (load_train(folder, workers), (images, labels))
    if cache:
        torch.save(both, cache + ".part")
        os.replace(cache + ".part", cache)
    return both
