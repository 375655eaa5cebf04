"""`deepssm doctor`: versions, devices, number types and optional packages."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import re
import tomllib
from pathlib import Path
from typing import Any

from ..._version import __version__
from ..exit_codes import MissingExtraError, Outcome


def run(args: argparse.Namespace) -> Outcome:
    """Look at the installation.

    Raises:
        MissingExtraError: a package that `deepssm` needs is missing or too old.
    """
    core, extras = _requirements()
    installed = {name: _version(name) for name in (*core, *extras)}
    broken = [name for name in core if not _fits(installed[name], core[name])]
    if broken:
        wanted = " ".join(f"'{name}{core[name]}'" for name in broken)
        raise MissingExtraError(f"missing or too old. Run: python -m pip install {wanted}")
    import torch

    devices = _devices()
    data: dict[str, Any] = {
        "deepssm": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "devices": devices,
        "packages": {name: installed[name] for name in core},
        "optional": {name: installed[name] for name in extras},
    }
    lines = [
        f"deepssm   {__version__}",
        f"python    {data['python']} on {data['platform']}",
        f"threads   {data['threads']}",
        *(f"device    {device}: {', '.join(types)}" for device, types in devices.items()),
        *(f"package   {name} {installed[name]}" for name in core),
        *(f"optional  {name} {installed[name] or 'not installed'}" for name in extras),
        "All that deepssm needs is here.",
    ]
    return Outcome("\n".join(lines), data, None, "deepssm demo")


def _requirements() -> tuple[dict[str, str], dict[str, str]]:
    """Return names and version ranges: those always needed, and those of extras."""
    core, extras = {}, {}
    for line in _required_lines():
        requirement, _, marker = line.partition(";")
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:\[.*\])?\s*\(?([^)]*)\)?", requirement.strip())
        if match:
            (extras if "extra" in marker else core)[match[1]] = match[2].strip()
    return core, extras


def _required_lines() -> list[str]:
    try:
        return importlib.metadata.requires("deepssm") or []
    except importlib.metadata.PackageNotFoundError:
        # Run from a checkout that was never installed.
        project = Path(__file__).parents[3] / "pyproject.toml"
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        optional = [line for lines in table["optional-dependencies"].values() for line in lines]
        return [*table["dependencies"], *(f"{line}; extra" for line in optional)]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fits(version: str | None, wanted: str) -> bool:
    """Whether a version satisfies ranges such as `>=1.2,<2`."""
    if version is None:
        return False
    for clause in filter(None, (part.strip() for part in wanted.split(","))):
        match = re.fullmatch(r"(>=|<)\s*(.+)", clause)
        if match is None:
            continue
        at_least = _numbers(version) >= _numbers(match[2])
        if at_least != (match[1] == ">="):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def _devices() -> dict[str, list[str]]:
    """Return, for each device, the number types in which it can factorize a matrix."""
    import torch

    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return {_label(name): _types(name) for name in names}


def _label(name: str) -> str:
    import torch

    return f"{name} ({torch.cuda.get_device_name(name)})" if name.startswith("cuda") else name


def _types(device: str) -> list[str]:
    import torch

    able = []
    for dtype in (torch.float64, torch.float32):
        try:
            torch.linalg.cholesky(torch.eye(2, dtype=dtype, device=device))
        except (RuntimeError, TypeError):
            continue
        able.append(str(dtype).removeprefix("torch."))
    return able
