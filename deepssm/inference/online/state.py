"""What goes into a running filter: observations, and its state as it was saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ...core.model import Data
from ...io.arrays import read_numbers


def as_numbers(values: Data, like: Tensor, name: str = "u") -> Tensor:
    """Return a tensor of the dtype of `like`, on its device; a list keeps all its digits.

    Args:
        values: Numbers of any shape; masked entries are NaN.
        like: A tensor of the wanted dtype.
        name: What the caller calls them.

    Raises:
        ValueError: They are no numbers.
    """
    return read_numbers(name, values).to(like.device, like.dtype)


def require_state(state: Mapping[str, Tensor], **shapes: Sequence[int]) -> None:
    """Check that a saved state fits a running filter before anything of it is read.

    Args:
        state: What `state_dict` returned.
        **shapes: Shape of each tensor of the filter that is to go on.

    Raises:
        ValueError: A tensor is missing or has another shape.
    """
    for name, shape in shapes.items():
        if name not in state:
            raise ValueError(
                f"`state` belongs to another filter: it has no `{name}`, but "
                f"{', '.join(state) or 'nothing'}. Load it into a filter of the same method."
            )
        if tuple(state[name].shape) != tuple(shape):
            raise ValueError(
                f"`state` belongs to another model: its `{name}` has shape "
                f"{tuple(state[name].shape)}, expected {tuple(shape)}."
            )
