"""Times PyTorch's DataLoader over the images of a folder, without a model; prints one JSON line.

    dataloader.py FOLDER [--workers 16] [--batch 128] [--resize 256] [--crop 224] [--interpolation bicubic]

Pillow decodes, torchvision resizes, crops and normalises, all on the workers; the main process takes the batches and
pins them, as it would for a GPU. The time includes the start of the workers.
"""

import argparse
import json
import os
import time

import PIL
import torch
import torchvision
from PIL import Image
from torchvision import transforms


class Folder(torch.utils.data.Dataset):
    def __init__(self, folder, transform):
        self.files = sorted(entry.path for entry in os.scandir(folder) if entry.is_file())
        self.transform = transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--resize", type=int, default=256)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--interpolation", choices=("bilinear", "bicubic"), default="bicubic")
    args = parser.parse_args()
    transform = transforms.Compose(
        [
            transforms.Resize(args.resize, transforms.InterpolationMode(args.interpolation)),
            transforms.CenterCrop(args.crop),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    begin = time.perf_counter()
    loader = torch.utils.data.DataLoader(
        Folder(args.folder, transform),
        batch_size=args.batch,
        num_workers=args.workers,
        pin_memory=torch.cuda.is_available(),
    )
    images = sum(len(batch) for batch in loader)
    seconds = time.perf_counter() - begin
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": PIL.__version__}
    result = {"workers": args.workers, "batch": args.batch, "images": images, "seconds": round(seconds, 2)}
    print(json.dumps({**versions, **result, "images_per_s": round(images / seconds)}))


if __name__ == "__main__":
    main()
