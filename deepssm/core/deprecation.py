"""Old spellings that work for one release, with a warning that names the new one."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

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


def keyword_only(*names: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a function whose last arguments were positional: they still may be, with a warning.

    Args:
        *names: What used to follow the arguments that may be positional, in order.

    Example:
        >>> @keyword_only("num_samples")
        ... def draw(model: str, *, num_samples: int = 1) -> int:
        ...     return num_samples
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     draw("model", 3)  # type: ignore[call-arg]
        3
        >>> str(caught[0].message)
        'Pass `num_samples=` of `draw` by its name; by its place it goes with the next release.'
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        count = len([p for p in inspect.signature(function).parameters.values() if _by_place(p)])

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            beyond = dict(zip(names, args[count:], strict=False))
            if not beyond or len(args) > count + len(names):
                return function(*args, **kwargs)
            for name in beyond:
                if name in kwargs:
                    raise TypeError(f"`{function.__qualname__}` got `{name}` twice.")
                warnings.warn(
                    f"Pass `{name}=` of `{function.__qualname__}` by its name; by its place it "
                    "goes with the next release.",
                    DeprecationWarning,
                    stacklevel=2,
                )
            first: tuple[Any, ...] = args[:count]
            return cast(Any, function)(*first, **kwargs, **beyond)

        return call

    return decorate


def _by_place(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)


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
