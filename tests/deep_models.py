"""Deep models in generic position, and the matrices of one whose parts are linear."""

from __future__ import annotations

import torch
from torch import Tensor

from deepssm.core.model import GaussianInitial, LinearConditional, LinearParameters, Series
from deepssm.core.pyro_sites import seeded
from deepssm.inference.guides.smoothing_guide import SmoothingGuide
from deepssm.models.deep.deep_markov import DeepMarkov
from deepssm.models.deep.emissions import GaussianEmission
from deepssm.models.deep.transitions import LinearTransition


def scramble(module: torch.nn.Module, seed: int, size: float = 0.3) -> None:
    """Move every parameter off its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(size * noise)


def linear_deep(state: int = 2, obs: int = 2, inputs: int = 1, seed: int = 0) -> DeepMarkov:
    model = DeepMarkov(
        obs,
        state,
        input_dim=inputs,
        transition=LinearTransition(state, inputs),
        emission=GaussianEmission(state, obs, inputs, hidden=0),
    ).double()
    scramble(model, seed)
    with torch.no_grad():
        assert isinstance(model.transition_net, LinearTransition)
        model.transition_net.linear.weight[:, :state].mul_(0.7)
        model.initialized.fill_(True)
    return model


def neural_deep(state: int = 2, obs: int = 2, inputs: int = 1, seed: int = 0) -> DeepMarkov:
    model = DeepMarkov(obs, state, input_dim=inputs, hidden=8).double()
    scramble(model, seed)
    return model


def scrambled_guide(model: DeepMarkov, seed: int = 1) -> SmoothingGuide:
    guide = SmoothingGuide(model.obs_dim, model.state_dim, model.input_dim, hidden=8).double()
    scramble(guide, seed)
    return guide


def linear_parameters(model: DeepMarkov, u: Tensor) -> LinearParameters:
    """The matrices by evaluating the model's means at 0 and at unit states."""
    unit = torch.eye(model.state_dim, dtype=torch.float64)

    def conditional(part: torch.nn.Module | object, arrival: Tensor) -> LinearConditional:
        zero = torch.zeros(len(u), model.state_dim, dtype=torch.float64)
        at_zero = part(zero, arrival)  # type: ignore[operator]
        columns = [part(zero + e, arrival).mean - at_zero.mean for e in unit]  # type: ignore[operator]
        cov = torch.diag_embed(at_zero.variance)
        return LinearConditional(torch.stack(columns, -1), at_zero.mean, cov)

    with torch.no_grad():
        first = model.initial()
        initial = GaussianInitial(first.mean, torch.diag_embed(first.variance))
        return LinearParameters(
            initial, conditional(model.transition, u), conditional(model.emission, u)
        )


def gappy_series(model: DeepMarkov, time: int = 12, batch: int = 3, seed: int = 0) -> Series:
    """A draw of the model with inputs, scattered gaps, a missing step and ragged ends."""
    g = torch.Generator().manual_seed(seed)
    u = torch.randn(batch, time, model.input_dim, generator=g, dtype=torch.float64)
    with seeded(g), torch.no_grad():
        y = model(u=u)[1]
    y[torch.rand(y.shape, generator=g) < 0.2] = torch.nan
    y[0, 3] = torch.nan
    if batch > 1:
        y[1, time - 4 :] = torch.nan
    y[:, 0] = y[:, 0].nan_to_num(0.5)
    return Series(y, u)
