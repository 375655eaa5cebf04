"""One trained deep Markov model, and every method that can reason about its states.

A pendulum is seen through its sine, in noise. A deep Markov model learns from 40 swings and knows
nothing of pendulums. Then the same call filters new swings by linearisation, by points, by an
ensemble, by particles and by the guide it was trained with; the true physics, a
`NonlinearGaussian`, goes through the same calls. Printed: nats a reading (higher is better;
particles estimate the exact value) and the error of the noise-free signal.

Run: python examples/one_model_every_filter.py [steps]
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import deepssm as ds
from deepssm.core.methods import InferenceMethod
from deepssm.core.model import StateSpaceModel

STEP, NOISE = 0.05, 0.2


def swing(z: Tensor, u: Tensor | None, dt: Tensor | None) -> Tensor:
    """One step of a pendulum: angle in rad, speed in rad/s."""
    angle, speed = z.unbind(-1)
    return torch.stack((angle + STEP * speed, speed - STEP * 9.81 * angle.sin()), -1)


def physics() -> ds.models.NonlinearGaussian:
    """Return the model that the data come from."""
    return ds.models.NonlinearGaussian(
        swing,
        lambda z, u: z[..., :1].sin(),
        Q=[[1e-5, 0.0], [0.0, 4e-3]],
        R=[[NOISE**2]],
        m0=[0.0, 0.0],
        P0=[[0.5, 0.0], [0.0, 2.0]],
    )


def clean_signal(model: StateSpaceModel, mean: Tensor) -> Tensor:
    """Return what the model expects to see at the filtered mean."""
    with torch.no_grad():
        return model.emission(mean).mean


def main(steps: int = 600, seed: int = 0) -> dict[str, float]:
    """Train, filter by everything, and print the table.

    Args:
        steps: Gradient steps of the training.
        seed: Of data and weights.
    """
    torch.manual_seed(seed)
    z, y = ds.simulate(
        physics(), 60, num_samples=50, generator=torch.Generator().manual_seed(seed)
    )
    train, test, truth = y[:40].float(), y[40:], z[40:, :, :1].sin()
    deep = ds.models.DeepMarkov(1, 4)
    learner = ds.inference.SVI(steps=steps, kl_warmup=max(steps // 4, 1))
    fit = ds.fit(deep, train, method=learner, progress=False)
    methods: dict[str, InferenceMethod] = {
        "Extended()": ds.inference.Extended(),
        "Extended(iterations=3)": ds.inference.Extended(iterations=3),
        "Unscented()": ds.inference.Unscented(),
        "Cubature()": ds.inference.Cubature(),
        "Ensemble(200)": ds.inference.Ensemble(200),
        "Particle(1000)": ds.inference.Particle(1_000),
        "the trained guide": fit.method,
    }
    found = {}
    print(f"{'':24}{'trained model':>24}{'true physics':>24}")
    print(f"{'method':24}{'nats':>12}{'rmse':>12}{'nats':>12}{'rmse':>12}")
    for name, method in methods.items():
        cells = []
        for label, model in (("deep", deep), ("physics", physics())):
            if label == "physics" and name == "the trained guide":
                continue
            data = test.to(model.dtype)
            result = ds.filter(model, data, method=method)
            error = clean_signal(model, result.mean).double() - truth
            nats = result.log_likelihood.mean().item()
            cells += [nats, error.square().mean().sqrt().item()]
            found[f"{label} {name} nats"], found[f"{label} {name} rmse"] = cells[-2:]
        print(f"{name:24}" + "".join(f"{cell:12.3f}" for cell in cells))
    return found


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
