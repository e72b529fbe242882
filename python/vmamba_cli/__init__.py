"""VMamba image classifiers, and the check that a PyTorch module computes what a file of weights does.

A thin layer over libvmamba: errors are its lines, calls release the GIL, any thread may call. docs/python.md
"""
from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any, Callable, Iterable, NamedTuple, Sequence

import numpy as np

__all__ = ["Error", "InputError", "MachineError", "Model", "Prediction", "check_equal", "__version__"]

_HERE = pathlib.Path(__file__).parent
_PROGRAM = _HERE / "bin" / "vmamba-cli"


class Error(Exception):
    """A failure, in one line."""


class InputError(Error, ValueError):
    """Wrong arguments, config, weights or images. An image that cannot be read is an OSError."""


class MachineError(Error, RuntimeError):
    """The device or the machine failed, or has no memory left."""


_LOG = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
_WANTS = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_AT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_float),
                       ctypes.POINTER(ctypes.c_int64), ctypes.c_size_t)
_TEXTS = ("weights", "config", "key", "prefix", "labels", "device", "dtype", "selective_scan_backend",
          "forward_core_version")


class _Options(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), *((name, ctypes.c_char_p) for name in _TEXTS), ("threads", ctypes.c_int),
                ("log", _LOG), ("log_user", ctypes.c_void_p)]


class _Taps(ctypes.Structure):
    _fields_ = [("user", ctypes.c_void_p), ("wants", _WANTS), ("at", _AT)]


class _Encoded(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_char_p), ("size", ctypes.c_size_t), ("name", ctypes.c_char_p)]


class _Rgb(ctypes.Structure):
    _fields_ = [("pixels", ctypes.c_void_p), ("width", ctypes.c_int), ("height", ctypes.c_int),
                ("stride", ctypes.c_size_t)]


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_HERE / "lib" / "libvmamba.so"))
    library.vmamba_version.restype = ctypes.c_char_p
    library.vmamba_describe.restype = ctypes.c_char_p
    library.vmamba_describe.argtypes = [ctypes.c_void_p]
    library.vmamba_class_name.restype = ctypes.c_char_p
    library.vmamba_class_name.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.vmamba_close.restype = None
    library.vmamba_close.argtypes = [ctypes.c_void_p]
    library.vmamba_free.restype = None
    library.vmamba_free.argtypes = [ctypes.c_void_p]
    library.vmamba_open.argtypes = [ctypes.POINTER(_Options), ctypes.POINTER(ctypes.c_void_p),
                                    ctypes.POINTER(ctypes.c_void_p)]
    for images in (library.vmamba_classify_encoded, library.vmamba_classify_rgb):
        images.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p,
                           ctypes.POINTER(ctypes.c_void_p)]
    library.vmamba_classify_tensor.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int,
                                               ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
                                               ctypes.POINTER(ctypes.c_void_p)]
    return library


_library = _load()
__version__: str = _library.vmamba_version().decode()


def _call(function: Any, *arguments: Any) -> None:
    error = ctypes.c_void_p()
    status = function(*arguments, ctypes.byref(error))
    if status == 0:
        return
    text = ctypes.string_at(error.value).decode() if error.value else f"status {status}"
    _library.vmamba_free(error)
    raise (InputError if status == 2 else MachineError)(text)


class Prediction(NamedTuple):
    class_index: int
    label: str | None
    probability: float


class Model:
    """A model on one device. Without weights and config, the shipped one."""

    def __init__(self, weights: str | os.PathLike[str] | None = None, config: str | os.PathLike[str] | None = None,
                 device: str = "auto", dtype: str = "auto", *, key: str | None = None, prefix: str | None = None,
                 labels: str | os.PathLike[str] | None = None, selective_scan_backend: str | None = None,
                 forward_core_version: str | None = None, threads: int = 0,
                 log: Callable[[str], None] | None = None) -> None:
        """log receives assumptions and warnings; by default warnings go to stderr."""
        self._model: ctypes.c_void_p | None = None
        say = log or (lambda text: print(f"vmamba_cli: {text}", file=sys.stderr))
        quiet = log is None
        self._log = _LOG(lambda _, level, text: None if quiet and level == 0 else say(text.decode()))
        given = locals()
        texts = {name: None if given[name] is None else os.fsencode(given[name]) for name in _TEXTS}
        for name, text in texts.items():
            if text is not None and b"\0" in text:
                raise InputError(f"{name}: has a null character in it")
        if not 0 <= threads <= 4096:  # before it becomes an int of C
            raise InputError(f"threads: wanted 0 (all that the process may use) to 4096, got {threads}")
        options = _Options(size=ctypes.sizeof(_Options), threads=threads, log=self._log, **texts)
        model = ctypes.c_void_p()
        _call(_library.vmamba_open, ctypes.byref(options), ctypes.byref(model))
        self._model = model
        self.description: dict[str, Any] = json.loads(_library.vmamba_describe(model))
        self.labels: list[str] | None = None
        if _library.vmamba_class_name(model, 0) is not None:
            self.labels = [_library.vmamba_class_name(model, i).decode() for i in range(self.classes)]

    @property
    def classes(self) -> int:
        return self.description["num_classes"]

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            _library.vmamba_close(self._model)

    def classify(self, images: Any, topk: int = 5) -> list[list[Prediction]]:
        """The most likely classes of each image, in descending order. images: as of logits()."""
        logits = self.logits(images).astype(np.float64)
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        order = np.argsort(-logits, axis=1, kind="stable")[:, :topk]
        return [[Prediction(int(i), self.labels[i] if self.labels else None, float(row[i])) for i in best]
                for row, best in zip(probabilities, order)]

    def logits(self, images: Any) -> np.ndarray:
        """(n, classes) float32. images: paths, bytes of files, PIL images or uint8 arrays (H, W, 3), one or a sequence;
        or a float32 array (n, channels, H, W), already normalised. They are one batch."""
        return self._run(images, None)

    def features(self, images: Any) -> np.ndarray:
        """What the classifier's last product is applied to: (n, channels) float32."""
        features = self.taps(images, ["classifier.pool"])["classifier.pool"]
        return features.reshape(len(features), -1)

    def taps(self, images: Any, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Intermediate values by name (docs/verification.md), channels last; names None: all."""
        wanted = None if names is None else {names} if isinstance(names, str) else set(names)
        found: dict[str, np.ndarray] = {}
        failures: list[Exception] = []  # ctypes drops what a callback raises

        def at(_: Any, name: bytes, values: Any, dims: Any, rank: int) -> None:
            try:
                found[name.decode()] = np.ctypeslib.as_array(values, tuple(dims[:rank])).copy()
            except Exception as failure:
                failures.append(failure)

        taps = _Taps(None, _WANTS(lambda _, name: wanted is None or name.decode() in wanted), _AT(at))
        self._run(images, ctypes.byref(taps))
        if failures:
            raise failures[0]
        if wanted is not None and wanted - found.keys():
            raise InputError(f"no such taps: {', '.join(sorted(wanted - found.keys()))}")
        return found

    def _run(self, images: Any, taps: Any) -> np.ndarray:
        if isinstance(images, np.ndarray) and images.ndim == 4 and images.dtype == np.float32:
            values = np.ascontiguousarray(images)
            if values.shape[1] != self.description["in_chans"]:
                raise InputError(f"input: wanted (batch, {self.description['in_chans']}, height, width), got {values.shape}")
            logits = np.empty((len(values), self.classes), np.float32)
            _call(_library.vmamba_classify_tensor, self._model, values.ctypes.data, len(values), values.shape[2],
                  values.shape[3], logits.ctypes.data, taps)
            return logits
        if isinstance(images, (str, bytes, os.PathLike)) or hasattr(images, "convert") or (
                isinstance(images, np.ndarray) and images.ndim == 3):
            images = [images]
        given: Sequence[Any] = list(images)
        logits = np.empty((len(given), self.classes), np.float32)
        if all(isinstance(image, (str, bytes, os.PathLike)) for image in given):
            files = [(image, None) if isinstance(image, bytes) else (pathlib.Path(image).read_bytes(), os.fsencode(image))
                     for image in given]
            encoded = (_Encoded * len(files))(*(_Encoded(data, len(data), name) for data, name in files))
            _call(_library.vmamba_classify_encoded, self._model, encoded, len(files), logits.ctypes.data, taps)
            return logits
        arrays = [np.asarray(image.convert("RGB") if hasattr(image, "convert") else image) for image in given]
        for array in arrays:
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
                raise InputError(f"wanted paths, bytes, PIL images, uint8 arrays (height, width, 3) or one float32 array "
                                 f"(batch, channels, height, width), got {array.dtype} {array.shape}")
        arrays = [array if array.strides[1:] == (3, 1) and array.strides[0] >= 3 * array.shape[1]
                  else np.ascontiguousarray(array) for array in arrays]
        rgb = (_Rgb * len(arrays))(*(_Rgb(array.ctypes.data, array.shape[1], array.shape[0], array.strides[0])
                                     for array in arrays))
        _call(_library.vmamba_classify_rgb, self._model, rgb, len(arrays), logits.ctypes.data, taps)
        return logits


def check_equal(module: Any, weights: str | os.PathLike[str] | None = None, *, size: int = 224, batch: int = 1,
                seed: int = 0, arguments: Sequence[str] = ()) -> str:
    """Runs a PyTorch VSSM on noise (batch, channels, size, size) and compares every tap with this package's run of
    `weights` (None: the module's own). Returns the report; AssertionError with it if they differ. The module's modes
    (train, eval) stay as they are. arguments: more options of `vmamba-cli check-equal`, such as --device cpu."""
    import torch
    script = _HERE / "share" / "vmamba-cli" / "dump_reference.py"
    spec = importlib.util.spec_from_file_location("vmamba_dump_reference", script)
    assert spec is not None and spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    with tempfile.TemporaryDirectory() as folder:
        training = [(part, part.training) for part in module.modules()]
        try:
            reference.recognise(module)
            channels = reference.first(module.patch_embed, torch.nn.Conv2d).in_channels
            x = torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))
            reference.dump(module, x, folder, weights=weights is None)
        except reference.Refused as refused:
            raise InputError(str(refused)) from None
        finally:
            for part, mode in training:
                part.training = mode
        done = subprocess.run(
            [_PROGRAM, "check-equal", "--config", f"{folder}/config.json",
             "--weights", weights or f"{folder}/weights.safetensors", "--reference", f"{folder}/io.safetensors", *arguments],
            capture_output=True, text=True, check=False)
    if done.returncode == 1:
        raise AssertionError(done.stdout)
    if done.returncode != 0:
        raise (InputError if done.returncode == 2 else MachineError)(done.stderr.strip())
    return done.stdout


def main() -> None:
    """The command vmamba-cli."""
    os.execv(_PROGRAM, [sys.argv[0], *sys.argv[1:]])
