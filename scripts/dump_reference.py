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

Needs PyTorch, from 1.13 on. The public code's folder stays as it is; on a CPU its GPU kernels are left aside, and of the
packages that it imports only einops is needed, for forward type m0.

Exit status: 0 written; 2 what was asked for cannot be run: one line says why, and how to mend it.
"""

import argparse
import builtins
import contextlib
import ctypes
import importlib
import json
import math
import os
import pickle
import struct
import sys
import traceback
import types
from unittest import mock

try:
    import torch
    from torch import nn
except ImportError as error:
    if __name__ != "__main__":
        raise
    print(
        f"dump_reference.py: needs PyTorch, which {sys.executable} does not have ({error}): pip install torch, on Debian "
        "apt-get install python3-torch, or run this with the Python that has it",
        file=sys.stderr,
    )
    sys.exit(2)

ACTIVATIONS = {"SiLU": "silu", "GELU": "gelu", "ReLU": "relu", "Sigmoid": "sigmoid"}
SCAN_MODES = {"cross2d": "v05", "unidi": "v051d", "bidi": "v052d", "cascade2d": "v052dc"}
SCAN_MODES |= {0: "v05", 1: "v051d", 2: "v052d"}
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64"}


class Refused(Exception):
    """What was asked for cannot be run; the message is one line, with the way to mend it."""


def save_safetensors(path, tensors, metadata=None):
    """Writes beside and renames: the file appears whole or not at all."""
    header, offset, chunks = {}, 0, []
    if metadata:
        header["__metadata__"] = {key: str(value) for key, value in metadata.items()}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous().cpu()
        data = ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())  # PyTorch may come without NumPy
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
        data = bytearray(file.read())
    dtypes = {name: dtype for dtype, name in DTYPES.items()}
    tensors = {}
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        del data[: 8 + length]
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                tensors[name] = torch.frombuffer(data[begin:end], dtype=dtypes[entry["dtype"]]).view(entry["shape"])
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError, struct.error) as error:
        raise Refused(f"{path}: no safetensors file that this reads: {type(error).__name__}: {error}")
    return tensors


def load_checkpoint(path):
    """A state dict; nothing in the file is executed."""
    if path.endswith(".safetensors"):
        return load_safetensors(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError) as error:
        raise Refused(f"{path}: no checkpoint that PyTorch reads: {error}")
    except pickle.UnpicklingError:
        converted = os.path.splitext(os.path.basename(path))[0] + ".safetensors"
        raise Refused(
            f"{path}: holds more than tensors (a training config, say), which PyTorch does not unpickle without executing it. "
            f"vmamba-cli takes the tensors alone: `vmamba-cli convert-weights {path} {converted}`, then --weights {converted}"
        )
    for key in ("model_ema", "model", "state_dict"):
        if key in checkpoint:
            return checkpoint[key]
    return checkpoint


def require(module, where, *names):
    for name in names:
        if not any(hasattr(module, alternative) for alternative in name.split("|")):
            raise Refused(
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
                raise Refused(f"{where}: post_norm is set, which no published model uses and vmamba-cli does not compute")
            if hasattr(block, "op"):
                require(block, where, "norm")
                names = ("in_proj", "act", "x_proj_weight|x_proj", "dt_projs_bias", "A_logs", "Ds", "out_norm", "out_proj")
                require(block.op, f"{where}.op", *names)
                if hasattr(block.op, "out_norm_shape"):
                    raise Refused(
                        f"{where}.op: a class of early 2024, whose out_norm reads other layouts; load the checkpoint into a "
                        "newer one"
                    )
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


def contiguous_chunk_scan(function):
    """Mamba-2's scan in PyTorch; its callers take a view of what it returns, which einops may leave without one."""

    def scan(*args, **kwargs):
        y, state = function(*args, **{**kwargs, "backend": "torch"})
        return y.contiguous(), state

    return scan


@contextlib.contextmanager
def without_gpu_kernels(model):
    """The public code takes its compiled kernels where they are installed, and enters a CUDA device's context, on a CPU
    too. While this lasts it does neither."""
    names = {kind.__module__ for module in model.modules() for kind in type(module).__mro__}
    helpers = ("cross_scan_fn", "selective_scan_fn", "selective_scan_chunk_fn")
    users = [sys.modules[name] for name in names if name in sys.modules]
    names |= {vars(user)[helper].__module__ for user in users for helper in helpers if helper in vars(user)}
    with contextlib.ExitStack() as changes:
        changes.enter_context(mock.patch.object(torch.cuda, "device", lambda device: contextlib.nullcontext()))
        for module in (sys.modules[name] for name in names if name in sys.modules):
            for switch in [name for name in vars(module) if name == "WITH_TRITON" or name.startswith("WITH_SELECTIVESCAN_")]:
                changes.enter_context(mock.patch.object(module, switch, False))
        for user in users:
            if "selective_scan_chunk_fn" in vars(user):
                scan = contiguous_chunk_scan(user.selective_scan_chunk_fn)
                changes.enter_context(mock.patch.object(user, "selective_scan_chunk_fn", scan))
        yield


@torch.no_grad()
def dump(model, x, folder, forward_type=None, weights=True):
    """Runs model(x) and writes folder/config.json, io.safetensors and weights.safetensors; returns the logits."""
    recognise(model)
    os.makedirs(folder, exist_ok=True)
    model.eval()
    parameter = next(model.parameters())
    taps = Taps(model)
    try:
        with without_gpu_kernels(model) if parameter.device.type == "cpu" else contextlib.nullcontext():
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


class DropPath(nn.Identity):
    """timm's, of a model that is not trained."""

    def __init__(self, drop_prob=0.0):
        super().__init__()
        self.drop_prob = drop_prob


def trunc_normal_(tensor, mean=0.0, std=1.0, a=-2.0, b=2.0):
    """timm's, draw by draw; PyTorch's own draws otherwise in newer releases."""
    low, high = (math.erf((bound - mean) / std / math.sqrt(2.0)) for bound in (a, b))
    with torch.no_grad():
        return tensor.uniform_(low, high).erfinv_().mul_(std * math.sqrt(2.0)).add_(mean).clamp_(min=a, max=b)


class Decorators:
    """For triton and triton.language while functions are declared with them; those cannot be run."""

    def __getattr__(self, name):
        return self

    def __call__(self, *args, **kwargs):
        return self


def not_installed(package):
    def function(*args, **kwargs):
        raise Refused(f"this model needs {package}, which is not installed: pip install {package}")

    return function


def importable(name):
    try:
        importlib.import_module(name)
    except Exception:  # installed but broken is of no more use than absent
        return False
    return True


# Per module that the public code imports: what stands for it where it is not installed.
STAND_INS = {
    "timm.models": {"register_model": lambda function: function},
    "timm.models.layers": {"DropPath": DropPath, "trunc_normal_": trunc_normal_},
    "fvcore.nn": dict.fromkeys(("FlopCountAnalysis", "flop_count_str", "flop_count", "parameter_count"), not_installed("fvcore")),
    "einops": {"rearrange": not_installed("einops"), "repeat": not_installed("einops")},
}


@contextlib.contextmanager
def stand_ins():
    """Only while the public code is imported: it keeps what it took, and PyTorch, which looks for such packages too, never
    sees one that is not there."""
    modules = {}
    for name, members in STAND_INS.items():
        if not importable(name):
            modules[name] = types.ModuleType(name)
            vars(modules[name]).update(members)
    for package in [name.partition(".")[0] for name in modules]:
        if package not in modules and not importable(package):
            modules[package] = types.ModuleType(package)
    with contextlib.ExitStack() as changes:
        # Without triton the public code goes on in PyTorch, but has used these two names as decorators already.
        for name in () if importable("triton") else ("triton", "tl"):
            changes.enter_context(mock.patch.object(builtins, name, Decorators(), create=True))
        sys.modules.update(modules)
        try:
            yield
        finally:
            for name in modules:
                del sys.modules[name]


def build(repository, kwargs):
    if not os.path.isfile(os.path.join(repository, "vmamba.py")):
        raise Refused(f"{repository}: has no vmamba.py; give the folder classification/models of MzeroMiko/VMamba, or its root")
    sys.dont_write_bytecode = True  # the folder stays as it is
    sys.path.insert(0, os.path.abspath(repository))
    try:
        with stand_ins():
            module = importlib.import_module("vmamba")
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        raise Refused(f"{repository}/vmamba.py needs what is not installed ({error}): pip install {package}")
    return module.VSSM(**kwargs)


def run(args):
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise Refused(f"--device {args.device}: this PyTorch ({torch.__version__}) finds no CUDA device; --device cpu needs none")
    with open(args.kwargs, encoding="utf-8") as file:
        try:
            kwargs = json.load(file)
        except ValueError as error:
            raise Refused(f"{args.kwargs}: {error}")
    torch.manual_seed(args.seed)
    model = build(args.repository, kwargs)
    if args.weights:
        state = load_checkpoint(args.weights)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise Refused(f"{args.weights} does not fit {args.kwargs}: {error}")
    if args.input:
        x = load_safetensors(args.input).get("input")
        if x is None:
            raise Refused(f"{args.input}: has no tensor named input; vmamba-cli classify --save-input writes such a file")
    else:
        size = args.size or kwargs.get("imgsize", 224)
        torch.manual_seed(args.seed)
        x = torch.randn(args.batch, kwargs.get("in_chans", 3), size, size)
    model = model.to(args.device)
    if args.half:
        model = model.half()
    return dump(model, x, args.output, kwargs.get("forward_type"))


def where_in(folder, error):
    """The line of this folder's code that an exception came out of; none: it came out of this script."""
    folder = os.path.join(os.path.abspath(folder), "")
    ours = main.__code__.co_filename
    frames = traceback.extract_tb(error.__traceback__)
    last = [frame for frame in frames if frame.filename == ours or frame.filename.startswith(folder)][-1]
    return f"{last.filename}:{last.lineno}: {last.line}" if last.filename.startswith(folder) else None


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
    try:
        logits = run(args)
    except (Refused, OSError) as error:
        message = str(error)
    except Exception as error:
        where = where_in(args.repository, error)
        if not where:
            raise
        message = f"the public code does not compute what --kwargs, --input or --half ask for: {where}: {error!r}"
    else:
        print(f"{args.output}: config.json, weights.safetensors, io.safetensors; top-1 {logits.argmax(-1).tolist()}")
        return
    print("dump_reference.py:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
