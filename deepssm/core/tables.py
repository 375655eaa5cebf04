"""Results as tables: columns, their names, and quantiles of Gaussian ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd


def gaussian_quantile(mean: Tensor, sd: Tensor, q: float) -> Tensor:
    """Return the `q`-quantile of a Gaussian; the median of an infinitely wide one is its mean.

    Args:
        mean: Any shape, as is `sd`.
        sd: Standard deviation, possibly zero or infinite.
        q: Probability level in (0, 1).
    """
    width = torch.special.ndtri(torch.as_tensor(q, dtype=sd.dtype, device=sd.device))
    return mean if float(width) == 0.0 else mean + sd * width


def default_names(prefix: str, size: int) -> tuple[str, ...]:
    """Name columns that have no names: `y`, or `y0, y1, ...`."""
    return (prefix,) if size == 1 else tuple(f"{prefix}{i}" for i in range(size))


def labelled_frame(columns: dict[str, Tensor], index: pd.Index | None) -> pd.DataFrame:
    """Lay `(*batch, time)` columns out as rows; batch axes become leading index levels."""
    import pandas as pd

    first = next(iter(columns.values()))
    data = {name: column.detach().cpu().reshape(-1).numpy() for name, column in columns.items()}
    time = pd.RangeIndex(first.shape[-1], name="time") if index is None else index
    if first.ndim == 1:
        return pd.DataFrame(data, index=time)
    levels = [range(size) for size in first.shape[:-1]]
    names = ["series" if first.ndim == 2 else f"batch{i}" for i in range(first.ndim - 1)]
    rows = pd.MultiIndex.from_product([*levels, time], names=[*names, time.name or "time"])
    return pd.DataFrame(data, index=rows)
