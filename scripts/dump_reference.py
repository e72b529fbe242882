#!/usr/bin/env python3
"""What a PyTorch VMamba computes, as files that `vmamba-cli check-equal --reference` reads.

    dump_reference.py --repository VMamba/classification/models --kwargs model.json [--weights checkpoint.pth]
                      [--input input.safetensors | --seed 0 --size 224] [--device cuda] [-o folder]
    vmamba-cli check-equal --config folder/config.json --weights folder/weights.safetensors \
                           --reference folder/io.safetensors

Writes folder/config.json (this project's config, from the model itself), folder/weights.safetensors and
folder/io.safetensors (tensors input, logits and one a tap, under the names that check-equal uses).

The model is the class VSSM of the public repository (MzeroMiko/VMamba), of classification/models/vmamba.py or of the
one-file vmamba.py at its root, built from the JSON of --kwargs. A model of your own is dumped from Python:

    from dump_reference import dump
    dump(model, x, "folder", forward_type="v05_noz")

Needs PyTorch and what the model itself needs; nothing else.
"""

import argparse
import importlib
import json
import math
import os
import pickle
import struct
import sys

import torch
from torch import nn

ACTIVATIONS = {"SiLU": "silu", "GELU": "gelu", "ReLU": "relu", "Sigmoid": "sigmoid"}
SCAN_MODES = {"cross2d": "v05", "unidi": "v051d", "bidi": "v052d", "cascade2d": "v052dc", 0: "v05", 1: "v051d", 2: "v052d"}
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64"}


def save_safetensors(path, tensors, metadata=None):
    """Writes beside and renames: the file appears whole or not at all."""
    header, offset, chunks = {}, 0, []
    if metadata:
        header["__metadata__"] = {key: str(value) for key, value in metadata.items()}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous().cpu()
        data = tensor.view(torch.uint8).numpy().tobytes() if tensor.dim() else tensor.reshape(1).view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, offset + len(data)]}
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for data in chunks:
            file.write(data)
    os.replace(temporary, path)


def load_safetensors(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = bytearray(file.read())
    dtypes = {name: dtype for dtype, name in DTYPES.items()}
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors[name] = torch.frombuffer(data[begin:end], dtype=dtypes[entry["dtype"]]).view(entry["shape"])
    return tensors


def load_checkpoint(path):
    """A state dict; nothing in the file is executed."""
    if path.endswith(".safetensors"):
        return load_safetensors(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        converted = os.path.splitext(os.path.basename(path))[0] + ".safetensors"
        raise SystemExit(
            f"{path}: holds more than tensors (a training config, say), which PyTorch does not unpickle without executing it. "
            f"vmamba-cli takes the tensors alone: `vmamba-cli convert-weights {path} {converted}`, then --weights {converted}"
        )
    for key in ("model_ema", "model", "state_dict"):
        if key in checkpoint:
            return checkpoint[key]
    return checkpoint


class UnknownClass(Exception):
    """The model is not a VSSM of a version that this script knows."""


def require(module, where, *names):
    for name in names:
        if not any(hasattr(module, alternative) for alternative in name.split("|")):
            raise UnknownClass(
                f"{where} ({type(module).__module__}.{type(module).__name__}) has no {' or '.join(name.split('|'))}: not the "
                "VSSM of MzeroMiko/VMamba in a version that this script knows (classification/models/vmamba.py, or vmamba.py "
                "at the root). Load the checkpoint into one of those: they rename what older classes saved"
            )


def recognise(model):
    """Names what is missing before anything runs."""
    require(model, "model", "patch_embed", "layers", "classifier")
    require(model.classifier, "model.classifier", "norm", "flatten", "head")
    for i, layer in enumerate(model.layers):
        require(layer, f"layers.{i}", "blocks", "downsample")
        for j, block in enumerate(layer.blocks):
            where = f"layers.{i}.blocks.{j}"
            require(block, where, "op|mlp")
            if getattr(block, "post_norm", False):
                raise UnknownClass(f"{where}: post_norm is set, which no published model uses and vmamba-cli does not compute")
            if hasattr(block, "op"):
                require(block, where, "norm")
                require(block.op, f"{where}.op", "in_proj", "act", "x_proj_weight|x_proj", "dt_projs_bias", "A_logs", "Ds", "out_norm", "out_proj")
                if hasattr(block.op, "out_norm_shape"):
                    raise UnknownClass(f"{where}.op: a class of early 2024, whose out_norm reads other layouts; load the checkpoint into a newer one")
            if hasattr(block, "mlp"):
                require(block, where, "norm2")
                require(block.mlp, f"{where}.mlp", "fc1", "act", "fc2")


class Taps:
    """Hooks on the modules of a VSSM; a forward fills `values`, in NHWC float32."""

    def __init__(self, model):
        self.model = model
        self.channel_first = bool(getattr(model, "channel_first", False))
        self.values = {}
        self.handles = []
        self._hook("patch_embed", model.patch_embed)
        if getattr(model, "pos_embed", None) is not None:
            self._hook_input("pos_embed", model.layers[0].blocks)
        for i, layer in enumerate(model.layers):
            for j, block in enumerate(layer.blocks):
                self._block(f"layers.{i}.blocks.{j}", block)
            self._hook(f"layers.{i}.blocks", layer.blocks)
            if not isinstance(layer.downsample, nn.Identity):
                self._hook(f"layers.{i}.downsample", layer.downsample)
        self._hook("classifier.norm", model.classifier.norm)
        self._hook("classifier.pool", model.classifier.flatten)

    def _put(self, name, value, channel_first=None):
        if channel_first is None:
            channel_first = self.channel_first
        if value.dim() == 4 and channel_first:
            value = value.permute(0, 2, 3, 1)
        self.values[name] = value.detach().float().contiguous().cpu()

    def _hook(self, name, module, channel_first=None):
        self.handles.append(module.register_forward_hook(lambda m, args, out: self._put(name, out, channel_first)))

    def _hook_input(self, name, module):
        self.handles.append(module.register_forward_pre_hook(lambda m, args: self._put(name, args[0])))

    def _block(self, name, block):
        self._hook(name, block)
        if getattr(block, "ssm_branch", True) and hasattr(block, "op"):
            self._hook(f"{name}.norm", block.norm)
            self._ss2d(f"{name}.op", block.op)
        if getattr(block, "mlp_branch", hasattr(block, "mlp")):
            self._hook(f"{name}.norm2", block.norm2)
            # The plain MLP's activation belongs to fc1's tap, the gated one's does not.
            gated = block.mlp.fc2.in_features != block.mlp.fc1.out_features
            self._hook(f"{name}.mlp.fc1", block.mlp.fc1 if gated else block.mlp.act)
            self._hook(f"{name}.mlp.fc2", block.mlp.fc2)

    def _ss2d(self, name, op):
        self._hook(f"{name}.in_proj", op.in_proj)
        # The activation runs on z (if there is one) and last on the convolution's result: NCHW, except in Mamba-2.
        self._hook(f"{name}.conv2d", op.act, channel_first=not is_mamba2(op))
        op.__dict__["__DEBUG__"] = True  # the class then keeps what its core read and made, in __data__

        def core(module, args):
            x = self.values[f"{name}.conv2d"]
            height, width = x.shape[1:3]
            data = getattr(module, "__data__", None)
            if data is not None:
                self._core(name, op, x, data)
            self._put_rows(f"{name}.scan", self._norm_input, height, width)

        def remember(module, args):
            self._norm_input = args[0]

        def norm(module, args, out):
            height, width = self.values[f"{name}.conv2d"].shape[1:3]
            self._put_rows(f"{name}.out_norm", out, height, width)

        self.handles.append(op.out_norm.register_forward_pre_hook(remember))
        self.handles.append(op.out_norm.register_forward_hook(norm))
        self.handles.append(op.out_proj.register_forward_pre_hook(lambda m, args: core(op, args)))
        self._hook_input(f"{name}.gated", op.out_proj)
        self._hook(f"{name}.out_proj", op.out_proj)

    def _put_rows(self, name, value, height, width):
        if value.dim() == 3:  # the old block: (B, L, C)
            value = value.reshape(value.shape[0], height, width, value.shape[-1])
            self._put(name, value, channel_first=False)
        else:
            self._put(name, value)

    def _core(self, name, op, x, data):
        """x_proj and every direction, from scan order back to pixels."""
        batch, height, width = x.shape[:3]
        length = height * width
        count = op.dt_projs_bias.shape[0]
        mode = scan_mode(op)
        if count != 4 or mode == "v052dc":
            return

        def to_pixels(sequence, k):  # (B, C, L) → (B, H, W, C)
            reversed_, columns = {"v05": (k >= 2, k % 2 == 1), "v051d": (False, False), "v052d": (k >= 2, False)}[mode]
            if reversed_:
                sequence = sequence.flip(-1)
            if columns:
                return sequence.reshape(batch, -1, width, height).permute(0, 3, 2, 1)
            return sequence.reshape(batch, -1, height, width).permute(0, 2, 3, 1)

        def direction(key, k):  # (B, C, L); Mamba-2 keeps (B, L, K, C)
            value = data[key].detach().float().cpu()
            if is_mamba2(op):
                return value.reshape(batch, length, count, -1)[:, :, k].transpose(1, 2)
            return value.reshape(batch, count, -1, length)[:, k]

        for k in range(count):
            self._put(f"{name}.scan.k{k}", to_pixels(direction("ys", k), k), channel_first=False)
        # B and C are what the core read; so is Mamba-2's dt. Elsewhere dt before its projection is no variable of the
        # core: it is x · x_proj_weight.
        weight = x_proj_weight(op).detach().float().cpu()
        rank = weight.shape[1] - 2 * state_count(op)
        parts = []
        for k in range(count):
            if is_mamba2(op):
                parts.append(to_pixels(direction("dts", k), k))
            else:
                parts.append(torch.einsum("bhwd,cd->bhwc", x, weight[k, :rank]))
            parts += [to_pixels(direction(key, k), k) for key in ("Bs", "Cs")]
        self._put(f"{name}.x_proj", torch.cat(parts, -1), channel_first=False)

    def remove(self):
        for handle in self.handles:
            handle.remove()
        for module in self.model.modules():
            module.__dict__.pop("__DEBUG__", None)
            module.__dict__.pop("__data__", None)


def is_mamba2(op):
    return op.Ds.dim() == 3  # (directions, heads, channels of a head)


def x_proj_weight(op):
    """(K, R + 2N, D), which the one-file class keeps as a grouped Linear."""
    if hasattr(op, "x_proj_weight"):
        return op.x_proj_weight
    return op.x_proj.weight.view(op.dt_projs_bias.shape[0], -1, op.x_proj.weight.shape[-1])


def weights_of(model):
    """The state dict under the names of classification/models/vmamba.py, which vmamba-cli reads."""
    state = {name: value for name, value in model.state_dict().items() if value.dtype in DTYPES}
    for i, layer in enumerate(model.layers):
        if isinstance(layer.downsample, nn.Sequential) and first(layer.downsample, nn.Conv2d) is None:
            for old, new in (("1", "norm"), ("2", "reduction")):  # patch merging in the one-file class
                for part in ("weight", "bias"):
                    value = state.pop(f"layers.{i}.downsample.{old}.{part}", None)
                    if value is not None:
                        state[f"layers.{i}.downsample.{new}.{part}"] = value
        for j, block in enumerate(layer.blocks):
            name = f"layers.{i}.blocks.{j}.op."
            if name + "x_proj.weight" in state:
                directions, width = block.op.dt_projs_bias.shape
                state[name + "x_proj_weight"] = x_proj_weight(block.op)
                del state[name + "x_proj.weight"]
                state[name + "dt_projs_weight"] = state.pop(name + "dt_projs.weight").view(directions, width, -1)
    return state


def core_keywords(op):
    return getattr(getattr(op, "forward_core", None), "keywords", None) or {}


def state_count(op):
    if is_mamba2(op):  # its A has no states, and its rank is the number of heads
        return (x_proj_weight(op).shape[1] - op.A_logs.shape[-1]) // 2
    return op.A_logs.shape[-1]


def scan_mode(op):
    return SCAN_MODES.get(core_keywords(op).get("scan_mode", "cross2d"), "v05")


def infer_forward_type(op):
    """A forward type of the same mathematics; how the model's own was spelt is not kept by the class."""
    if is_mamba2(op):
        base = "m0"
    elif not hasattr(op, "forward_core"):
        return "v0"
    else:
        base = scan_mode(op)
        if base == "v05" and core_keywords(op).get("force_fp32"):
            base = "v03"
    norm = type(op.out_norm).__name__
    kinds = {"Identity": "_onnone", "Sigmoid": "_onsigmoid", "SoftmaxSpatial": "_onsoftmax"}
    inner = [type(module).__name__ for module in op.out_norm.modules()]
    if "Conv2d" in inner:
        base += "_oncnorm" if any("Norm" in kind for kind in inner) else "_ondwconv3"
    else:
        base += kinds.get(norm, "")
    if getattr(op, "disable_z_act", False):
        base += "_nozact"
    if getattr(op, "disable_z", False):
        base += "_noz"
    if type(getattr(op, "out_act", nn.Identity())).__name__ == "GELU":
        base += "_oact"
    return base


def first(model, kind, default=None):
    return next((module for module in model.modules() if isinstance(module, kind)), default)


def config_of(model, imgsize, forward_type=None):
    """This project's config of a VSSM, from its modules."""
    embed = [module for module in model.patch_embed.modules() if isinstance(module, nn.Conv2d)]
    blocks = [block for layer in model.layers for block in layer.blocks]
    dims = [layer.blocks[0].norm.weight.shape[0] if hasattr(layer.blocks[0], "norm") else layer.blocks[0].norm2.weight.shape[0]
            for layer in model.layers]
    norm = type(model.classifier.norm).__name__
    if norm == "LayerNorm" and getattr(model, "channel_first", False):
        norm = "LayerNorm2d"  # the one-file class has one LayerNorm for both layouts
    down = next((layer.downsample for layer in model.layers if not isinstance(layer.downsample, nn.Identity)), None)
    config = {
        "patch_size": embed[0].stride[0] * (2 if len(embed) == 2 else 1),
        "in_chans": embed[0].in_channels,
        "num_classes": model.classifier.head.out_features,
        "depths": [len(layer.blocks) for layer in model.layers],
        "dims": dims,
        "norm_layer": {"LayerNorm": "ln", "LayerNorm2d": "ln2d", "BatchNorm2d": "bn"}[norm],
        "patch_norm": any("Norm" in type(module).__name__ for module in model.patch_embed.modules()),
        "patchembed_version": "v2" if len(embed) == 2 else "v1",
        "posembed": getattr(model, "pos_embed", None) is not None,
        "imgsize": imgsize,
    }
    if down is not None:
        conv = first(down, nn.Conv2d)
        config["downsample_version"] = "v1" if conv is None else {2: "v2", 3: "v3"}[conv.kernel_size[0]]
    ops = [block.op for block in blocks if getattr(block, "ssm_branch", True) and hasattr(block, "op")]
    if ops:
        op, dim = ops[0], dims[0]
        conv = first(op.conv2d, nn.Conv2d) if hasattr(op, "conv2d") else None
        states = state_count(op)
        ranks = [x_proj_weight(o).shape[1] - 2 * states for o in ops]
        widths = [o.in_proj.in_features for o in ops]
        automatic = all(rank == math.ceil(width / 16) for rank, width in zip(ranks, widths))
        config.update(
            ssm_d_state=states,
            ssm_ratio=op.out_proj.in_features / dim,
            ssm_dt_rank="auto" if automatic else ranks[0],
            ssm_act_layer=ACTIVATIONS[type(op.act).__name__],
            ssm_conv=conv.kernel_size[0] if conv is not None else -1,
            ssm_conv_bias=conv is not None and conv.bias is not None,
            forward_type=forward_type or infer_forward_type(op),
        )
        backend = core_keywords(op).get("selective_scan_backend")
        if backend in ("oflex", "mamba", "torch"):
            config["selective_scan_backend"] = backend
    else:
        config["ssm_ratio"] = 0.0
    mlps = [block.mlp for block in blocks if getattr(block, "mlp_branch", hasattr(block, "mlp"))]
    if mlps:
        mlp = mlps[0]
        config["mlp_ratio"] = mlp.fc2.in_features / dims[0]
        config["mlp_act_layer"] = ACTIVATIONS[type(mlp.act).__name__]
        config["gmlp"] = mlp.fc2.in_features != mlp.fc1.out_features
    else:
        config["mlp_ratio"] = 0.0
    return config


@torch.no_grad()
def dump(model, x, folder, forward_type=None, weights=True):
    """Runs model(x) and writes folder/config.json, io.safetensors and weights.safetensors; returns the logits."""
    recognise(model)
    os.makedirs(folder, exist_ok=True)
    model.eval()
    parameter = next(model.parameters())
    taps = Taps(model)
    try:
        logits = model(x.to(parameter.device, parameter.dtype))
    finally:
        taps.remove()
    config = config_of(model, x.shape[-1], forward_type)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
        file.write("\n")
    values = {"input": x.float(), **taps.values, "logits": logits.float()}
    about = {"torch": torch.__version__, "device": parameter.device, "dtype": parameter.dtype}
    save_safetensors(os.path.join(folder, "io.safetensors"), values, about)
    if weights:
        save_safetensors(os.path.join(folder, "weights.safetensors"), weights_of(model))
    return logits


def build(repository, kwargs):
    sys.path.insert(0, os.path.abspath(repository))
    try:
        module = importlib.import_module("vmamba")
    except ImportError as error:
        raise SystemExit(f"{repository}: no importable vmamba.py ({error}); give classification/models of the public repository")
    return module.VSSM(**kwargs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", required=True, help="folder of vmamba.py")
    parser.add_argument("--kwargs", required=True, help="JSON file: the keyword arguments of VSSM")
    parser.add_argument("--weights", help=".pth or .safetensors checkpoint; none: as torch.manual_seed(SEED) initialises")
    parser.add_argument("--input", help="safetensors with a tensor input (B,3,H,W), as classify --save-input writes it")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, and of the input where none is given")
    parser.add_argument("--size", type=int, help="side of a random input (default: imgsize of the kwargs, else 224)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--half", action="store_true", help="run in float16")
    parser.add_argument("-o", "--output", default="reference", help="folder to write")
    args = parser.parse_args()
    with open(args.kwargs, encoding="utf-8") as file:
        kwargs = json.load(file)
    torch.manual_seed(args.seed)
    model = build(args.repository, kwargs)
    if args.weights:
        try:
            model.load_state_dict(load_checkpoint(args.weights))
        except RuntimeError as error:
            raise SystemExit(f"{args.weights} does not fit {args.kwargs}: {error}")
    if args.input:
        x = load_safetensors(args.input)["input"]
    else:
        size = args.size or kwargs.get("imgsize", 224)
        torch.manual_seed(args.seed)
        x = torch.randn(args.batch, kwargs.get("in_chans", 3), size, size)
    model = model.to(args.device)
    if args.half:
        model = model.half()
    try:
        logits = dump(model, x, args.output, kwargs.get("forward_type"))
    except UnknownClass as error:
        raise SystemExit(f"dump_reference.py: {error}")
    print(f"{args.output}: config.json, weights.safetensors, io.safetensors; top-1 {logits.argmax(-1).tolist()}")


if __name__ == "__main__":
    main()
