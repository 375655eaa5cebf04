"""The caller's generator, for functions of a method that take none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch

from ..core.methods import InferenceMethod, TakesGenerator, TakesSeed


def drawing_from(generator: torch.Generator | None, method: InferenceMethod) -> InferenceMethod:
    """Return `method` with the caller's randomness in its field `generator` or `seed`.

    Args:
        generator: Source of randomness, advanced by one draw if the method has only a seed;
            `None` leaves the method as it is.
        method: Any method. One that has neither field draws nothing where no function takes a
            generator, and is returned as it is.
    """
    if generator is None or isinstance(method, type):
        return method
    if isinstance(method, TakesGenerator):
        return cast(InferenceMethod, replace(cast(Any, method), generator=generator))
    if isinstance(method, TakesSeed):
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        return cast(InferenceMethod, replace(cast(Any, method), seed=seed))
    return method
