"""Small hostile or damaged files of every kind that a run folder holds, made when asked for."""

from __future__ import annotations

import copy
import json
import random
import struct
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from deepssm.cli.toml import to_toml

Craft = Callable[[Path], object]
"""Damages a run folder."""

WRONG: tuple[Any, ...] = ([[1, [2]]], "x", -1, 1.5, True, {"a": 1}, [1, "a"], float("nan"), 10**30)
"""Values of every type of TOML; a key takes few of them."""

PATHS: dict[tuple[str, ...], tuple[Any, ...]] = {
    ("format",): ("1", 1.0, True, [1], 2, -1, 10**30),
    ("seed",): ("x", 1.5, [1], True, {"a": 1}, 10**30),
    ("holdout",): ("x", -1, 1.5, [1], True, 10**30),
    ("command",): (1, [1], {"a": 1}),
    ("data",): (1, "x", [1], {}),
    ("data", "rows"): ("x", -1, [1], 1e300),
    ("data", "usual"): ("x", -1.0, float("nan"), float("inf"), [1]),
    ("data", "unit"): ("x", 0.0, float("nan"), float("inf")),
    ("data", "step"): (1, [1], "x" * 200),
    ("data", "time"): (1, ["a"], {"a": 1}),
    ("data", "title"): (1, [1]),
    ("data", "reading"): (1, "x", [1], {"sep": "long"}, {"missing": "x"}, {"fill": "x"}, {"a": 1}),
    ("seconds",): ("x", -1.0, float("nan"), float("inf")),
    ("device",): (1, [1]),
    ("versions",): (1, "x", [1], {"a": 1}),
    ("scores",): (1, {"a": 1}, {"a": {"b": "c"}}),
    ("models",): (1, "x", [1], {}, {"a": 1}, {"a": {}}),
    ("models", "m", "kind"): (1, "nosuch", "__import__('os')", ["local-level"]),
    ("models", "m", "y"): ("x", [], [1], [["x"]], ["x", "x"], ["other"]),
    ("models", "m", "u"): ("x", [1], ["flow"], 1),
    ("models", "m", "period"): ("x", -1.0, float("nan"), float("inf"), 1e12),
    ("models", "m", "period2"): ("x", -1.0, float("nan"), 1e12, 7.0),
    ("models", "m", "harmonics"): ("x", -1, 1.5, 100_000, 10**30, True),
    ("models", "m", "ar"): ("x", -1, 5000, 100_000, 10**30),
    ("models", "m", "state_dim"): ("x", -1, 10**9),
    ("models", "m", "extra"): (1,),
    ("learning",): (1, "x", {"m": 1}),
    ("learning", "m", "objective"): ("x", [1], True),
    ("learning", "m", "diagnostics"): (1, ["x"], {"a": "x"}, {"a": {"b": 1}}),
    ("learning", "m", "warnings"): ("x", [1], [["x"]], {"a": "x"}),
}

TEXTS: dict[str, bytes] = {
    "empty": b"",
    "not utf-8": b"\xff\xfe",
    "nul": b"format = 1\x00",
    "not toml": b"format = [",
    "dotted keys": b".".join([b"a"] * 200_000) + b" = 1",
    "dotted quoted keys": b".".join([b'"a"'] * 100_000) + b" = 1",
    "dotted header": b"[" + b".".join([b"a"] * 200_000) + b"]",
    "many headers": b"".join(b"[a%d]\n" % i for i in range(100_000)),
    "many keys": b"".join(b"a%d=1\n" % i for i in range(100_000)),
    "nested arrays": b"a = " + b"[" * 100_000 + b"]" * 100_000,
    "nested tables": b"a = " + b"{a=" * 50_000 + b"1" + b"}" * 50_000,
    "a long array": b"a = [" + b"1," * 400_000 + b"]",
    "a huge number": b"format = " + b"9" * 6000,
    "a huge file": b"#" * (2**21),
}

LINES: dict[str, bytes] = {
    "a number": b"1\n",
    "a text": b'"x"\n',
    "a list": b"[1]\n",
    "null": b"null\n",
    "not json": b"{\n",
    "not utf-8": b"\xff\n",
    "a text for a number": b'{"step": "x"}\n',
    "a list for a number": b'{"step": [1]}\n',
    "true for a number": b'{"step": true}\n',
    "a table for a number": b'{"step": {"a": 1}}\n',
    "model no text": b'{"model": 1}\n',
    "model a list": b'{"model": ["m"]}\n',
    "deep": b'{"a":' * 60_000 + b"1" + b"}" * 60_000,
    "deep lists": b"[" * 100_000,
    "a huge integer": b'{"step": ' + b"9" * 6000 + b"}\n",
    "beyond a float": b'{"step": ' + b"9" * 400 + b"}\n",
    "many keys": json.dumps({f"a{i}": i for i in range(1000)}).encode(),
    "many lines": b"{}\n" * 400_000,
    "second line bad": b'{"step": 1}\n7\n',
}


def configs() -> Iterator[tuple[str, Craft]]:
    """Damaged `config.toml`s."""
    for path, values in PATHS.items():
        for i, value in enumerate(values):
            yield f"config {'.'.join(path)} {i}", _config_with(path, value)
    for key in ("format", "models", "data", "seed", "holdout", "seconds", "versions", "learning"):
        yield f"config without {key}", _config_without(key)
    for name, text in TEXTS.items():
        yield f"config {name}", _bytes("config.toml", text)


def metrics() -> Iterator[tuple[str, Craft]]:
    """Damaged `metrics.jsonl`s."""
    for name, text in LINES.items():
        yield f"metrics {name}", _bytes("metrics.jsonl", text)


def results() -> Iterator[tuple[str, Craft]]:
    """Damaged `results.nc`s."""
    for name, text in (
        ("empty", b""),
        ("zeros", bytes(500)),
        ("hdf5 in name", b"\x89HDF\r\n\x1a\n"),
    ):
        yield f"results {name}", _bytes("results.nc", text)
    yield "results gone", lambda run: (run / "results.nc").unlink()
    for share in (0.1, 0.5, 0.9, 0.99):
        yield f"results cut at {share}", _cut("results.nc", share)
    for name, edit in HDF.items():
        yield f"results {name}", _hdf(edit)


def weights() -> Iterator[tuple[str, Craft]]:
    """Damaged `model.safetensors`s."""
    for share in (0.0, 0.1, 0.5, 0.99):
        yield f"weights cut at {share}", _cut("model.safetensors", share)
    for name, edit in TENSORS.items():
        yield f"weights {name}", _tensors(edit)
    yield "weights gone", lambda run: (run / "model.safetensors").unlink()
    claim = struct.pack("<Q", 2**62)
    yield "weights huge header", _bytes("model.safetensors", claim + b"{}")


def flipped(count: int, seed: int) -> Iterator[tuple[str, Craft]]:
    """Files with flipped bytes, which may still be valid."""
    chance = random.Random(seed)
    for i in range(count):
        for name in ("config.toml", "results.nc", "metrics.jsonl", "model.safetensors"):
            yield f"{name} flipped {i}", _flip(name, chance.random(), chance.randrange(1, 256))


def _config_with(path: tuple[str, ...], value: object) -> Craft:
    def craft(run: Path) -> None:
        config = _config(run)
        *way, last = _own(config, path)
        inner = config
        for key in way:
            inner = inner[key]
        inner[last] = value
        (run / "config.toml").write_text(to_toml(config), encoding="utf-8")

    return craft


def _config_without(key: str) -> Craft:
    def craft(run: Path) -> None:
        config = _config(run)
        del config[key]
        (run / "config.toml").write_text(to_toml(config), encoding="utf-8")

    return craft


def _config(run: Path) -> dict[str, Any]:
    return tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))


def _own(config: dict[str, Any], path: tuple[str, ...]) -> tuple[str, ...]:
    """Put the name of the run's model for `m`."""
    return tuple(next(iter(config["models"])) if key == "m" else key for key in path)


def _bytes(name: str, data: bytes) -> Craft:
    return lambda run: (run / name).write_bytes(data)


def _cut(name: str, share: float) -> Craft:
    def craft(run: Path) -> None:
        data = (run / name).read_bytes()
        (run / name).write_bytes(data[: int(share * len(data))])

    return craft


def _flip(name: str, where: float, by: int) -> Craft:
    def craft(run: Path) -> None:
        data = bytearray((run / name).read_bytes())
        data[int(where * len(data))] ^= by
        (run / name).write_bytes(bytes(data))

    return craft


def _hdf(edit: Callable[[h5py.Group, h5py.File], object]) -> Craft:
    def craft(run: Path) -> None:
        with h5py.File(run / "results.nc", "r+") as file:
            edit(file["observed_data"], file)  # type: ignore[arg-type]

    return craft


def _replace(name: str, **options: Any) -> Callable[[h5py.Group, h5py.File], None]:  # noqa: ANN401
    def edit(group: h5py.Group, file: h5py.File) -> None:
        del group[name]
        group.create_dataset(name, **options)

    return edit


def _delete(name: str) -> Callable[[h5py.Group, h5py.File], None]:
    def edit(group: h5py.Group, file: h5py.File) -> None:
        del group[name]

    return edit


def _link(name: str, link: object) -> Callable[[h5py.Group, h5py.File], None]:
    def edit(group: h5py.Group, file: h5py.File) -> None:
        del group[name]
        group[name] = link

    return edit


def _without_attributes(name: str) -> Callable[[h5py.Group, h5py.File], None]:
    def edit(group: h5py.Group, file: h5py.File) -> None:
        for key in list(group[name].attrs):
            del group[name].attrs[key]

    return edit


def _infinite(group: h5py.Group, file: h5py.File) -> None:
    group["y"][0] = np.inf  # type: ignore[index]


def _other_name(group: h5py.Group, file: h5py.File) -> None:
    group["obs"][0] = "other"  # type: ignore[index]


def _long_labels(group: h5py.Group, file: h5py.File) -> None:
    del group["obs"]
    kind = h5py.string_dtype()
    group.create_dataset("obs", data=np.array(["x" * 100_000] * 100, object), dtype=kind)


HDF: dict[str, Callable[[h5py.Group, h5py.File], object]] = {
    "no data": lambda group, file: file.__delitem__("observed_data"),
    "data an array": lambda group, file: (
        file.__delitem__("observed_data"),
        file.create_dataset("observed_data", data=[1.0]),
    ),
    "no y": _delete("y"),
    "no time": _delete("time"),
    "no obs": _delete("obs"),
    "time without attributes": _without_attributes("time"),
    "16 GB of fill values": _replace("y", shape=(2_000_000_000, 1), dtype="f8", chunks=(1000, 1)),
    "80 by 1e8": _replace("y", shape=(80, 10**8), dtype="f8", chunks=(80, 100)),
    "1 GB of times": _replace("time", shape=(125_000_000,), dtype="i8", chunks=(1000,)),
    "y of text": _replace("y", data=np.array([[b"x"]] * 40)),
    "y of one axis": _replace("y", data=np.zeros(40)),
    "y of no axis": _replace("y", data=1.0),
    "y of no row": _replace("y", data=np.zeros((0, 1))),
    "y of another length": _replace("y", data=np.zeros((7, 1))),
    "y of integers": _replace("y", data=np.zeros((40, 1), int)),
    "y complex": _replace("y", data=np.zeros((40, 1), complex)),
    "y infinite": _infinite,
    "another column": _other_name,
    "long labels": _long_labels,
    "a soft link": _link("y", h5py.SoftLink("/smoothed/z_mean")),
    "a link to itself": _link("y", h5py.SoftLink("/observed_data/y")),
    "another file": _link("y", h5py.ExternalLink("/etc/passwd", "/y")),
    "bytes of another file": _replace(
        "y", shape=(40, 1), dtype="f8", external=[("/etc/passwd", 0, 320)]
    ),
}


def _tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Craft:
    def craft(run: Path) -> None:
        from safetensors import safe_open

        path = run / "model.safetensors"
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path, metadata)

    return craft


def _first(tensors: dict[str, torch.Tensor]) -> str:
    return sorted(tensors)[0]


TENSORS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "none": lambda x: x.clear(),
    "one lost": lambda x: x.pop(_first(x)),
    "one of another size": lambda x: x.update({_first(x): torch.zeros(7)}),
    "one of another type": lambda x: x.update({_first(x): x[_first(x)].float().half()}),
    "one more": lambda x: x.update({f"{_first(x)}.more": torch.zeros(1)}),
    "nan": lambda x: x.update({_first(x): x[_first(x)] * torch.nan}),
}

CSV: dict[str, bytes] = {
    "empty": b"",
    "header alone": b"t,a\n",
    "newlines": b"\n" * 1000,
    "nul bytes": bytes(1000),
    "utf-16": "t,a\n1,2\n".encode("utf-16"),
    "not utf-8": b"t,a\n1,\xff\n" * 20,
    "zip": b"PK\x03\x04" + bytes(200),
    "gzip": b"\x1f\x8b\x08" + bytes(200),
    "html": b"<html><script>alert(1)</script></html>\n" * 20,
    "an open quote": b't,a\n"' + b"1,2\n" * 1000,
    "a huge field": b"t,a\n" + b"x" * 500_000 + b",1\n",
    "a huge header": b'"' + b"x" * 500_000 + b'"\n1\n',
    "30,000 columns": b",".join(b"a%d" % i for i in range(30_000)) + b"\n1\n",
    "200,000 commas": b"," * 200_000 + b"\n1\n",
    "ragged": b"a\n1,2,3\n4\n" * 10,
    "the same name twice": b"a,a\n" + b"1,2\n" * 20,
    "a huge integer": b"a\n" + b"9" * 6000 + b"\n" + b"1\n2\n" * 10,
    "beyond a float": b"a\n1e999\n" + b"1\n2\n" * 10,
    "too large to square": b"a\n1e300\n" + b"1\n2\n" * 10,
    "words": b"a\n" + b"x\n" * 20,
    "escape sequences": b"a\x1b[31m\n" + b"x\n" * 20,
    "a formula": b"a\n=cmd|' /C calc'!A0\n" + b"1\n2\n" * 10,
    "constant": b"a\n" + b"1\n" * 20,
    "all missing": b"a\n" + b"NA\n" * 20,
    "too few rows": b"a\n1\n2\n",
    "semicolons and a word": b"a;b\nx;y\n" * 20,
    "backspaces": b"a\n1\x08\n" * 20,
}


def chosen(cases: list[tuple[str, Craft]], every: int) -> list[tuple[str, Craft]]:
    """Return every so many cases, for a quick run."""
    return copy.copy(cases[::every])
