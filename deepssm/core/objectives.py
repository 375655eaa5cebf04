"""What a training objective must do, and what its loss may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor, nn

from .model import Series, StateSpaceModel

if TYPE_CHECKING:
    from .methods import InferenceMethod


class Loss(Protocol):
    """What `SVI` minimises: an `nn.Module` over one model and one guide, `forward` its call.

    Derive from `deepssm.inference.VariationalLoss` to write no more than the bound itself.
    """

    def __call__(
        self,
        y: Tensor,
        u: Tensor | None = None,
        dt: Tensor | None = None,
        kl_weight: float = 1.0,
        scale: float = 1.0,
    ) -> Tensor:
        """Return minus the bound of a batch, a scalar with a gradient.

        Args:
            y: `(series, time, obs)`, NaN where missing.
            u: `(series, time, input)`, or `None`.
            dt: `(series, time)`, `()` or `None`.
            kl_weight: Weight of the divergence, which grows to 1 while training warms up.
            scale: Factor on the whole, one over the number of observed steps.
        """
        ...


class Objective(Protocol):
    """What training maximises, as a value of `SVI(objective=...)`; a frozen dataclass, say.

    The loss that it makes may have further abilities: `PreparesLoss`, `KeepsState`,
    `ReportsBound`, `ChoosesMethod`, and `HasWeightPrior`, which overrules the model's.
    """

    def __call__(
        self, model: StateSpaceModel, guide: nn.Module, *, num_particles: int = 1
    ) -> nn.Module:
        """Return the `Loss` of a model and a guide.

        Args:
            model: The model.
            guide: The guide.
            num_particles: Paths a series, where the objective has no number of its own.
        """
        ...


@runtime_checkable
class PreparesLoss(Protocol):
    """A loss that looks at the training data once, before the first step."""

    def prepare(self, series: Series) -> None:
        """Take note of the training data, `(series, time, obs)`."""
        ...


@runtime_checkable
class KeepsState(Protocol):
    """A loss with numbers of its own, learnt or followed, that belong into a checkpoint."""

    def training_state(self) -> nn.Module:
        """Return the module that holds them, such as a multiplier; `SVI` trains its parameters."""
        ...


@runtime_checkable
class ReportsBound(Protocol):
    """A loss with a bound of its own, reported beside the evidence lower bound."""

    def bound(self, series: Series) -> Tensor:
        """Return the bound in nats, `(*batch,)`."""
        ...


@runtime_checkable
class ChoosesMethod(Protocol):
    """A loss that says how to infer with the trained guide; others get `Amortized(guide)`."""

    def method(self, guide: nn.Module) -> InferenceMethod:
        """Return the method of inference."""
        ...
