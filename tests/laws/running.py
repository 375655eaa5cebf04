"""How a law is tried: a few random problems in every run, two thousand by `-m laws`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from .problems import Family, Problem, Sizes

FEW, MANY = 4, 2000
Check = Callable[[Problem], None]


def law(families: Sequence[Family], few: int = FEW) -> Callable[[Check], Callable[..., None]]:
    """Turn `check(problem)` into a test of every family.

    Args:
        families: Whose models obey the law.
        few: Number of problems in an ordinary run; always the same ones.
    """

    def decorate(check: Check) -> Callable[..., None]:
        @pytest.mark.parametrize(
            "problems", [few, pytest.param(MANY, marks=pytest.mark.laws)], ids=str
        )
        @pytest.mark.parametrize("family", families, ids=lambda family: family.name)
        def test(family: Family, problems: int) -> None:
            _try(check, family, problems)

        test.__doc__, test.__name__ = check.__doc__, check.__name__
        return test

    return decorate


def _try(check: Check, family: Family, problems: int) -> None:
    @settings(
        max_examples=problems,
        derandomize=problems < MANY,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(sizes=_sizes(family), seed=st.integers(0, 2**31 - 1))
    def once(sizes: Sizes, seed: int) -> None:
        check(family.draw(sizes, seed))

    once()


def _sizes(family: Family) -> Any:  # noqa: ANN401
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
