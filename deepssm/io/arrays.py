"""One reader of arrays: whatever holds numbers becomes a tensor, NaN where nothing is known."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_NUMBERS = (int, float, np.number, np.bool_, Decimal, Fraction)
_PLAIN = frozenset((float, int, bool, type(None), str))
_PAD = (
    "Series of several lengths are padded with NaN to one, as by "
    "`torch.nn.utils.rnn.pad_sequence`, and told by `lengths`."
)


def read_numbers(name: str, value: object) -> Tensor:
    """Return the numbers of an array, a list or a scalar.

    Masked entries, `None` and `pd.NA` are NaN; memory is never shared with what is no tensor, so
    that read-only arrays and foreign byte orders are taken as they are.

    Args:
        name: What the caller calls it.
        value: A tensor, which is returned as it is; an array, masked or not; nested lists of
            numbers, decimals, booleans, tensors or arrays.

    Returns:
        float64, but for tensors.

    Raises:
        ValueError: It holds text, dates, durations, complex numbers or rows of several lengths.
    """
    if isinstance(value, Tensor):
        return _real(name, value)
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        return torch.from_numpy(_floats(name, value, value))
    if isinstance(value, list | tuple) and value and all(isinstance(v, Tensor) for v in value):
        return _real(name, _stacked(name, value))
    return torch.from_numpy(_floats(name, _as_array(name, value), value))


def read_vector(name: str, value: object) -> NDArray[np.float64]:
    """Return the numbers of one observation, `(obs,)`, in memory of the host; see `read_numbers`.

    Args:
        name: What the caller calls it.
        value: A number, an array, a list or a tensor.

    Raises:
        ValueError: It holds no numbers.
    """
    if type(value) is float or (type(value) is np.ndarray and value.dtype.kind == "f"):
        return np.asarray(value, dtype=float).reshape(-1)
    value = np.nan if value is None else value
    return read_numbers(name, value).detach().to("cpu", torch.float64).reshape(-1).numpy()


def read_step(name: str, value: object) -> float:
    """Return one time step as a number.

    Args:
        name: What the caller calls it.
        value: A number; a duration has no unit and is refused.

    Raises:
        ValueError: It is none, or not finite, or negative.
    """
    step = value if type(value) is float else _only("dt", read_vector(name, value))
    if not 0 <= step < np.inf:
        raise ValueError(f"`{name}` must be finite and not negative, got {step}.")
    return step


def _only(name: str, values: NDArray[np.float64]) -> float:
    if values.size != 1:
        raise ValueError(f"`{name}` must be one number, got {values.size}.")
    return float(values[0])


def _real(name: str, tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        raise ValueError(f"`{name}` must be real, got {tensor.dtype}. Pass its parts as columns.")
    return tensor


def _stacked(name: str, parts: Iterable[Tensor]) -> Tensor:
    try:
        return torch.stack(list(parts))
    except RuntimeError as error:
        raise _refused(name, "a list of tensors of several shapes", _PAD) from error


def _as_array(name: str, value: object) -> np.ndarray:
    try:
        return np.asarray(_without_masks(value))
    except (TypeError, ValueError, RuntimeError) as error:
        ragged = "inhomogeneous" in str(error)
        reason = f"{type(value).__name__}: {str(error).rstrip('.')}"
        raise _refused(name, reason, _PAD if ragged else "") from error


def _without_masks(value: Any) -> Any:  # noqa: ANN401
    """Return nested lists with masked entries made NaN, which `np.asarray` would drop."""
    if isinstance(value, np.ma.MaskedArray):
        return _filled(value)
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, list | tuple) and not set(map(type, value)) <= _PLAIN:
        return [_without_masks(part) for part in value]
    return value


def _filled(value: np.ma.MaskedArray) -> np.ndarray:
    if value.dtype.kind in "fiub":
        return np.ma.filled(value.astype(float), np.nan)
    if value.dtype.kind == "O":
        return value.filled(np.nan)
    return np.asarray(value.data)


def _floats(name: str, array: np.ndarray, given: object) -> np.ndarray:
    kind = array.dtype.kind
    if kind in "fiub":
        return np.array(array, dtype=float)
    if kind == "O":
        return _from_objects(name, array, given)
    if kind == "c":
        raise ValueError(f"`{name}` must be real, got {array.dtype}. Pass its parts as columns.")
    if kind in "mM":
        raise ValueError(_durations(name) if kind == "m" else _dates(name))
    if kind == "V" and array.dtype.names:
        columns = ", ".join(map(str, array.dtype.names))
        how = f"Stack its fields: `np.stack([{name}[n] for n in {name}.dtype.names], -1)`."
        raise _refused(name, f"a structured array with the fields {columns}", how)
    raise _refused(name, _text(array), f"Convert it: `np.asarray({name}, dtype=float)`.")


def _from_objects(name: str, array: np.ndarray, given: object) -> np.ndarray:
    """Read an array of Python objects, whose types are judged one by one."""
    if not array.ndim and not _is_entry(array.item()):
        how = "Call its `.toarray()`." if "sparse" in type(given).__module__ else ""
        raise _refused(name, type(given).__name__, how)
    kinds = set(map(type, array.flat))
    if kinds and all(issubclass(kind, np.ndarray | list | tuple | Tensor) for kind in kinds):
        return _floats(name, _as_array(name, array.tolist()), given)
    missing = [kind for kind in kinds if _is_missing(kind)]
    for kind in kinds:
        if not (issubclass(kind, _NUMBERS) or kind in missing):
            raise _wrong_object(name, kind, array)
    if missing:
        gaps = np.array([type(x) in missing for x in array.flat]).reshape(array.shape)
        array = np.where(gaps, np.nan, array)
    try:
        return array.astype(float)
    except (OverflowError, TypeError, ValueError) as error:
        raise _refused(name, str(error).rstrip("."), "") from error


def _is_entry(value: object) -> bool:
    """Whether a single value is one entry, right or wrong, and not something around entries."""
    times = (datetime.date, datetime.timedelta, complex)
    return isinstance(value, (*_NUMBERS, *times)) or _is_missing(type(value), none=False)


def _is_missing(kind: type, *, none: bool = True) -> bool:
    """Whether instances stand for nothing: `None`, `pd.NA`, `pd.NaT`."""
    return (none and kind is type(None)) or kind.__name__ in ("NAType", "NaTType")


def _wrong_object(name: str, kind: type, array: np.ndarray) -> ValueError:
    if issubclass(kind, datetime.timedelta | np.timedelta64):
        return ValueError(_durations(name))
    if issubclass(kind, datetime.date | np.datetime64):
        return ValueError(_dates(name))
    if issubclass(kind, complex | np.complexfloating):
        return ValueError(
            f"`{name}` must be real, got complex numbers. Pass its parts as columns."
        )
    example = next(x for x in array.flat if type(x) is kind)
    what = "text" if issubclass(kind, str | bytes) else kind.__name__
    return _refused(name, f"{what}, {str(example)[:40]!r}", "")


def _text(array: np.ndarray) -> str:
    example = next((str(x) for x in array.flat if not _is_number(str(x))), "")
    return f"text, {(example or str(next(iter(array.flat), '')))[:40]!r}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _durations(name: str) -> str:
    return (
        f"`{name}` must hold numbers, got durations, whose unit the model cannot know. Divide "
        f'them by yours, as in `{name} / np.timedelta64(1, "D")` for days.'
    )


def _dates(name: str) -> str:
    if name.startswith("dt"):
        return (
            f"`{name}` must hold the time from each step to the next, got time stamps. Take their "
            'differences in your unit: `ds.interop.time_steps(index, "1D")`.'
        )
    return f"`{name}` must hold numbers, got dates. Make them the index of a frame."


def _refused(name: str, what: str, how: str) -> ValueError:
    text = f"`{name}` must hold numbers (NaN where missing), got {what}"
    return ValueError(f"{text}. {how}".strip())
