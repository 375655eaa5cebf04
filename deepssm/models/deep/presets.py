"""The two deep state space models of the papers, by their sizes and parts."""

from __future__ import annotations

from typing import Literal

from .deep_markov import DeepMarkov
from .emissions import BernoulliEmission, GaussianEmission
from .parts import Emission
from .transitions import GatedTransition, MLPTransition


def deep_kalman_filter(
    obs_dim: int,
    state_dim: int,
    *,
    input_dim: int = 0,
    hidden: int = 32,
    emission: Emission | None = None,
) -> DeepMarkov:
    """Return the deep Kalman filter: `z_t ~ N(MLP(z_{t-1}, u_t), .)`, `y_t ~ N(MLP(z_t), .)`.

    Args:
        obs_dim: Size of `y`.
        state_dim: Size of `z`.
        input_dim: Size of `u`, the actions, which drive the transition and reach the emission.
        hidden: Width of both networks.
        emission: Another emission, such as `BernoulliEmission`.

    Source: Krishnan, Shalit, Sontag (2015), Deep Kalman filters, section 4.
    """
    return DeepMarkov(
        obs_dim,
        state_dim,
        input_dim=input_dim,
        transition=MLPTransition(state_dim, input_dim, hidden),
        emission=emission or GaussianEmission(state_dim, obs_dim, input_dim, hidden),
        hidden=hidden,
    )


def deep_markov_model(
    obs_dim: int,
    state_dim: int = 100,
    *,
    transition_hidden: int = 200,
    emission_hidden: int = 100,
    emission: Emission | None = None,
    feedback: Literal["none", "transition", "emission", "both"] = "none",
) -> DeepMarkov:
    """Return the deep Markov model of the polyphonic music: gated transition, bits emitted.

    Its guide in the paper is `SmoothingGuide` over `RecurrentEncoder(reads="future",
    cell="relu")` of width 600 with a `GateCombiner` (ST-R).

    Args:
        obs_dim: Size of `y`, whose entries are 0 or 1; 88 keys in the paper.
        state_dim: Size of `z`.
        transition_hidden: Width of gate and proposal.
        emission_hidden: Width of the two layers of the emission.
        emission: Another emission, for data that are no bits.
        feedback: Which part reads the last observation too; `"both"` is DMM-Aug of the paper.

    Source: Krishnan, Shalit, Sontag (2017), Structured inference networks, section 5 and table 3.
    """
    moved, emitted = (
        2 * obs_dim if feedback in (part, "both") else 0 for part in ("transition", "emission")
    )
    return DeepMarkov(
        obs_dim,
        state_dim,
        transition=GatedTransition(state_dim, moved, transition_hidden),
        emission=emission or BernoulliEmission(state_dim, obs_dim, emitted, emission_hidden),
        hidden=transition_hidden,
        feedback=feedback,
    )
