"""Evaluates a model with the plain reference module, in float32 on a CPU: validation images and photographs.

    evaluate.py --config C.json --weights W.safetensors [--labels L.txt] [--data FOLDER] [--out P.npz] [PHOTO…]

With --data: the number of correct images, and their predictions into --out. Photographs: the first five.
"""

import argparse
import json
import os
import sys

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference"))

import vssm
from augment import normalise
from data import load_val


def preprocess(path, resize, crop):
    """RGB, the short side resized (Pillow's bicubic), the centre cropped -> uint8 (3, crop, crop)"""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    short, long = min(width, height), max(width, height)
    scaled = int(resize * long / short)
    size = (resize, scaled) if width <= height else (scaled, resize)
    image = np.asarray(image.resize(size, Image.BICUBIC))
    top, left = round((image.shape[0] - crop) / 2), round((image.shape[1] - crop) / 2)
    return torch.from_numpy(image[top : top + crop, left : left + crop].copy()).permute(2, 0, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--labels")
    parser.add_argument("--data")
    parser.add_argument("--out")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("photos", nargs="*")
    args = parser.parse_args()
    model = vssm.load_model(args.config, args.weights)
    settings = model.config["preprocess"]
    names = [str(i) for i in range(model.config["num_classes"])]
    if args.labels:
        with open(args.labels) as file:
            names = [line.split("\t")[-1] for line in file.read().splitlines()]
    with torch.inference_mode():
        for path in args.photos:
            pixels = preprocess(path, settings["resize"], settings["crop"])
            scores = model(normalise(pixels[None])).softmax(1)[0]
            best = scores.topk(5)
            found = [f"{names[i]} {p:.3f}" for p, i in zip(best.values.tolist(), best.indices.tolist())]
            print(os.path.basename(path) + ":", ", ".join(found))
        if args.data:
            images, labels, files = load_val(args.data, workers=1)
            logits = torch.cat([model(normalise(part)) for part in images.split(args.batch)])
            correct = (logits.argmax(1) == labels).sum().item()
            top5 = (logits.topk(5).indices == labels[:, None]).any(1).sum().item()
            print(json.dumps({"correct": correct, "correct_top5": top5, "of": len(labels)}))
            if args.out:
                np.savez_compressed(
                    args.out, files=np.array(files), labels=labels.numpy(), predictions=logits.argmax(1).numpy(),
                    logits=logits.numpy(),
                )  # fmt: skip


if __name__ == "__main__":
    main()
