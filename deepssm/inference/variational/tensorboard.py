"""Training curves for TensorBoard, an optional package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from ...core.arguments import checked


class ScalarWriter(Protocol):
    """What is used of `torch.utils.tensorboard.SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Write one number."""
        ...

    def flush(self) -> object:
        """Bring what was written to the disk."""
        ...


@checked
class TensorBoard:
    """A callback of `SVI` that writes every number of a record as a curve.

    Args:
        folder: Where TensorBoard looks.
        writer: Another writer, instead of one for `folder`.

    Raises:
        ModuleNotFoundError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path = "runs", *, writer: ScalarWriter | None = None) -> None:
        self.writer = _writer(folder) if writer is None else writer

    def __call__(self, record: Mapping[str, float]) -> None:
        """Write one record; its `step` is the abscissa."""
        step = int(record["step"])
        for name, value in record.items():
            if name != "step":
                self.writer.add_scalar(f"training/{name}", value, step)
        self.writer.flush()


def _writer(folder: str | Path) -> ScalarWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "`TensorBoard` needs a package that is optional: pip install 'deepssm[tensorboard]'.",
            name="tensorboard",
        ) from error
    return SummaryWriter(str(folder))
