"""A model that is its matrices, taken apart and put together again."""

from __future__ import annotations

from torch import Tensor

from deepssm.core.model import (
    GaussianInitial,
    LinearConditional,
    LinearParameters,
    StateSpaceModel,
)


class Given(StateSpaceModel):
    """A model that is its matrices."""

    def __init__(self, parameters: LinearParameters) -> None:
        super().__init__()
        self.given = parameters
        self.register_buffer("like", parameters.initial.mean[..., :0])
        self.obs_dim, self.state_dim = parameters.emission.matrix.shape[-2:]

    def linear_parameters(self, u: Tensor | None, dt: Tensor | None) -> LinearParameters:
        return self.given


def leaves_of(parameters: LinearParameters, y: Tensor) -> list[Tensor]:
    start, transition, emission = parameters
    return [y, start.mean, start.cov, *transition, *emission]


def rebuilt(leaves: list[Tensor]) -> LinearParameters:
    """The parameters in what `leaves_of` returned."""
    return LinearParameters(
        GaussianInitial(leaves[1], leaves[2], None),
        LinearConditional(*leaves[3:6]),
        LinearConditional(*leaves[6:9]),
    )
