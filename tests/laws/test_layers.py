"""Laws of sequence layers: one system in several views."""

from __future__ import annotations

import torch

from .comparing import close, indices
from .layer_families import LAYERS, LINEAR_LAYERS, Layered
from .linear_families import Draw
from .running import law


@law(LAYERS)
def test_step_by_step_is_the_whole_sequence(problem: Layered) -> None:
    """Recurrence and convolution are the same function."""
    with torch.no_grad():
        whole = problem.layer(problem.u)
        step, state = problem.layer.stepper(), None
        for t in range(problem.u.shape[-2]):
            y, state = step(problem.u[..., t, :], state)
            close(y, whole[..., t, :], 1e-8)


@law(LAYERS)
def test_pieces_are_the_whole_sequence(problem: Layered) -> None:
    """The state after a piece is all that the rest needs."""
    if problem.u.shape[-2] < 2:
        return
    cut = 1 + problem.seed % (problem.u.shape[-2] - 1)
    with torch.no_grad():
        whole = problem.layer(problem.u)
        head, state = problem.layer.run(problem.u[..., :cut, :])
        tail, _ = problem.layer.run(problem.u[..., cut:, :], state)
    close(torch.cat((head, tail), -2), whole, 1e-8)


@law(LAYERS)
def test_the_future_changes_nothing(problem: Layered) -> None:
    """An output depends on the inputs up to it."""
    cut = problem.seed % (problem.u.shape[-2] + 1)
    other = problem.u.clone()
    other[..., cut:, :] += Draw(problem.seed).normal(*other[..., cut:, :].shape)
    with torch.no_grad():
        close(
            problem.layer(other)[..., :cut, :],
            problem.layer(problem.u)[..., :cut, :],
            1e-8,
        )


@law(LAYERS)
def test_a_batch_is_its_series(problem: Layered) -> None:
    """Neighbours in a batch change nothing."""
    with torch.no_grad():
        together = problem.layer(problem.u)
        for index in indices(problem.u.shape[:-2]):
            close(together[index], problem.layer(problem.u[index]), 1e-8)


@law(LAYERS)
def test_what_is_masked_is_not_read(problem: Layered) -> None:
    """Under the mask anything may stand, NaN too."""
    mask = Draw(problem.seed).uniform(0, 1, *problem.u.shape[:-1]) < 0.7
    payload = torch.where(mask[..., None], problem.u, torch.nan)
    with torch.no_grad():
        ours = problem.layer(problem.u, mask=mask)
        theirs = problem.layer(payload, mask=mask)
    assert torch.equal(ours, theirs)


@law(LAYERS)
def test_equal_steps_are_the_default(problem: Layered) -> None:
    """`dt` of one everywhere is no `dt`; a `rate` is a factor on it."""
    ones = torch.ones(problem.u.shape[:-1], dtype=torch.float64)
    with torch.no_grad():
        close(problem.layer(problem.u, dt=ones), problem.layer(problem.u), 1e-8)
        close(problem.layer(problem.u, dt=2.0), problem.layer(problem.u, rate=2.0), 1e-8)


@law(LINEAR_LAYERS)
def test_a_linear_layer_adds_up(problem: Layered) -> None:
    """The answer to a sum is the sum of the answers."""
    other = Draw(problem.seed + 1).normal(*problem.u.shape)
    with torch.no_grad():
        both = problem.layer(problem.u + 3 * other)
        close(both, problem.layer(problem.u) + 3 * problem.layer(other), 1e-8)
        assert not problem.layer(torch.zeros_like(other)).any()
