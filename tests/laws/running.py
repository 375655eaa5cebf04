"""How a law is tried: on a few random problems in every run, on two thousand by `-m laws`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from .problems import Sizes

FEW = 4
P = TypeVar("P", covariant=True)
Q = TypeVar("Q")


class Family(Protocol[P]):
    """Where problems of one kind come from."""

    @property
    def name(self) -> str:
        """For the name of a test."""
        ...

    @property
    def longest(self) -> int:
        """Most steps of a series."""
        ...

    def draw(self, sizes: Sizes, seed: int) -> P:
        """Build a problem of given sizes from a seed."""
        ...


def law(
    families: Sequence[Family[Q]], few: int = FEW
) -> Callable[[Callable[[Q], None]], Callable[..., None]]:
    """Turn `check(problem)` into a test of every family.

    Args:
        families: Whose models obey the law.
        few: Number of problems in an ordinary run; always the same ones.
    """

    def decorate(check: Callable[[Q], None]) -> Callable[..., None]:
        @pytest.mark.parametrize(
            "long", [False, pytest.param(True, marks=pytest.mark.laws)], ids=["few", "many"]
        )
        @pytest.mark.parametrize("family", families, ids=lambda family: family.name)
        def test(family: Family[Q], long: bool, request: pytest.FixtureRequest) -> None:
            many = int(str(request.config.getoption("--law-problems")))
            _try(check, family, many if long else few, fixed=not long)

        test.__doc__, test.__name__ = check.__doc__, check.__name__
        return test

    return decorate


def _try(check: Callable[[Q], None], family: Family[Q], problems: int, *, fixed: bool) -> None:
    @settings(
        max_examples=problems,
        derandomize=fixed,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(sizes=_sizes(family), seed=st.integers(0, 2**31 - 1))
    def once(sizes: Sizes, seed: int) -> None:
        check(family.draw(sizes, seed))

    once()


def _sizes(family: Family[Any]) -> Any:  # noqa: ANN401
    """Sizes that hypothesis can shrink; the numbers of a model come from the seed."""
    return st.builds(
        Sizes,
        time=st.integers(1, family.longest),
        state=st.integers(1, 3),
        obs=st.integers(1, 2),
        inputs=st.integers(0, 2),
        batch=st.sampled_from([(), (2,), (3,), (2, 1)]),
        gaps=st.sampled_from([0.0, 0.3, 0.9]),
    )
