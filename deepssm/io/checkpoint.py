"""Weights and configuration in one safetensors file: atomic to write, safe to read.

No pickle, no import by name. A reader checks sizes, names, types and offsets of the header before
it reads or allocates anything, so that a crafted file costs no memory and runs no code.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor, nn

from .atomic import write_bytes

MAX_FILE_BYTES = 2 * 2**30
MAX_HEADER_BYTES = 4 * 2**20
MAX_TENSORS = 20_000
FORMAT = "deepssm-1"

_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,254}")


class Checkpoint(NamedTuple):
    """What a checkpoint file holds.

    Attributes:
        tensors: Named numbers, on the CPU.
        config: Plain data that say how to build what the numbers belong to.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any]

    def restore(self, **modules: nn.Module) -> None:
        """Copy the numbers back into modules saved under the same names.

        Raises:
            ValueError: a module's names, shapes or types differ from the file's.
        """
        for prefix, module in modules.items():
            _restore(module, _under(self.tensors, prefix), prefix)


def save(path: str | Path, config: Mapping[str, Any], **modules: nn.Module) -> None:
    """Write modules' parameters and buffers, and how to build the modules, to one file.

    The file appears whole or not at all, whenever the process dies.

    Args:
        path: The file, by custom `model.safetensors`.
        config: Plain data (numbers, strings, lists, mappings), kept as JSON.
        **modules: Modules to keep, each under its name.

    Raises:
        ValueError: `config` is not plain data, or a tensor holds NaN.
    """
    tensors = {
        f"{prefix}.{name}": tensor
        for prefix, module in modules.items()
        for name, tensor in _state(module).items()
    }
    save_tensors(path, config, tensors, "`modules`")


def save_tensors(
    path: str | Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str
) -> None:
    """Write named tensors and plain data to one file; `load` reads them back.

    Args:
        path: The file.
        config: Plain data, kept as JSON.
        tensors: Numbers by name.
        where: What an error calls them.

    Raises:
        ValueError: `config` is not plain data, or a tensor holds NaN.
    """
    from safetensors.torch import save as to_bytes

    kept = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    _reject_nan(kept, where)
    try:
        text = json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`config` must be plain JSON data: {error}.") from None
    write_bytes(path, to_bytes(kept, {"format": FORMAT, "config": text}))


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint that `save` wrote, trusting nothing in it.

    Args:
        path: The file.

    Returns:
        Its tensors and configuration; `.restore(model=model)` puts the numbers into modules.

    Raises:
        ValueError: the file is too large, truncated, damaged or not a checkpoint.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    with open(path, "rb") as file:
        header, size = _read_header(file, path)
        config = _config(header, path)
        file.seek(0)
        data = file.read(size)
    try:
        tensors = from_bytes(data)
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise _bad(path, str(error)) from None
    _reject_nan(tensors, f"`{path}`")
    return Checkpoint(tensors, config)


def _read_header(file: BinaryIO, path: str | Path) -> tuple[dict[str, Any], int]:
    """Check all that can be checked before the tensors are read; return the file's size too."""
    size = os.fstat(file.fileno()).st_size
    if size > MAX_FILE_BYTES:
        raise _bad(path, f"{size} bytes, more than the {MAX_FILE_BYTES} allowed")
    if size < 10:
        raise _bad(path, f"only {size} bytes")
    length = int.from_bytes(file.read(8), "little")
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise _bad(path, f"its header claims {length} bytes")
    text = file.read(length)
    if text.count(b'"dtype"') > MAX_TENSORS:
        raise _bad(path, f"its header names more than the {MAX_TENSORS} tensors allowed")
    try:
        header = json.loads(text.decode())
    except (ValueError, RecursionError):
        raise _bad(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _bad(path, "its header is not a table of tensors")
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    spans = sorted(_span(name, entry, path) for name, entry in entries.items())
    ends = [0, *(end for _, end in spans)]
    if [start for start, _ in spans] != ends[:-1] or ends[-1] != size - 8 - length:
        raise _bad(path, "its tensors do not fill the file; it may be cut short")
    return header, size


def _span(name: str, entry: object, path: str | Path) -> tuple[int, int]:
    """Return the checked `(start, end)` of one tensor's bytes."""
    if not _NAME.fullmatch(name):
        raise _bad(path, f"tensor name {name[:40]!r}")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _bad(path, f"entry of tensor '{name}'")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise _bad(path, f"type of tensor '{name}'")
    if not _sizes(shape, at_most=8) or not _sizes(offsets, at_most=2) or len(offsets) != 2:
        raise _bad(path, f"shape or offsets of tensor '{name}'")
    if offsets[1] - offsets[0] != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise _bad(path, f"size of tensor '{name}'")
    return offsets[0], offsets[1]


def _sizes(value: object, *, at_most: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= at_most
        and all(type(item) is int and 0 <= item <= MAX_FILE_BYTES for item in value)
    )


def _config(header: dict[str, Any], path: str | Path) -> dict[str, Any]:
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise _bad(path, f"it is not marked '{FORMAT}'")
    try:
        config = json.loads(metadata["config"])
    except (KeyError, TypeError, ValueError, RecursionError):
        raise _bad(path, "its configuration is not JSON") from None
    if not isinstance(config, dict):
        raise _bad(path, "its configuration is not a mapping")
    return config


def _restore(module: nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    state = _state(module)
    differing = sorted(state.keys() ^ tensors.keys())
    for name in state.keys() & tensors.keys():
        if state[name].shape != tensors[name].shape or state[name].dtype != tensors[name].dtype:
            differing.append(name)
    if differing:
        raise ValueError(
            f"`{prefix}` does not fit the checkpoint: names, shapes or types differ in "
            f"{', '.join(differing[:3])} ({len(differing)} in all). Build it as it was saved."
        )
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(tensors[name])


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and all buffers, also those a `state_dict` leaves out."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name[len(start) :]: x for name, x in tensors.items() if name.startswith(start)}


def _reject_nan(tensors: dict[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise ValueError(f"{where}: tensor '{name}' holds NaN, so it is no usable model.")


def _bad(path: str | Path, reason: str) -> ValueError:
    return ValueError(f"`{path}` is not a usable checkpoint: {reason}.")
