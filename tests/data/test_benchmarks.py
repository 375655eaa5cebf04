"""Generated systems against the equations they are drawn from."""

from __future__ import annotations

import pytest
import scipy.integrate
import torch

from deepssm.data import (
    bouncing_ball,
    draw_pendulum,
    krishnan_linear,
    krishnan_nonlinear,
    pendulum_images,
    three_modes,
)


@pytest.mark.parametrize(
    ("make", "drift", "start", "process", "noise"),
    [
        (krishnan_linear, lambda z: z + 0.05, 1.0, 10.0, 20.0),
        (krishnan_nonlinear, lambda z: 2 * z.sin() + z, 0.01, 5.0, 5.0),
    ],
)
def test_synthetic_systems_have_the_published_moments(make, drift, start, process, noise) -> None:  # noqa: ANN001
    """2000 series; tolerances are 5 standard errors of a variance."""
    z, y, _ = make(2000, 25, seed=1)
    shock = z[:, 1:] - drift(z[:, :-1])
    observation = y - z / 2
    for draws, variance in ((z[:, 0], start), (shock, process), (observation, noise)):
        count = draws.numel()
        assert abs(draws.mean()) < 5 * (variance / count) ** 0.5
        assert draws.var() == pytest.approx(variance, rel=5 * (2 / count) ** 0.5)


def test_balls_bounce_between_the_walls_at_constant_speed() -> None:
    z, y, mode = bouncing_ball(20, 200, size=5.0, noise=0.1, seed=2)
    assert mode is not None
    height, velocity = z.unbind(-1)
    assert height.min() >= 0 and height.max() <= 5
    free = mode[:, 1:] == mode[:, :-1]
    assert (height.diff() - velocity[:, 1:])[free].abs().max() < 1e-9
    assert torch.equal(velocity < 0, mode == 1)
    assert 0 < (~free).double().mean() < 0.3
    assert (y[..., 0] - height).std() == pytest.approx(0.1, rel=0.1)


def test_modes_move_as_they_say_and_last() -> None:
    z, y, mode = three_modes(50, 400, stay=0.9, seed=3)
    assert mode is not None
    before, after = z[:, :-1], z[:, 1:]
    now = mode[:, 1:]
    pull = (after - torch.tensor([0.0, 2.0])) - 0.9 * (before - torch.tensor([0.0, 2.0]))
    assert pull[now == 2].std() == pytest.approx(0.05, rel=0.05)
    turned = after[now == 0].norm(dim=-1) - before[now == 0].norm(dim=-1)
    assert abs(turned.mean()) < 0.01
    stays = (mode[:, 1:] == mode[:, :-1]).double().mean()
    assert stays == pytest.approx(0.9, abs=0.01)  # 20 000 steps: 5 standard errors
    assert (y - z).std() == pytest.approx(0.1, rel=0.05)


def test_films_show_the_pendulum_where_it_is() -> None:
    """The brightness' centre gives the angle back, and the angle follows the equation."""
    z, y, _ = pendulum_images(5, 12, noise=0.0, gaps=(4, 3), seed=4)
    assert y.isnan()[:, 4:7].all() and not y[:, :4].isnan().any() and not y[:, 7:].isnan().any()
    film = draw_pendulum(z[..., 0]).unflatten(-1, (24, 24))
    grid = (torch.arange(24) + 0.5) / 24 * 2 - 1
    total = film.sum((-2, -1))
    across = (film.sum(-2) * grid).sum(-1) / total
    below = (film.sum(-1) * grid).sum(-1) / total
    angle = torch.atan2(across, below)
    assert (torch.sin(angle - z[..., 0])).abs().max() < 0.05
    solved = scipy.integrate.solve_ivp(
        lambda _, x: [x[1], -9.81 * float(torch.tensor(x[0]).sin())],
        (0, 1.1),
        z[0, 0].numpy(),
        rtol=1e-9,
        atol=1e-9,
    )
    assert z[0, -1].numpy() == pytest.approx(solved.y[:, -1], abs=1e-3)
