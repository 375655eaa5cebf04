"""What a learner needs before it starts, refused with a way out where it is missing."""

from __future__ import annotations

from numbers import Integral

from ...core.methods import InferenceMethod


def given(inference: InferenceMethod | None, learner: str) -> InferenceMethod:
    """Return the inner method of a learner that is called directly.

    Args:
        inference: Its field `inference`; `deepssm.fit` fills it in where it is `None`.
        learner: Its name.

    Raises:
        ValueError: There is none.
    """
    if inference is None:
        raise ValueError(
            f"`inference` is None: `{learner}` called directly needs a method with a "
            f"log-likelihood. Pass one, such as `{learner}(inference=Kalman())`, or learn by "
            f"`deepssm.fit(model, y, method={learner}())`, which chooses it by the model."
        )
    return inference


def require_positive(learner: object, *names: str) -> None:
    """Raise unless fields of a learner are counts of at least 1.

    Args:
        learner: A dataclass.
        names: Its fields.

    Raises:
        ValueError: one is not.
    """
    for name in names:
        value = vars(learner)[name]
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(
                f"`{name}` of `{type(learner).__name__}` must be a whole number of at least 1, "
                f"got {value!r}."
            )
