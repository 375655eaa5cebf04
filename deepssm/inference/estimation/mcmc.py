"""Bayesian learning: draws of the parameters from their exact marginal posterior."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyro
import torch
from pyro.infer import MCMC
from pyro.infer import NUTS as PyroNUTS
from pyro.infer.autoguide.initialization import init_to_median
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from ...core.arguments import checked
from ...core.methods import InferenceMethod, Learned
from ...core.model import Series, StateSpaceModel
from .objective import Prior, free_parameters, priors_of, replace_priors, restore_priors
from .parameter_average import ParameterAverage
from .required import given


@checked
@dataclass(frozen=True)
class NUTS:
    r"""Sample `p(parameters | y)` by Hamiltonian Monte Carlo, the states integrated out exactly.

    Every learnt parameter needs a `PyroSample` prior; others must be fixed. Afterwards each prior
    is replaced by a `PyroParam` at the posterior mean, and the returned method averages filters,
    smoothers and forecasts over the draws, so that they include parameter uncertainty. Chains
    start at the median of the prior.

    Attributes:
        num_samples: Draws kept, for each chain.
        warmup: Steps that tune step size and mass matrix, for each chain.
        chains: Chains, run one after the other.
        inference: Method whose log-likelihood is used. `deepssm.fit` takes the model's default
            method where it is `None`; called directly, `fit` needs one.
        target_accept: Acceptance rate to tune for.
        max_tree_depth: Limit of trajectory doublings.
        averaged: How many draws, spread evenly, the returned method averages over.

    Source: Hoffman & Gelman (2014), JMLR 15, 1593-1623.
    """

    num_samples: int = 500
    warmup: int = 500
    chains: int = 2
    inference: InferenceMethod | None = None
    target_accept: float = 0.8
    max_tree_depth: int = 8
    averaged: int = 50

    def fit(
        self,
        model: StateSpaceModel,
        series: Series,
        *,
        progress: bool = True,
        generator: torch.Generator | None = None,
    ) -> Learned:
        """Draw the parameters; `standard_errors` are posterior standard deviations.

        Raises:
            ValueError: `inference` is `None`, a free parameter has no prior, or none has one.
        """
        restore_priors(model)
        places = _require_priors(model)
        inference = given(self.inference, "NUTS")
        draws, divergences = self._chains(model, series, inference, places, progress, generator)
        replace_priors(model)
        for name, place in places.items():
            setattr(place.module, place.name, draws[name].mean((0, 1)))
        method = ParameterAverage(inference, model, places, draws, self.averaged)
        diagnostics = _diagnostics(draws, divergences)
        with torch.no_grad():
            at_mean = inference.log_likelihood(model, series).sum().item()
        diagnostics["log_likelihood"] = at_mean
        deviations = {name: value.flatten(0, 1).std(0) for name, value in draws.items()}
        return Learned(method, at_mean, [], deviations, diagnostics, _warnings(diagnostics))

    def _chains(
        self,
        model: StateSpaceModel,
        series: Series,
        inference: InferenceMethod,
        places: dict[str, Prior],
        progress: bool,
        generator: torch.Generator | None,
    ) -> tuple[dict[str, Tensor], int]:
        def program() -> None:
            values = [pyro.sample(name, place.density) for name, place in places.items()]
            with _in_place_of_priors(list(places.values()), values):
                pyro.factor("y", inference.log_likelihood(model, series).sum())

        chains, divergences = [], 0
        seeds = torch.randint(2**31, (self.chains,), generator=generator).tolist()
        with torch.random.fork_rng():
            for seed in seeds:
                pyro.set_rng_seed(seed)
                kernel = PyroNUTS(
                    program,
                    target_accept_prob=self.target_accept,
                    max_tree_depth=self.max_tree_depth,
                    init_strategy=init_to_median(num_samples=50),
                )
                mcmc = MCMC(
                    kernel,
                    num_samples=self.num_samples,
                    warmup_steps=self.warmup,
                    disable_progbar=not progress,
                )
                mcmc.run()
                chains.append(mcmc.get_samples())
                found = mcmc.diagnostics()["divergences"]
                divergences += sum(len(steps) for steps in found.values())
        return {key: torch.stack([c[key] for c in chains]) for key in chains[0]}, divergences


@contextmanager
def _in_place_of_priors(priors: list[Prior], values: list[Tensor]) -> Iterator[None]:
    """Let the model read `values` where it has priors; Pyro calls what is not a distribution."""
    try:
        for (module, name, _), value in zip(priors, values, strict=True):
            module.__dict__["_pyro_samples"][name] = lambda _, value=value: value
        yield
    finally:
        for module, name, density in priors:
            module.__dict__["_pyro_samples"][name] = density


def _require_priors(model: StateSpaceModel) -> dict[str, Prior]:
    """Return where each prior stands, by the path of its parameter."""
    priors = priors_of(model)
    if not priors:
        raise ValueError(
            f"`NUTS` needs priors, but no parameter of {type(model).__name__} has one. Assign "
            "`PyroSample(distribution)` to those to learn, or use `MaximumLikelihood()`."
        )
    free = [parameter.name for parameter in free_parameters(model)]
    if free:
        raise ValueError(
            f"`{free[0]}` is free but has no prior. Assign it a `PyroSample`, or fix it by "
            "`requires_grad_(False)`."
        )
    paths = {id(module): path for path, module in model.named_modules()}
    return {f"{paths[id(p.module)]}.{p.name}".removeprefix("."): p for p in priors}


def _diagnostics(draws: dict[str, Tensor], divergences: int) -> dict[str, float]:
    sizes, ratios = [], []
    for value in draws.values():
        sizes.append(effective_sample_size(value).min().item())
        ratios.append(split_gelman_rubin(value).max().item())
    return {
        "num_parameters": float(sum(value[0, 0].numel() for value in draws.values())),
        "r_hat": max(ratios),
        "effective_sample_size": min(sizes),
        "divergences": float(divergences),
    }


def _warnings(diagnostics: dict[str, float]) -> list[str]:
    sentences = []
    if not diagnostics["r_hat"] < 1.05:
        sentences.append(
            f"The chains have not mixed: the largest R-hat is {diagnostics['r_hat']:.2f}. Raise "
            "`warmup` and `num_samples`."
        )
    if not diagnostics["effective_sample_size"] >= 100:
        sentences.append(
            f"Only {diagnostics['effective_sample_size']:.0f} effective draws of some parameter. "
            "Raise `num_samples`."
        )
    if diagnostics["divergences"]:
        sentences.append(
            f"{diagnostics['divergences']:.0f} trajectories diverged: the posterior is too curved "
            "for the step size. Raise `target_accept`, or use narrower priors."
        )
    return sentences
