"""Writes small .pth files with torch.save for the tests of the .pth reader.

    make_pth.py FOLDER [--prefix torch2_] [--cuda-only]

For each NAME.pth, NAME.safetensors contains what a reader must find in it: the state dict under
"model" (or "state_dict", or the file itself), names without a leading "module.", every tensor
contiguous, its dtype as stored. NAME.ema.safetensors holds the one under "model_ema".
Code in the files unsafe_* must not be executed; the files broken_* must be refused.
"""

import argparse
import collections
import io
import os
import pickle
import sys
import types
import zipfile

import torch

import tensorfile


class CfgNode(dict):
    """Pickles as yacs.config.CfgNode, the object that training scripts store beside a model."""

    def __init__(self, init_dict=None):
        super().__init__()
        for key, value in (init_dict or {}).items():
            self[key] = CfgNode(value) if isinstance(value, dict) else value
        self.__dict__["__immutable__"] = False
        self.__dict__["__deprecated_keys__"] = set()
        self.__dict__["__renamed_keys__"] = {}
        self.__dict__["__new_allowed__"] = False


def pretend_yacs():
    yacs, config = types.ModuleType("yacs"), types.ModuleType("yacs.config")
    yacs.config, config.CfgNode = config, CfgNode
    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    sys.modules.update({"yacs": yacs, "yacs.config": config})


def small_state(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    return collections.OrderedDict(
        [
            ("patch_embed.0.weight", draw(4, 3, 2, 2)),
            ("patch_embed.0.bias", draw(4)),
            ("layers.0.blocks.0.op.A_logs", draw(8, 1)),
            ("layers.0.blocks.0.op.dt_projs_weight", draw(4, 2, 1)),
            ("classifier.head.weight", draw(5, 4)),
            ("classifier.head.bias", draw(5)),
        ]
    )


def module_state(seed):
    """From a real module: the dictionary carries the attribute _metadata, and integer buffers."""
    torch.manual_seed(seed)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 5))
    state = module.state_dict()
    assert hasattr(state, "_metadata")
    return state


def views_state():
    """Views of shared storages, transposed, strided, offset, empty and 0-dimensional tensors."""
    base = torch.arange(24, dtype=torch.float32)
    matrix = base.view(4, 6)
    return collections.OrderedDict(
        [
            ("whole", base),
            ("offset", base[5:9]),
            ("matrix", matrix),
            ("transposed", matrix.t()),
            ("column", matrix[:, 2]),
            ("strided", matrix[::2, 1::2]),
            ("expanded", base[3:4].expand(2, 3)),
            ("channels_last", torch.randn(2, 3, 2, 2).to(memory_format=torch.channels_last)),
            ("permuted", torch.randn(2, 3, 4).permute(2, 0, 1)),
            ("scalar", torch.tensor(7, dtype=torch.int64)),
            ("empty", torch.zeros(0, 3)),
            ("tied.a", matrix),
            ("tied.b", matrix),
        ]
    )


def types_state():
    values = torch.tensor([[1.5, -2.25, 0.0], [65504.0, 6e-8, -0.0]], dtype=torch.float64)
    state = collections.OrderedDict()
    for name in ("half", "bfloat16", "float", "double"):
        state[name] = values.to(getattr(torch, name))
    integers = torch.tensor([-3, 0, 100])
    for name in ("int8", "int16", "int32", "int64"):
        state[name] = integers.to(getattr(torch, name))
    state["uint8"] = torch.tensor([0, 127, 255], dtype=torch.uint8)
    state["bool"] = torch.tensor([True, False, True])
    return state


def parameters_state():
    state = small_state(9)
    return collections.OrderedDict((k, torch.nn.Parameter(v)) for k, v in state.items())


def negated_state():
    """Tensors whose negation PyTorch 2 and newer leave to whoever reads them."""
    return collections.OrderedDict(
        (k, torch.complex(torch.zeros_like(v), -v).conj().imag) for k, v in small_state(10).items()
    )


def marked_state():
    """Tensors and parameters with attributes of their own."""
    state = small_state(11)
    for i, name in enumerate(state):
        state[name] = torch.nn.Parameter(state[name]) if i % 2 else state[name]
        state[name]._no_weight_decay = True
    return state


def training_checkpoint():
    state = small_state(3)
    weight = state["classifier.head.weight"].clone()
    config = CfgNode(
        {
            "MODEL": {"TYPE": "vssm", "NAME": "tiny", "VSSM": {"DEPTHS": [2, 2, 5, 2], "SSM_RATIO": 2.0}},
            "TRAIN": {"BASE_LR": 1e-3, "AUTO_RESUME": True, "RANGE": (0.5, -1)},
            "AMP_ENABLE": None,
        }
    )
    return {
        "model": state,
        "model_ema": small_state(4),
        "optimizer": {
            "state": {0: {"step": torch.tensor(12.0), "exp_avg": weight * 0.1, "exp_avg_sq": weight**2}},
            "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "params": [0]}],
        },
        "lr_scheduler": {"last_epoch": 12, "big": 2**40, "negative": -(2**70)},
        "max_accuracy": 82.5,
        "scaler": {},
        "epoch": 299,
        "config": config,
        "args": argparse.Namespace(tag="a run", bytes=b"\x00\xff", nothing=None, flags={1, 2}),
    }


def prefixed(state, prefix):
    return collections.OrderedDict((prefix + k, v) for k, v in state.items())


class Unsafe:
    """What a hostile file does: asks the unpickler to call a function."""

    def __reduce__(self):
        return (os.system, ("echo executed > /tmp/vmamba_unsafe_pth",))


def cases():
    """(name, object, state dict that a reader should find or None, torch.save's other arguments)"""
    plain = small_state(1)
    yield "plain", plain, plain, {}
    yield "module", (m := module_state(2)), m, {}
    yield "model", {"model": plain}, plain, {}
    yield "state_dict", {"state_dict": plain, "epoch": 3}, plain, {}
    yield "prefixed", {"model": prefixed(plain, "module.")}, plain, {}
    checkpoint = training_checkpoint()
    yield "checkpoint", checkpoint, checkpoint["model"], {}
    only_ema = {"model_ema": small_state(5), "epoch": 1}
    yield "only_ema", only_ema, only_ema["model_ema"], {}
    yield "views", (v := views_state()), v, {}
    yield "types", (t := types_state()), t, {}
    yield "parameters", (p := parameters_state()), p, {}
    yield "half", (h := small_state(6, torch.float16)), h, {}
    yield "negated", (n := negated_state()), n, {}
    yield "marked", (m := marked_state()), m, {}
    for protocol in (2, 3, 4, 5):
        checkpoint = training_checkpoint()
        yield f"protocol{protocol}", checkpoint, checkpoint["model"], {"pickle_protocol": protocol}
    legacy = {"_use_new_zipfile_serialization": False}
    yield "legacy", plain, plain, legacy
    yield "legacy_views", (v := views_state()), v, legacy
    yield "legacy_types", (t := types_state()), t, legacy
    checkpoint = training_checkpoint()
    yield "legacy_checkpoint", checkpoint, checkpoint["model"], legacy
    yield "unsafe_call", {"model": plain, "extra": Unsafe()}, None, {}
    yield "unsafe_call_legacy", {"model": plain, "extra": Unsafe()}, None, legacy


def write(folder, name, value, expected, options):
    path = os.path.join(folder, name)
    torch.save(value, f"{path}.pth", **options)
    if expected is not None:
        save_expected(f"{path}.safetensors", expected)
    if isinstance(value, dict) and "model" in value and "model_ema" in value:
        save_expected(f"{path}.ema.safetensors", value["model_ema"])


def save_expected(path, state):
    tensorfile.save(path, {k: v.detach().cpu().resolve_neg().contiguous() for k, v in state.items()})


def write_broken(folder, prefix):
    """Files cut off or altered: every one is an error with a message, never a crash."""
    buffer = io.BytesIO()
    torch.save(small_state(1), buffer)
    whole = buffer.getvalue()
    with open(os.path.join(folder, f"{prefix}broken_cut.pth"), "wb") as file:
        file.write(whole[: len(whole) // 2])
    # The pickle names a storage that the archive lacks.
    source = zipfile.ZipFile(io.BytesIO(whole))
    with zipfile.ZipFile(os.path.join(folder, f"{prefix}broken_missing_storage.pth"), "w") as target:
        for item in source.infolist():
            if not item.filename.endswith("data/2"):
                target.writestr(zipfile.ZipInfo(item.filename), source.read(item.filename))
    # A tensor that reaches beyond its storage: the shape (5, 4) of the head becomes (5, 5).
    with zipfile.ZipFile(os.path.join(folder, f"{prefix}broken_too_large.pth"), "w") as target:
        for item in source.infolist():
            content = source.read(item.filename)
            if item.filename.endswith("data.pkl"):
                assert content.count(b"K\x05K\x04\x86") == 1
                content = content.replace(b"K\x05K\x04\x86", b"K\x05K\x05\x86")
            target.writestr(zipfile.ZipInfo(item.filename), content)
    with open(os.path.join(folder, f"{prefix}broken_not_a_dict.pth"), "wb") as file:
        pickle.dump([1, 2, 3], file, protocol=2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--prefix", default="", help="put before every file's name")
    parser.add_argument("--cuda-only", action="store_true", help="write only the file of tensors on a GPU")
    args = parser.parse_args()
    os.makedirs(args.folder, exist_ok=True)
    pretend_yacs()
    torch.manual_seed(0)
    if not args.cuda_only:
        for name, value, expected, options in cases():
            write(args.folder, args.prefix + name, value, expected, options)
        write_broken(args.folder, args.prefix)
    if torch.cuda.is_available():
        state = collections.OrderedDict((k, v.cuda()) for k, v in small_state(7).items())
        state["half.weight"] = torch.ones(2, 2, dtype=torch.float16, device="cuda").t()
        write(args.folder, args.prefix + "cuda", {"model": state}, state, {})
        legacy = {"_use_new_zipfile_serialization": False}
        write(args.folder, args.prefix + "cuda_legacy", {"model": state}, state, legacy)


if __name__ == "__main__":
    main()
