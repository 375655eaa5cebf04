"""deepssm as a contestant: the public verbs, with a model that is built once."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from cases import Problem, Task
from torch import Tensor
from worker import Arrays, Contestant, Job, serve

import deepssm as ds
from deepssm.core.results import Filtered, Smoothed

METHOD = ds.inference.Kalman()


def model_of(problem: Problem, learnt: bool = False) -> ds.models.LinearGaussian:
    """Build the model, with `A`, `Q` and `R` as parameters if they are to be differentiated."""
    A, Q, R = (torch.tensor(x) for x in (problem.A, problem.Q, problem.R))
    if learnt:
        A, Q, R = (torch.nn.Parameter(x) for x in (A, Q, R))
    return ds.models.LinearGaussian(A, Q, problem.C, R, m0=problem.m0, P0=problem.P0)


def log_likelihood(model: ds.models.LinearGaussian, y: Tensor) -> Tensor:
    return ds.log_likelihood(model, y, method=METHOD)


def gradient(model: ds.models.LinearGaussian, y: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    ll = ds.log_likelihood(model, y, method=METHOD)
    ll.sum().backward()
    return {"log_likelihood": ll.detach(), "A": model.A.grad, "Q": model.Q.grad, "R": model.R.grad}


def prepare(task: Task, problem: Problem) -> Job:
    """Make the model and the tensor of data, then the call of one verb."""
    model, y = model_of(problem, task == "gradient"), torch.tensor(problem.y)
    if task == "log_likelihood":
        return Job(partial(log_likelihood, model, y), lambda ll: {"log_likelihood": _total(ll)})
    if task == "gradient":
        return Job(partial(gradient, model, y), _gradients)
    verb = ds.filter if task == "filter" else ds.smooth
    return Job(partial(verb, model, y, method=METHOD), _moments)


def _moments(result: Filtered | Smoothed) -> Arrays:
    return {
        "log_likelihood": _total(result.log_likelihood),
        "mean": result.mean.numpy(),
        "cov": result.cov.numpy(),
    }


def _gradients(found: dict[str, Tensor]) -> Arrays:
    total = _total(found.pop("log_likelihood"))
    return {"log_likelihood": total} | {name: g.numpy() for name, g in found.items()}


def _total(ll: Tensor) -> np.ndarray:
    return ll.detach().sum(-1).numpy()


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(Contestant("deepssm", ("torch", "pyro-ppl", "numba", "numpy"), prepare))
