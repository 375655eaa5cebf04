from __future__ import annotations

import json
import os
import pickle
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from deepssm.io import checkpoint


class _Noisy(PyroModule):
    """A module with a constrained parameter, a frozen one and a buffer outside `state_dict`."""

    scale: Tensor
    hidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        scale = torch.tensor([0.5, 2.0], dtype=torch.float64)
        self.scale = PyroParam(scale, constraints.positive)  # type: ignore[assignment]
        self.frozen = nn.Parameter(torch.randn(3, 2), requires_grad=False)
        self.register_buffer("hidden", torch.arange(3), persistent=False)
        self.net = nn.Linear(2, 3)


def _header(entries: object, data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    return struct.pack("<Q", len(text)) + text + data


def _entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


_META = {"format": checkpoint.FORMAT, "config": "{}"}


def test_every_number_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved, built = _Noisy(), _Noisy()
    with torch.no_grad():
        saved.scale_unconstrained.add_(0.3)
        saved.hidden.add_(5)
    checkpoint.save(tmp_path / "m.safetensors", {"size": [2, 3]}, model=saved)
    loaded = checkpoint.load(tmp_path / "m.safetensors")
    loaded.restore(model=built)
    assert loaded.config == {"size": [2, 3]}
    assert torch.equal(built.scale, saved.scale) and torch.equal(built.hidden, saved.hidden)
    assert torch.equal(built.frozen, saved.frozen) and not built.frozen.requires_grad
    assert torch.equal(built.net.weight, saved.net.weight)


def test_two_modules_share_a_file(tmp_path: Path) -> None:
    one, two = nn.Linear(2, 1), nn.Linear(3, 1)
    checkpoint.save(tmp_path / "m", {}, model=one, guide=two)
    fresh = nn.Linear(3, 1)
    checkpoint.load(tmp_path / "m").restore(guide=fresh)
    assert torch.equal(fresh.weight, two.weight)


def test_a_module_of_another_size_is_refused_and_left_alone(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "m", {}, model=nn.Linear(2, 1))
    other = nn.Linear(3, 1)
    before = other.weight.clone()
    with pytest.raises(ValueError, match="`model` does not fit the checkpoint.*weight"):
        checkpoint.load(tmp_path / "m").restore(model=other)
    assert torch.equal(other.weight, before)
    with pytest.raises(ValueError, match="does not fit.*in all"):
        checkpoint.load(tmp_path / "m").restore(model=nn.Linear(2, 1).double())


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    broken = nn.Linear(1, 1)
    broken.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="'model.weight' holds NaN"):
        checkpoint.save(tmp_path / "m", {}, model=broken)
    with pytest.raises(ValueError, match="`config` must be plain JSON"):
        checkpoint.save(tmp_path / "m", {"when": object()})
    assert not list(tmp_path.iterdir())


_CRATER = Path(tempfile.gettempdir()) / f"deepssm-bomb-went-off-{os.getpid()}"


class _Bomb:
    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(_CRATER),))


def _crafted() -> dict[str, bytes]:
    """At least 50 hostile or damaged files."""
    good = _header({"__metadata__": _META, "a": _entry()}, bytes(8))
    deep = b'{"a":' * 30_000 + b"1" + b"}" * 30_000
    many = {f"t{i}": _entry(offsets=(0, 0), shape=(0,)) for i in range(checkpoint.MAX_TENSORS + 9)}
    files = {
        "empty": b"",
        "pickle": pickle.dumps(_Bomb()),
        "zip": b"PK\x03\x04" + bytes(100),
        "text": b"hello, I am not a checkpoint",
        "huge header claim": struct.pack("<Q", 2**63) + b"{}",
        "header longer than file": struct.pack("<Q", 1000) + b"{}",
        "header is a list": _header([1, 2]),
        "header is a number": _header(3),
        "header not utf-8": _header(b'{"\xff\xfe": 1}'),
        "header deeply nested": _header(deep),
        "header giant integer": _header(b'{"a": ' + b"9" * 6000 + b"}"),
        "no metadata": _header({"a": _entry()}, bytes(8)),
        "foreign metadata": _header({"__metadata__": {"format": "pt"}, "a": _entry()}, bytes(8)),
        "metadata not a mapping": _header({"__metadata__": "x", "a": _entry()}, bytes(8)),
        "config not json": _header({"__metadata__": {**_META, "config": "{"}}),
        "config a list": _header({"__metadata__": {**_META, "config": "[]"}}),
        "config a number": _header({"__metadata__": {**_META, "config": 3}}),
        "config deeply nested": _header({"__metadata__": {**_META, "config": deep.decode()}}),
        "too many tensors": _header({"__metadata__": _META, **many}),
        "nan": _header(
            {"__metadata__": _META, "a": _entry()}, struct.pack("<2f", 1, float("nan"))
        ),
        "extra bytes": good + b"\0",
        "twice the same name": _header(
            b'{"__metadata__": %s, "a": %s, "a": %s}'
            % tuple(json.dumps(x).encode() for x in (_META, _entry(), _entry(offsets=(8, 16)))),
            bytes(16),
        ),
    }
    for name in ("../x", "/etc/x", "a b", "", "a" * 300, "\x00", "a\\b", ".hidden", "é"):
        files[f"name {name[:9]!r}"] = _header({"__metadata__": _META, name: _entry()}, bytes(8))
    for dtype in ("F8_E4M3", "object", "F99", 3, None, ["F32"]):
        entry = _entry(dtype=dtype)
        files[f"dtype {dtype}"] = _header({"__metadata__": _META, "a": entry}, bytes(8))
    for shape in ([-2], [2.0], [True, 2], "2", None, [2**40, 2**40], [1] * 9 + [2], [3], {}):
        entry = _entry(shape=shape)
        files[f"shape {shape}"] = _header({"__metadata__": _META, "a": entry}, bytes(8))
    for offsets in ([0], [0, 8, 16], [8, 0], [-8, 0], [4, 12], [0, 2**70], "08", None, [0, "8"]):
        entry = _entry(offsets=offsets)
        files[f"offsets {offsets}"] = _header({"__metadata__": _META, "a": entry}, bytes(8))
    overlap = {"a": _entry(), "b": _entry(offsets=(4, 12))}
    files["overlap"] = _header({"__metadata__": _META, **overlap}, bytes(12))
    files["hole"] = _header({"__metadata__": _META, "b": _entry(offsets=(8, 16))}, bytes(16))
    files["entry not a mapping"] = _header({"__metadata__": _META, "a": 1}, bytes(8))
    files["extra key"] = _header({"__metadata__": _META, "a": {**_entry(), "x": 1}}, bytes(8))
    return files


CRAFTED = _crafted()
assert len(CRAFTED) >= 50


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_file_is_refused_cheaply_and_runs_nothing(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(CRAFTED[name])
    start = time.process_time()
    with pytest.raises(ValueError, match="not a usable checkpoint|holds NaN"):
        checkpoint.load(path)
    assert time.process_time() - start < 1.0
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not a usable checkpoint|holds NaN"):
            checkpoint.load(path)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert not _CRATER.exists()


def test_a_file_over_the_cap_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.truncate(checkpoint.MAX_FILE_BYTES + 1)
    with pytest.raises(ValueError, match="more than the"):
        checkpoint.load(path)


def test_every_truncation_and_every_flipped_header_bit_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    checkpoint.save(path, {"a": 1}, model=nn.Linear(3, 2))
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="not a usable checkpoint"):
            checkpoint.load(path)
    chance = random.Random(0)
    for _ in range(200):
        bit = chance.randrange(8 * 8)
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(damaged))
        with pytest.raises(ValueError, match="not a usable checkpoint"):
            checkpoint.load(path)


_SAVER = """
import sys, torch
from deepssm import checkpoint
n = 0
while True:
    n += 1
    module = torch.nn.Linear(300, 300)
    module.weight.data.fill_(n)
    module.bias.data.fill_(n)
    checkpoint.save(sys.argv[1], {"n": n}, model=module)
    print(n, flush=True)
"""


def _kill_during_saves(path: Path, kills: int, seed: int) -> None:
    """Each kill must leave a whole file whose weights and configuration agree."""
    chance = random.Random(seed)
    for _ in range(kills):
        saver = subprocess.Popen([sys.executable, "-c", _SAVER, path], stdout=subprocess.PIPE)
        assert saver.stdout is not None and saver.stdout.readline()
        time.sleep(chance.uniform(0.0, 0.05))
        saver.send_signal(signal.SIGKILL)
        saver.communicate()
        loaded = checkpoint.load(path)
        assert (loaded.tensors["model.weight"] == loaded.config["n"]).all()
        assert (loaded.tensors["model.bias"] == loaded.config["n"]).all()


def test_kill_9_while_saving_leaves_a_whole_file(tmp_path: Path) -> None:
    _kill_during_saves(tmp_path / "m.safetensors", kills=2, seed=0)


@pytest.mark.slow
def test_a_hundred_kills_leave_whole_files(tmp_path: Path) -> None:
    _kill_during_saves(tmp_path / "m.safetensors", kills=100, seed=1)


def test_the_library_never_unpickles() -> None:
    """No pickle, no unsafe `torch.load`, no Pyro store anywhere in the package."""
    package = Path(checkpoint.__file__).parents[1]
    for file in package.rglob("*.py"):
        code = "\n".join(line for line in file.read_text().splitlines())
        for banned in ("import pickle", "weights_only=False", "torch.load(", "get_param_store()."):
            assert banned not in code, f"{file}: {banned}"
