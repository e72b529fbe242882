"""Augmentation of a batch on the device: uint8 images in, normalised float images and mixed labels out.

All random values are drawn per image on the device, so that the augmentation can be captured in a graph.
"""

import functools
import math

import torch
import torch.nn.functional as F

MEAN, STD, LUMA = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (0.299, 0.587, 0.114)


@functools.lru_cache(maxsize=None)
def channels(values, device):
    """A constant per channel; made once, since a graph under capture may not copy from the host."""
    return torch.tensor(values, device=device).view(3, 1, 1)


def normalise(images):
    """uint8 or [0, 255] float (B, 3, H, W) -> as the model expects"""
    return (images.float() / 255 - channels(MEAN, images.device)) / channels(STD, images.device)


def uniform(shape, low, high, device):
    return torch.rand(shape, device=device) * (high - low) + low


def crop_flip(images, side, smallest):
    """A random part of each image, of `smallest` to all of its area, mirrored half of the time"""
    B, device = images.shape[0], images.device
    area = uniform(B, smallest, 1, device)
    ratio = torch.exp(uniform(B, math.log(3 / 4), math.log(4 / 3), device))
    width = (area * ratio).sqrt().clamp(max=1)
    height = (area / ratio).sqrt().clamp(max=1)
    x = uniform(B, -1, 1, device) * (1 - width)
    y = uniform(B, -1, 1, device) * (1 - height)
    mirror = torch.where(torch.rand(B, device=device) < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(x)
    theta = torch.stack([width * mirror, zero, x, zero, height, y], dim=1).view(B, 2, 3)
    grid = F.affine_grid(theta, (B, 3, side, side), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def colour(images, strength):
    """Brightness, contrast and saturation, each by a factor of 1 ± strength; values in [0, 255]"""
    B, device = images.shape[0], images.device

    def factor():
        return uniform((B, 1, 1, 1), 1 - strength, 1 + strength, device)

    images = images * factor()
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = mean + (images - mean) * factor()
    grey = (images * channels(LUMA, device)).sum(dim=1, keepdim=True)
    images = grey + (images - grey) * factor()
    return images.clamp(0, 255)


def boxes(B, side, area, device):
    """A mask (B, 1, side, side) of one rectangle per image, of the given share of the area before clipping"""
    ratio = torch.exp(uniform(B, math.log(1 / 2), math.log(2), device))
    half_w, half_h = (area * ratio).sqrt().clamp(max=1) / 2, (area / ratio).sqrt().clamp(max=1) / 2
    cx, cy = torch.rand(B, device=device), torch.rand(B, device=device)
    at = (torch.arange(side, device=device) + 0.5) / side
    in_x = (at[None] - cx[:, None]).abs() < half_w[:, None]
    in_y = (at[None] - cy[:, None]).abs() < half_h[:, None]
    return (in_y[:, :, None] & in_x[:, None, :])[:, None]


def mix(images, cutmix, mixup):
    """Each image with its neighbour in the (shuffled) batch: with probability `cutmix` a rectangle of
    it, with probability `mixup` a blend. -> images, the share of the own label (B,)"""
    B, side, device = images.shape[0], images.shape[-1], images.device
    partner = images.roll(1, 0)
    choice = torch.rand(B, device=device)
    cut, blend = choice < cutmix, (choice >= cutmix) & (choice < cutmix + mixup)
    box = boxes(B, side, torch.rand(B, device=device), device) & cut.view(B, 1, 1, 1)
    images = torch.where(box, partner, images)
    share = 1 - box.float().mean(dim=(1, 2, 3))
    weight = torch.where(blend, 1 - 0.5 * torch.rand(B, device=device) ** 2, 1.0)
    images = torch.lerp(partner, images, weight.view(B, 1, 1, 1))
    return images, share * weight


def augment(images, side, settings):
    """uint8 (B, 3, H, W) -> images (B, 3, side, side), share of the own label (B,), the other's by roll(1).

    settings: smallest (share of the area kept by the crop), colour, erase, cutmix, mixup: probabilities
    may be tensors on the device, so that a captured graph follows their changes."""
    images = crop_flip(images.float(), side, settings["smallest"])
    images = normalise(colour(images, settings["colour"]))
    B, device = images.shape[0], images.device
    erased = torch.rand(B, device=device) < settings["erase"]
    area = uniform(B, 0.02, 0.25, device)
    images = images.masked_fill(boxes(B, side, area, device) & erased.view(B, 1, 1, 1), 0.0)
    return mix(images, settings["cutmix"], settings["mixup"])
