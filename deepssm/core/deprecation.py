"""Old spellings that work for one release, with a warning that names the new one."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


def renamed_arguments(**new: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a function (or the `__init__` of a class): old keywords still work, with a warning.

    Args:
        **new: The new name of each old one, such as `size="num_particles"`.

    Example:
        >>> @renamed_arguments(count="num_samples")
        ... def draw(num_samples: int) -> int:
        ...     return num_samples
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     draw(count=3)  # type: ignore[call-arg]
        3
        >>> str(caught[0].message)
        '`count` of `draw` is now `num_samples`; the old name goes with the next release.'
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        name = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            for old in new.keys() & kwargs.keys():
                if new[old] in kwargs:
                    raise TypeError(f"`{name}` got both `{old}` and `{new[old]}`, its new name.")
                warn_renamed(f"`{old}` of `{name}`", f"`{new[old]}`")
                kwargs[new[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def renamed_class(old: str, new: type[_R]) -> Callable[..., _R]:
    """Return what builds `new` under an old name, with a warning.

    Args:
        old: The old name.
        new: The class.
    """

    def build(*args: Any, **kwargs: Any) -> _R:  # noqa: ANN401
        warn_renamed(f"`{old}`", f"`{new.__name__}`")
        return new(*args, **kwargs)

    return build


def warn_renamed(old: str, new: str, *, stacklevel: int = 2) -> None:
    """Warn that a name has changed.

    Args:
        old: What was called, in backticks where it is code.
        new: What to call.
        stacklevel: As in `warnings.warn`, counted from the caller of this function.
    """
    warnings.warn(
        f"{old} is now {new}; the old name goes with the next release.",
        DeprecationWarning,
        stacklevel=stacklevel + 1,
    )
