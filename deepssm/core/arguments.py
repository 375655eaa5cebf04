"""One checker of constructors: an argument of a wrong kind is refused by its name."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import numpy as np
from torch import Tensor

_T = TypeVar("_T")
_ARRAYS = (Tensor, np.ndarray)
_TEXT = (str, bytes)
_WORDS: tuple[tuple[object, str], ...] = (
    (bool, "True or False"),
    (int, "a whole number"),
    (float, "a number"),
    (str, "text"),
    (tuple, "a tuple"),
    (Tensor, "a tensor"),
    (types.NoneType, "None"),
)


def checked(cls: type[_T]) -> type[_T]:
    """Decorate a class: what its constructor is given must be of the kinds that it declares.

    Numbers, text, tuples and functions are told apart; arrays and numbers of other libraries pass
    as numbers, and what is more special is left to the constructor itself.

    Args:
        cls: A class with an annotated constructor; a dataclass has one.
    """
    init: Callable[..., None] = cls.__init__

    @functools.wraps(init)
    def construct(self: _T, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        if args or kwargs:
            require_kinds(init, cls.__name__, (self, *args), kwargs)
        init(self, *args, **kwargs)

    cls.__init__ = construct
    return cls


def require_kinds(
    function: Callable[..., object], owner: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Raise if an argument is of a kind that a function does not declare.

    Args:
        function: Whose annotations count.
        owner: What the user called.
        args: Arguments by place.
        kwargs: Arguments by name.

    Raises:
        ValueError: One is; the text names it.
    """
    try:
        given = _signature(function).bind(*args, **kwargs).arguments
    except TypeError:
        # Too many or unknown arguments: Python says so itself.
        return
    kinds = _kinds(function)
    for name, value in given.items():
        wanted = kinds.get(name)
        if wanted and not any(_fits(value, kind) for kind in wanted):
            said = " or ".join(dict.fromkeys(_in_words(kind) for kind in wanted))
            raise ValueError(
                f"`{name}` must be {said}, got {repr(value)[:60]} ({type(value).__name__}) in "
                f"`{owner}(...)`."
            )


@functools.cache
def _signature(function: Callable[..., object]) -> inspect.Signature:
    return inspect.signature(function)


@functools.cache
def _kinds(function: Callable[..., object]) -> dict[str, tuple[object, ...]]:
    """Return the kinds of each argument; nothing for those that only type checkers know."""
    known: dict[str, tuple[object, ...]] = {}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for name, parameter in _signature(function).parameters.items():
        if parameter.kind in variadic or parameter.annotation is inspect.Parameter.empty:
            continue
        hint = parameter.annotation
        if isinstance(hint, str):
            try:
                hint = eval(hint, inspect.unwrap(function).__globals__)  # noqa: S307  # our source
            except (NameError, TypeError, AttributeError):
                continue
        union = get_origin(hint) in (Union, types.UnionType)
        known[name] = get_args(hint) if union else (hint,)
    return known


def _fits(value: object, kind: object) -> bool:
    if kind is None or kind is types.NoneType:
        return value is None
    if kind is bool:
        return isinstance(value, bool | np.bool_ | Integral)
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if kind is float:
        number = isinstance(value, Real) and not isinstance(value, bool)
        return number or isinstance(value, _ARRAYS)
    if kind is str:
        return isinstance(value, str)
    if kind is Tensor:
        return value is not None and not isinstance(value, (*_TEXT, dict))
    origin = get_origin(kind)
    if origin is Literal:
        return isinstance(value, tuple(type(each) for each in get_args(kind)))
    if origin is tuple:
        return isinstance(value, Iterable) and not isinstance(value, _TEXT)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Callable):
        return callable(value)
    # What is more special is left to the constructor, but text is never that.
    special = isinstance(kind, type) and kind is not object
    return not (special and isinstance(value, _TEXT))


def _in_words(kind: object) -> str:
    origin = get_origin(kind) or kind
    if origin is Literal:
        return " or ".join(repr(each) for each in get_args(kind))
    fallback = f"a `{kind.__name__}`" if isinstance(kind, type) else "a function"
    return next((words for known, words in _WORDS if origin is known), fallback)
