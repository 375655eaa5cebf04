"""What `results.nc` must be before anything of it is read: sizes, kinds and links.

HDF5 holds a huge array of one fill value in a few bytes, reads other files through links, and
runs filters of its own; files that `deepssm` writes do none of these.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .run_schema import damaged

MAX_LABELS = 10_000
MAX_LABEL = 1000
SLACK = 16 * 2**20  # Arrays are stored as they are: a file holds no more than its own size.
_GROUPS = ("observed_data", "constant_data")


def check_results(path: Path) -> None:
    """Check the groups of a results file that a run is opened from.

    Args:
        path: `results.nc`.

    Raises:
        ValueError: it is damaged, larger than it pretends to be, or refers to other files.
    """
    import h5py

    most = path.stat().st_size + SLACK
    try:
        with h5py.File(path, "r") as file:
            if "observed_data" not in file:
                raise damaged(path, "it has no group 'observed_data'")
            total = 0
            for name in _GROUPS:
                if name in file:
                    total += _group_bytes(file, name, path)
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise damaged(path, str(error)) from None
    if total > most:
        raise damaged(path, f"its arrays would take {total} bytes, more than the file can hold")


def _group_bytes(file: Any, name: str, path: Path) -> int:  # noqa: ANN401
    import h5py

    group = _linked(file, name, path)
    if not isinstance(group, h5py.Group) or len(group) > 100:
        raise damaged(path, f"'{name}' is no group of a run")
    names = [str(key) for key in group]
    return sum(_item_bytes(_linked(group, key, path), f"{name}/{key}", path) for key in names)


def _linked(group: Any, name: str, path: Path) -> Any:  # noqa: ANN401
    """Return a member of a group, unless it lies elsewhere."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise damaged(path, f"'{name}' is a link to somewhere else")
    return group[name]


def _item_bytes(item: Any, name: str, path: Path) -> int:  # noqa: ANN401
    import h5py

    if not isinstance(item, h5py.Dataset) or item.shape is None or item.ndim > 3:
        raise damaged(path, f"'{name}' is no array of a run")
    if item.external or item.is_virtual:
        raise damaged(path, f"'{name}' lies in another file")
    if item.compression not in (None, "gzip", "lzf") or item.dtype.kind not in "fiuOSU":
        raise damaged(path, f"'{name}' is stored in a way that `deepssm` never uses")
    if item.dtype.kind == "O":
        _check_labels(item, name, path)
    return math.prod(item.shape) * max(item.dtype.itemsize, 1)


def _check_labels(item: Any, name: str, path: Path) -> None:  # noqa: ANN401
    """Read labels one by one: many of them may be the same long text in the file."""
    if item.ndim != 1 or item.shape[0] > MAX_LABELS:
        raise damaged(path, f"'{name}' is no list of at most {MAX_LABELS} labels")
    for i in range(item.shape[0]):
        label = item[i]
        if not isinstance(label, bytes | str) or len(label) > MAX_LABEL:
            raise damaged(path, f"'{name}' holds a label that is no text of {MAX_LABEL} letters")
