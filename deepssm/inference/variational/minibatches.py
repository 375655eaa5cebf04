"""Minibatches for training: whole series by epoch, or windows cut anywhere."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.arguments import checked
from ...core.model import Series
from ...core.pyro_sites import observed_steps


@checked
class Minibatches:
    """Batches for ever: shuffled series, or random windows where series are longer than one.

    Args:
        series: Data with one batch axis, `(series, time, ...)`.
        batch_size: Series or windows in a batch.
        window: Steps of a window; series no longer than that are used whole.
        generator: Drives the shuffling; torch's global state if `None`.
        bucketed: Whether series of like length share a batch, so that little is padding; a
            series is still drawn once an epoch.

    Attributes:
        plan: Rows still to come in this epoch, `(batches, batch_size)`, -1 where a batch is not
            full. With the state of the generator it is all that a resumed training needs.
    """

    def __init__(
        self,
        series: Series,
        batch_size: int,
        window: int | None,
        generator: torch.Generator | None = None,
        *,
        bucketed: bool = False,
    ) -> None:
        self.series, self.generator, self.bucketed = series, generator, bucketed
        self.whole = window is None or series.time <= window
        self.window = series.time if window is None else window
        self.size = min(batch_size, len(series.y)) if self.whole else batch_size
        self.plan = torch.empty(0, self.size, dtype=torch.long)

    def __iter__(self) -> Minibatches:
        return self

    def __next__(self) -> Series:
        """Return the next batch."""
        if not self.whole:
            return _windows(self.series, self.size, self.window, self.generator)
        if not len(self.plan):
            self.plan = self._epoch()
        rows, self.plan = self.plan[0], self.plan[1:]
        return trim(_rows(self.series, rows[rows >= 0]))

    def _epoch(self) -> Tensor:
        order = torch.randperm(len(self.series.y), generator=self.generator)
        if self.bucketed:
            # Shuffled before a stable sort: series of one length meet others every epoch.
            lengths = observed_steps(self.series.y).sum(-1).cpu()
            order = order[lengths[order].argsort(stable=True)]
        plan = F.pad(order, (0, -len(order) % self.size), value=-1).reshape(-1, self.size)
        if self.bucketed:
            plan = plan[torch.randperm(len(plan), generator=self.generator)]
        return plan


def flatten(series: Series) -> Series:
    """Merge the batch axes into one and silence inputs after the last observation.

    Inputs there belong to steps that do not count, and may hold anything.
    """
    y = series.y.reshape(-1, *series.y.shape[-2:])
    steps = observed_steps(y)
    u = dt = None
    if series.u is not None:
        u = series.u.reshape(y.shape[0], y.shape[1], -1)
        u = torch.where(steps[..., None], u, torch.zeros_like(u))
    if series.dt is not None:
        dt = series.dt.expand(series.y.shape[:-1]).reshape(y.shape[:-1])
        dt = torch.where(steps, dt, torch.ones_like(dt))
    return Series(y, u, dt)


def trim(series: Series) -> Series:
    """Drop the steps at the end that no series of the batch has observed."""
    length = max(int(observed_steps(series.y).any(0).sum()), 1)
    return Series(*(None if part is None else part[:, :length] for part in series))  # type: ignore[arg-type]


def evaluation_batch(series: Series, size: int, window: int | None) -> Series:
    """Return one fixed batch that covers the data evenly: series, or windows end to end.

    Args:
        series: Data with one batch axis.
        size: Most series or windows it may hold.
        window: Steps of a window.
    """
    if window is None or series.time <= window:
        return trim(_rows(series, torch.linspace(0, len(series.y) - 1, min(size, len(series.y)))))
    per_series = -(-series.time // window)
    total = per_series * len(series.y)
    chosen = torch.linspace(0, total - 1, min(size, total)).round().long()
    rows, index = chosen // per_series, chosen % per_series
    start = (index * window).clamp_max(series.time - window)
    return _cut(series, rows, start, window)


def held_out(validation: Series, data: Series) -> Series:
    """Return validation series as one batch, unless they are nothing but training data.

    Args:
        validation: Series that no gradient may see.
        data: The training data, flat.

    Raises:
        ValueError: every validation series is among the training series, or none was observed.
    """
    flat = flatten(validation)
    own = set(map(_content, flat.y)) - {b""}
    if not own:
        raise ValueError("`validation` holds no observation: every value is missing (NaN).")
    if own <= set(map(_content, data.y)):
        raise ValueError(
            "`validation` holds only series that are trained on, so it could not tell when the "
            "model starts to learn them by heart: keep some series, or the last rows, back."
        )
    return trim(flat)


def _content(y: Tensor) -> bytes:
    """Return what was observed of one series, without the missing steps at its end."""
    rows = y[: int(observed_steps(y).sum())]
    return torch.nan_to_num(rows, nan=-1e30).cpu().float().numpy().tobytes()


def _windows(
    series: Series, batch_size: int, window: int, generator: torch.Generator | None
) -> Series:
    rows = torch.randint(len(series.y), (batch_size,), generator=generator)
    start = torch.randint(series.time - window + 1, (batch_size,), generator=generator)
    return _cut(series, rows, start, window)


def _rows(series: Series, rows: Tensor) -> Series:
    index = rows.round().long().to(series.y.device)
    return Series(*(None if part is None else part[index] for part in series))  # type: ignore[arg-type]


def _cut(series: Series, rows: Tensor, start: Tensor, window: int) -> Series:
    device = series.y.device
    steps = start[:, None].to(device) + torch.arange(window, device=device)
    rows = rows[:, None].to(device)
    return Series(*(None if part is None else part[rows, steps] for part in series))  # type: ignore[arg-type]
