"""Writes one state dict in many ways, as training scripts leave theirs, and has vmamba-cli load each.

    checkpoint_zoo.py VMAMBA_CLI [FOLDER]

What is loaded is what `vmamba-cli convert-weights` writes: names, shapes and bytes must be those of the plain state
dict (or of the averaged one, where the file has one). Files that are no checkpoints must be refused by name. Prints a
table and the counts; exits 1 where a file is not read as it should be. Works with PyTorch 1.13 and newer; omegaconf,
yacs, easydict and safetensors are used where they are installed.
"""

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import io
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import types
import uuid
import warnings
import zipfile

import numpy as np
import torch
from torch import nn

import tensorfile

CONFIG = {"depths": [1, 1], "dims": 8, "num_classes": 3, "ssm_d_state": 1, "ssm_ratio": 1.0, "forward_type": "v05_noz",
          "mlp_ratio": 2.0, "ssm_conv_bias": False, "norm_layer": "ln2d", "downsample_version": "v3",
          "patchembed_version": "v2", "imgsize": 64}  # fmt: skip


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Settings:
    rate: float = 0.1
    steps: tuple = (1, 2)


class Attributes:
    def __init__(self, **values):
        self.__dict__.update(values)


class Slots:
    __slots__ = ("a", "b")

    def __init__(self):
        self.a, self.b = 1, [2]

    def __reduce__(self):
        return (Slots, (), (None, {"a": 1, "b": [2]}))


class DictKind(dict):
    pass


class TensorKind(torch.Tensor):
    pass


Pair = collections.namedtuple("Pair", "first second")


class HistoryBuffer:
    """Pickles as mmengine's."""

    def __init__(self):
        self._log_history, self._count_history = np.arange(3.0), np.ones(3)
        self._statistics_methods = {"mean": np.mean}
        self.method = getattr


def pretend(module, *classes):
    parts = module.split(".")
    for i in range(len(parts)):
        name = ".".join(parts[: i + 1])
        sys.modules.setdefault(name, types.ModuleType(name))
    for kind in classes:
        kind.__module__ = module
        setattr(sys.modules[module], kind.__name__, kind)


class Holder(nn.Module):
    """A module whose state dict has the given names."""

    def __init__(self, state):
        super().__init__()
        for name, tensor in state.items():
            *path, last = name.split(".")
            module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]
            module.register_parameter(last, nn.Parameter(tensor.clone()))

    def forward(self, x):
        return x


def prefixed(state, *prefixes):
    return collections.OrderedDict((prefix + k, v) for prefix in prefixes for k, v in state.items())


def inserted(state, part):
    return collections.OrderedDict((re.sub(r"(blocks\.\d+\.)", r"\1" + part, k), v) for k, v in state.items())


def renamed(state, pairs):
    out = collections.OrderedDict()
    for name, tensor in state.items():
        for before, after in pairs:
            name = re.sub(before, after, name)
        out[name] = tensor
    return out


HUB = [(r"^patch_embed\.0\.", "vmamba.patch_embeddings.projection.0."),
       (r"^patch_embed\.2\.", "vmamba.patch_embeddings.projection.1."),
       (r"^patch_embed\.5\.", "vmamba.patch_embeddings.projection.3."),
       (r"^patch_embed\.7\.", "vmamba.patch_embeddings.projection.4."),
       (r"^layers\.", "vmamba.layers."), (r"downsample\.1\.", "downsample.down."), (r"downsample\.3\.", "downsample.norm."),
       (r"^classifier\.norm\.", "vmamba.norm."), (r"^classifier\.head\.", "head."),
       (r"x_proj_weight$", "x_proj.weight"), (r"dt_projs_weight$", "dt_projs.weight")]  # fmt: skip


def grouped(state):
    return {
        k: v.reshape(-1, v.shape[-1]) if k.endswith(("x_proj.weight", "dt_projs.weight")) else v
        for k, v in renamed(state, HUB).items()
    }


def objects():
    """What stands beside a model: name, object."""
    yield "date", {"d": datetime.date(2024, 1, 2), "t": datetime.time(1, 2), "z": datetime.timezone.utc}
    yield "datetime", [datetime.datetime.now(), datetime.timedelta(1)]
    yield "enum", Colour.RED
    yield "dataclass", Settings()
    yield "namespace", argparse.Namespace(a=1, b=Colour.RED, c=None)
    yield "simple namespace", types.SimpleNamespace(a=[1, {2}])
    yield "object with attributes", Attributes(a=1, b=Attributes(c=2))
    yield "object with slots", Slots()
    yield "kind of dict", DictKind(a=1)
    yield "named tuple", Pair(1, 2)
    yield "default dict", collections.defaultdict(list, {"loss": [0.1]})
    yield "counter and deque", [collections.Counter("aab"), collections.deque([1, 2], 5)]
    yield "paths", [pathlib.PurePosixPath("a/b"), pathlib.Path("c")]
    yield "decimal, fraction", [decimal.Decimal("1.5"), fractions.Fraction(1, 3)]
    yield "uuid", uuid.UUID(int=5)
    yield "compiled expression", re.compile("a+")
    yield "complex, range, slice", [1 + 2j, range(5), slice(1, 2)]
    yield "bytes", [b"\x00\xff", bytearray(b"abc"), 2**80, -(2**70)]
    yield "sets", [{1, 2}, frozenset("ab")]
    yield "class and function", [Settings, functools.partial(print, 1), os.path.join, len]
    yield "numpy scalars", [np.float64(1.5), np.int32(2), np.bool_(True), np.float32(0.5)]
    yield "numpy arrays", {"a": np.arange(6).reshape(2, 3), "s": np.array(["x", "yy"]), "o": np.array([None, 1], object)}
    yield "numpy dtype", np.dtype("float32")
    yield "numpy random state", np.random.get_state()
    yield "numpy generator", np.random.default_rng(0)
    yield "python random state", random.getstate()
    yield "torch dtypes", [torch.float32, torch.bool, torch.complex64, torch.bfloat16]
    yield "torch device and size", [torch.device("cpu"), torch.Size([1, 2])]
    yield "torch random state", torch.get_rng_state()
    yield "history buffer", {"train/loss": HistoryBuffer()}
    yield "sparse tensor", torch.eye(3).to_sparse()
    yield "sparse tensor, CSR", torch.eye(3).to_sparse_csr()
    yield "quantised tensor", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)
    yield "complex tensor", torch.ones(3, dtype=torch.complex64)
    yield "conjugated tensor", torch.ones(3, dtype=torch.complex64).conj()
    yield "meta tensor", torch.empty(3, device="meta")
    yield "kind of tensor", torch.ones(3).as_subclass(TensorKind)
    yield "typed storage", torch.ones(3).storage()
    yield "nested tensor", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    for name in ("float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64"):
        if hasattr(torch, name):
            yield name, torch.zeros(4, dtype=getattr(torch, name))
    yield "module", nn.Linear(2, 2)
    yield "loss function", nn.CrossEntropyLoss(label_smoothing=0.1)
    try:
        import omegaconf

        yield "omegaconf", omegaconf.OmegaConf.create({"a": {"b": [1, "x", None]}, "c": "${a.b}"})
    except ImportError:
        pass
    try:
        import yacs.config

        yield "yacs", yacs.config.CfgNode({"MODEL": {"DEPTHS": [1, 1]}})
    except ImportError:
        pass
    try:
        import easydict

        yield "easydict", easydict.EasyDict(a=1, b={"c": 2})
    except ImportError:
        pass


def checkpoints(state, ema):
    """name, what is saved, what should be read (None: refused), words of the command or of the refusal, save's options"""
    half = {k: v.half() for k, v in state.items()}
    yield "plain", state, state, [], {}
    yield "plain dict", dict(state), state, [], {}
    yield "module.state_dict()", Holder(state).state_dict(), state, [], {}
    for protocol in (1, 2, 3, 4, 5):
        yield f"protocol {protocol}", {"model": state, "epoch": 3}, state, [], {"pickle_protocol": protocol}
    for name, old in (("legacy", state), ("legacy, half", half)):
        yield name, old, old, [], {"_use_new_zipfile_serialization": False}
    legacy = {"_use_new_zipfile_serialization": False, "pickle_protocol": 4}
    yield "legacy beside a config", {"model": state, "config": Settings(), "args": Attributes(a=1)}, state, [], legacy
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        typed = {k: v.to(dtype) for k, v in state.items()}
        yield str(dtype), typed, typed, [], {}

    # Where the state dict stands.
    for key in ("model", "state_dict", "model_state_dict", "net", "network", "weights", "params", "module", "student",
                "generator", "teacher_model"):  # fmt: skip
        yield f"under {key}", {key: state, "epoch": 1, "loss": torch.tensor(0.5)}, state, [], {}
    for key in ("model_ema", "state_dict_ema", "ema", "ema_state_dict", "params_ema", "ema_model", "model_ema_state_dict"):
        yield f"{key} beside model", {"model": state, key: ema}, ema, [], {}
        yield f"{key} beside state_dict", {"state_dict": state, key: ema, "epoch": 2}, ema, [], {}
    yield "ema.module", {"model": state, "ema": {"module": ema, "decay": 0.99}}, ema, [], {}
    yield "nested", {"a": {"b": {"model": state}}, "epoch": 1}, state, [], {}
    yield "two under other keys", {"one": state, "two": ema}, None, ["several dicts", "--key"], {}
    yield "two, --key", {"one": state, "two": ema}, ema, ["--key", "two"], {}
    yield "--key, a path", {"a": {"b": ema, "c": state}}, ema, ["--key", "a.b"], {}
    yield "--key, dots in a key", {"a.b": {"c": ema}, "model": state}, ema, ["--key", "a.b.c"], {}
    yield "--key, in a list", {"models": [state, ema]}, ema, ["--key", "models.1"], {}
    yield "--key, an attribute", {"trainer": Attributes(best=ema, last=state)}, ema, ["--key", "trainer.best"], {}
    yield "state dict of a kind of dict", {"model": DictKind(state)}, state, [], {}
    yield "default dict of tensors", collections.defaultdict(int, state), state, [], {}

    # What wraps the names.
    for prefix in ("module.", "_orig_mod.", "model.", "net.", "encoder.", "backbone.", "module._orig_mod.",
                   "_orig_mod.module.", "model.module.", "module.model.backbone.", "_fsdp_wrapped_module.",
                   "model._fsdp_wrapped_module._orig_mod."):  # fmt: skip
        yield f"names after {prefix}", {"model": prefixed(state, prefix)}, state, [], {}
    for part in ("_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "_orig_mod."):
        yield f"{part} in the blocks", prefixed(inserted(state, part), "module."), state, [], {}
    yield "--prefix", {"state_dict": prefixed(state, "student.", "teacher.")}, state, ["--prefix", "teacher."], {}
    yield "student and teacher", prefixed(state, "student.", "teacher."), "fits none", [], {}
    yield "average beside the model", prefixed(state, "module.", "averaged."), state, [], {}
    averaged = torch.optim.swa_utils.AveragedModel(Holder(state))
    yield "AveragedModel", averaged.state_dict(), state, [], {}
    yield "AveragedModel of DataParallel", prefixed(averaged.state_dict(), "module."), state, [], {}
    counts = dict(state, total_ops=torch.zeros(1, dtype=torch.float64), total_params=torch.zeros(1))
    counts["layers.0.total_ops"] = torch.zeros(1, dtype=torch.float64)
    yield "a profiler's counts", counts, state, [], {}
    auxiliary = {"aux_head.weight": torch.ones(2), "auxiliary_head.0.bias": torch.ones(2)}
    yield "auxiliary head", dict(state, **auxiliary), state, [], {}
    yield "hub's names", grouped(state), state, [], {}
    old = renamed(state, [(r"^classifier\.", ""), (r"\.norm\.(weight|bias)$", r".ln_1.\1"), (r"\.op\.", ".self_attention."),
                          (r"^ln_1\.", "norm."), (r"downsample\.ln_1", "downsample.norm")])  # fmt: skip
    yield "names of the first release", old, state, [], {}
    four = {k: v[:, :, None, None] if re.search(r"(_proj|fc\d)\.weight$", k) else v for k, v in state.items()}
    yield "Linear as 1x1 convolution", four, four, [], {}
    detector = prefixed({k: v for k, v in state.items() if not k.startswith("classifier")}, "backbone.")
    backbone = collections.OrderedDict((k[9:], v) for k, v in detector.items())
    detector["neck.fpn.weight"] = detector["bbox_head.bias"] = torch.ones(2)
    yield "detector", {"state_dict": detector, "meta": {"time": "now"}}, backbone, [], {}

    # Training.
    module = Holder(state)
    optimizer = torch.optim.AdamW(module.parameters())
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    training = {"model": state, "optimizer": optimizer.state_dict(), "lr_scheduler": schedule.state_dict(), "epoch": 5}
    yield "optimizer and schedule", training, state, [], {}
    yield "optimizer object", {"model": state, "optimizer": optimizer, "scheduler": schedule}, state, [], {}
    by_name = {"exp_avg": dict(state), "exp_avg_sq": dict(state)}
    yield "optimizer by names", {"weights": state, "optimizer": by_name}, state, [], {}
    lightning = {"state_dict": prefixed(state, "model."), "pytorch-lightning_version": "2.1", "callbacks": {},
                 "hyper_parameters": {"net": functools.partial(nn.Linear, 3), "lr": 1e-3}, "loops": {"fit_loop": {}}}  # fmt: skip
    yield "Lightning", lightning, state, [], {}
    metrics = dict(prefixed(state, "model."), **{"train_acc.total": torch.tensor(3), "criterion.weight": torch.ones(3)})
    yield "Lightning with metrics", dict(lightning, state_dict=metrics), state, [], {}

    # Tensors.
    yield "parameters", {k: nn.Parameter(v.clone()) for k, v in state.items()}, state, [], {}
    marked = {k: nn.Parameter(v.clone()) for k, v in state.items()}
    plain_marked = {k: v.clone() for k, v in state.items()}
    for values in (marked, plain_marked):
        for value in values.values():
            value._no_weight_decay = True
    yield "parameters with attributes", marked, state, [], {}
    yield "tensors with attributes", plain_marked, state, [], {}
    yield "transposed", {k: v.t().contiguous().t() if v.dim() == 2 else v for k, v in state.items()}, state, [], {}
    yield "channels last", {k: v.contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v
                            for k, v in state.items()}, state, [], {}  # fmt: skip
    flat = torch.cat([v.flatten() for v in state.values()])
    pieces, begin = {}, 0
    for name, tensor in state.items():
        pieces[name] = flat[begin : begin + tensor.numel()].view(tensor.shape)
        begin += tensor.numel()
    yield "views of one storage", pieces, state, [], {}
    negative = {k: torch.complex(torch.zeros_like(v), -v).conj().imag for k, v in state.items()}
    # PyTorch before 2.0 loses the bit itself: what it reads counts.
    buffer = io.BytesIO()
    torch.save(negative, buffer)
    buffer.seek(0)
    yield "neg bit", negative, torch.load(buffer), [], {}
    complex_bias = {"classifier.head.bias": torch.ones(3, dtype=torch.complex64)}
    words = ["classifier.head.bias", "ComplexFloatStorage"]
    yield "a tensor of another kind", dict(state, **complex_bias), None, words, {}
    for name, value in objects():
        yield f"beside: {name}", {"model": state, "extra": value, "list": [value]}, state, [], {}
        if isinstance(value, torch.Tensor):
            yield f"among the tensors: {name}", dict(state, extra_state=value), (state, name), [], {}

    # What is no state dict.
    yield "whole module", Holder(state), None, ["a whole pickled module", "state_dict()"], {}
    yield "whole module under model", {"model": Holder(state), "epoch": 1}, None, ["a whole pickled module"], {}
    yield "one tensor", torch.ones(3), None, ["no state dict"], {}
    yield "a list of numbers", [1, 2], None, ["no state dict"], {}
    yield "arrays of NumPy", {k: v.numpy() for k, v in state.items()}, None, ["no state dict"], {}


def files(state, folder):
    """Files that torch.save does not write: name, path, what should be read (None: refused), words"""

    def put(name, content):
        path = os.path.join(folder, name)
        with open(path, "wb") as file:
            file.write(content)
        return path

    buffer = io.BytesIO()
    torch.save(state, buffer)
    traced = os.path.join(folder, "traced.pt")
    torch.jit.script(nn.Linear(2, 2)).save(traced)
    yield "TorchScript", traced, None, ["TorchScript"]
    path = os.path.join(folder, "arrays.npz")
    np.savez(path, **{k: v.numpy() for k, v in state.items()})
    yield "npz", path, None, ["NumPy"]
    np.save(os.path.join(folder, "array.npy"), np.ones(3))
    yield "npy", os.path.join(folder, "array.npy"), None, ["NumPy"]
    yield "ONNX", put("model.onnx", b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + bytes(100)), None, ["ONNX"]
    yield "HDF5", put("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(100)), None, ["HDF5"]
    yield "GGUF", put("model.gguf", b"GGUF\x03\0\0\0" + bytes(100)), None, ["GGUF"]
    yield "web page", put("page.pth", b"<!DOCTYPE html><html>" + b" " * 100), None, ["web page"]
    yield "config", put("config.pth", json.dumps(CONFIG).encode()), None, ["--config"]
    yield "255 bytes", put("bytes.pth", b"\xff" * 300), None, ["neither a safetensors file"]
    yield "cut off", put("cut.pth", buffer.getvalue()[:5000]), None, ["zip"]
    path = os.path.join(folder, "plain.safetensors")
    tensorfile.save(path, state)
    yield "safetensors", path, state, []
    names = list(state)
    weight_map = {}
    for i, part in enumerate((names[::2], names[1::2])):
        tensorfile.save(os.path.join(folder, f"shard{i}.safetensors"), {k: state[k] for k in part})
        weight_map.update({k: f"shard{i}.safetensors" for k in part})
    index = put("model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": weight_map}).encode())
    yield "shards", index, state, []
    for i, part in enumerate((names[::2], names[1::2])):
        torch.save({k: state[k] for k in part}, os.path.join(folder, f"shard{i}.bin"))
    binary = {k: v.replace(".safetensors", ".bin") for k, v in weight_map.items()}
    index = put("pytorch_model.bin.index.json", json.dumps({"weight_map": binary}).encode())
    yield "shards of torch.save", index, state, []
    outside = put("outside.index.json", json.dumps({"weight_map": {"a": "../shard0.safetensors"}}).encode())
    yield "shards outside the folder", outside, None, ["beside the index"]
    try:
        import safetensors.torch

        path = os.path.join(folder, "library.safetensors")
        safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path, {"format": "pt"})
        yield "safetensors' own library", path, state, []
    except ImportError:
        pass
    if hasattr(torch.serialization, "set_crc32_options"):
        torch.serialization.set_crc32_options(False)
        path = os.path.join(folder, "no_crc.pth")
        torch.save(state, path)
        torch.serialization.set_crc32_options(True)
        yield "no CRC sums", path, state, []
    swapped = os.path.join(folder, "big_endian.pth")
    with zipfile.ZipFile(swapped, "w") as target, zipfile.ZipFile(buffer) as source:
        for item in source.infolist():
            content = source.read(item)
            if "/data/" in item.filename:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            if not item.filename.endswith("byteorder"):
                target.writestr(item.filename, content)
        target.writestr("archive/byteorder", "big")
    yield "big endian", swapped, state, []


def same(got, wanted):
    if list(got) != list(wanted) and set(got) != set(wanted):
        return f"names differ: {sorted(set(got) ^ set(wanted))[:2]}"
    for name, tensor in wanted.items():
        tensor = tensor.detach()
        if got[name].dtype != tensor.dtype or got[name].shape != tensor.shape or not torch.equal(got[name], tensor):
            return f"{name} differs"
    return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cli")
    parser.add_argument("folder", nargs="?")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    pretend("training.settings", Colour, Settings, Attributes, Slots, DictKind, TensorKind, Pair, Holder)
    pretend("mmengine.logging.history_buffer", HistoryBuffer)
    folder = args.folder or tempfile.mkdtemp(prefix="checkpoint_zoo_")
    os.makedirs(folder, exist_ok=True)
    config, plain, out = (os.path.join(folder, name) for name in ("zoo_config.json", "zoo_plain.safetensors", "out.safetensors"))
    with open(config, "w") as file:
        json.dump(CONFIG, file)
    subprocess.run([args.cli, "-q", "init-weights", "--config", config, "--seed", "1", "-o", plain], check=True)
    state = collections.OrderedDict(tensorfile.load(plain))
    ema = collections.OrderedDict((k, v * 0.5) for k, v in state.items())

    rows = collections.Counter()

    def check(name, path, wanted, words):
        options = words if words and words[0].startswith("--") else []
        if isinstance(wanted, tuple):
            # Beside the model in its own dict: what can be read is written too, under its own name.
            wanted = dict(wanted[0])
        if os.path.exists(out):
            os.remove(out)
        run = subprocess.run([args.cli, "convert-weights", path, out] + options, capture_output=True, text=True)
        told = run.stderr.strip().splitlines()
        if wanted is None:
            ok = run.returncode == 2 and all(word in told[-1] for word in words)
            what = "refused by name" if ok else f"exit {run.returncode}: {told[-1:]}"
        elif wanted == "fits none":
            run = subprocess.run([args.cli, "info", "--config", config, "--weights", path], capture_output=True, text=True)
            ok = run.returncode == 1 and "--prefix student." in run.stdout
            what = "told that --prefix chooses" if ok else f"exit {run.returncode}"
        elif run.returncode != 0:
            ok, what = False, told[-1]
        else:
            got = tensorfile.load(out)
            extra = [k for k in got if k.startswith("extra")]
            for k in extra:
                got.pop(k)
            what = same(got, wanted)
            ok = not what
            what = what or "the same"
        rows["right" if ok else "WRONG"] += 1
        rows["refused" if wanted is None and ok else "read"] += 1
        print(f"{'right' if ok else 'WRONG'}  {name:45} {what}", flush=True)

    for name, value, wanted, words, options in checkpoints(state, ema):
        path = os.path.join(folder, "case.pth")
        try:
            torch.save(value, path, **options)
        except Exception as error:  # this PyTorch can't save such a thing
            rows["not written"] += 1
            print(f"-      {name:45} torch.save: {str(error)[:60]}")
            continue
        check(name, path, wanted, words)
    for name, path, wanted, words in files(state, folder):
        check(name, path, wanted, words)
    print(f"PyTorch {torch.__version__}: {rows['right']} of {rows['right'] + rows['WRONG']} as they should be "
          f"({rows['refused']} of them refused by name); {rows['not written']} that this PyTorch does not write")  # fmt: skip
    return 1 if rows["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
