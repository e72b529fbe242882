"""Reads and writes safetensors files as dictionaries of torch tensors.

A file is: the header's length as a little-endian 64-bit integer, a JSON header
{name: {dtype, shape, data_offsets}, "__metadata__": {str: str}}, then the tensors' bytes.
"""

import json
import os
import struct

import numpy as np
import torch

# code in the file -> (torch type, numpy type of the same width)
DTYPES = {
    "F64": (torch.float64, np.float64),
    "F32": (torch.float32, np.float32),
    "F16": (torch.float16, np.float16),
    "BF16": (torch.bfloat16, np.int16),
    "I64": (torch.int64, np.int64),
    "I32": (torch.int32, np.int32),
    "I16": (torch.int16, np.int16),
    "I8": (torch.int8, np.int8),
    "U8": (torch.uint8, np.uint8),
    "BOOL": (torch.bool, np.bool_),
}
CODES = {torch_type: code for code, (torch_type, _) in DTYPES.items()}


def load(path):
    """Returns {name: tensor}, in the order in which the tensors lie in the file."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        torch_type, numpy_type = DTYPES[entry["dtype"]]
        begin, end = entry["data_offsets"]
        array = np.frombuffer(data[begin:end], dtype=numpy_type).reshape(entry["shape"]).copy()
        tensor = torch.from_numpy(array)
        tensors[name] = tensor.view(torch.bfloat16) if torch_type is torch.bfloat16 else tensor
    return tensors


def metadata(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)).get("__metadata__", {})


def save(path, tensors, metadata=None):
    """Writes beside the target and renames, so that no half-written file is left."""
    header, chunks, offset = {}, [], 0
    if metadata:
        header["__metadata__"] = metadata
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        code = CODES[tensor.dtype]
        bits = tensor.view(torch.int16) if code == "BF16" else tensor
        chunk = bits.numpy().tobytes()
        header[name] = {
            "dtype": code,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(chunk)],
        }
        chunks.append(chunk)
        offset += len(chunk)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = f"{path}.part"
    with open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for chunk in chunks:
            file.write(chunk)
    os.replace(partial, path)
