"""Hidden Markov models inside Pyro programs, their states enumerated by Pyro itself."""

from __future__ import annotations

from contextlib import ExitStack

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

from ...core.abilities import DiscreteModel
from ...core.model import StateSpaceModel
from .required import log_transitions


def enumerated(
    model: StateSpaceModel,
    y: Tensor,
    u: Tensor | None = None,
    dt: Tensor | None = None,
    *,
    name: str = "state",
) -> Tensor:
    r"""Write `p(z_{1:T}, y_{1:T})` as Pyro sites, one discrete site a step.

    .. math:: \sum_{z_{1:T}} p(z_1) \prod_t p(z_t | z_{t-1}, u_t)\, p(y_t | z_t, u_t)

    `TraceEnum_ELBO` sums over the sites in parallel, which is exact and equals
    `ForwardBackward()`; `infer_discrete` draws or maximises over them. It is for states that
    meet the rest of a larger program; to use a series alone, `ObservationDistribution` is one
    site and much faster. The model's parameters are what they are: nothing is registered in
    Pyro's global store.

    Args:
        model: A model with finitely many states, such as `HiddenMarkov`.
        y: `(*batch, time, obs)`, NaN where missing; every batch axis becomes a plate.
        u: Inputs, `(*batch, time, input)`.
        dt: Time steps, `(*batch, time)` or `()`.
        name: Prefix of the sites, `state_0` and so on.

    Returns:
        The states of this execution, integers, `(*batch, time)` after any enumerated axes.

    Raises:
        ValueError: the model has no discrete states.

    Source: Obermeyer et al. (2019), Tensor Variable Elimination for Plated Factor Graphs, ICML.

    Example:
        >>> import torch
        >>> from pyro.infer import TraceEnum_ELBO
        >>> import deepssm as ds
        >>> model = ds.models.HiddenMarkov(ds.models.PoissonStates(2))
        >>> y = torch.ones(4, 1, dtype=torch.float64)
        >>> elbo = TraceEnum_ELBO(max_plate_nesting=0)
        >>> loss = elbo.loss(lambda: ds.inference.enumerated(model, y), lambda: None)
        >>> round(loss + ds.log_likelihood(model, y).sum().item(), 10)
        0.0
    """
    if not isinstance(model, DiscreteModel):
        raise ValueError(
            f"`model` must have finitely many states, as `HiddenMarkov` has, got "
            f"{type(model).__name__}. Use `ObservationDistribution(model, time, inference=...)`."
        )
    pi, A = model.log_initial(), log_transitions(model, u, dt)
    B, states = model.log_emission(y, u), []
    with ExitStack() as plates:
        for i, size in enumerate(reversed(y.shape[:-2])):
            plates.enter_context(pyro.plate(f"{name}_batch_{i}", size, dim=-1 - i))
        state = None
        for t in pyro.markov(range(y.shape[-2])):
            step = A[..., min(t, A.shape[-3] - 1), :, :]
            logits = pi if state is None else Vindex(step)[..., state, :]
            choice = dist.Categorical(logits=logits)
            state = pyro.sample(f"{name}_{t}", choice, infer={"enumerate": "parallel"})
            pyro.factor(f"{name}_{t}_observation", Vindex(B[..., t, :])[..., state])
            states.append(state)
    return torch.stack(torch.broadcast_tensors(*states), -1)
