"""What a class derived from one of ours did not define."""

from __future__ import annotations


def undefined(owner: object, signature: str, wanted: str) -> NotImplementedError:
    """Return the error that names a missing method and what it should return.

    Args:
        owner: The object whose class lacks it.
        signature: The method with its arguments, such as `draw(self, sample_shape)`.
        wanted: What it should do, an imperative sentence without its full stop.
    """
    return NotImplementedError(f"{type(owner).__name__} does not define `{signature}`: {wanted}.")
