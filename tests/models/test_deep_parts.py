"""Neural transitions and emissions: moments, special cases, and every filter on every part."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor, nn

import deepssm as ds
from deepssm.core.model import Series
from deepssm.core.pyro_sites import seeded
from deepssm.inference import SVI, Extended, Particle, Unscented
from deepssm.inference.guides.combiners import ProductCombiner
from deepssm.inference.guides.smoothing_guide import SmoothingGuide
from deepssm.models import (
    BernoulliEmission,
    CategoricalEmission,
    DeepMarkov,
    GatedTransition,
    GaussianEmission,
    GraphTransition,
    GRUTransition,
    ImageEmission,
    LinearTransition,
    LocallyLinearTransition,
    MLPTransition,
    NegativeBinomialEmission,
    ODETransition,
    PoissonEmission,
    ResidualTransition,
    StudentTEmission,
)

from ..deep_models import scramble

GRAPH = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])


def _emissions() -> dict[str, nn.Module]:
    sizes = (6, 4, 1, 8)
    return {
        "gaussian": GaussianEmission(*sizes),
        "student": StudentTEmission(*sizes),
        "bernoulli": BernoulliEmission(*sizes),
        "categorical": CategoricalEmission(*sizes),
        "poisson": PoissonEmission(*sizes),
        "negative binomial": NegativeBinomialEmission(*sizes),
        "image": ImageEmission(6, 4, 4, 1, channels=4),
        "binary image": ImageEmission(6, 4, 4, 1, channels=4, pixel="bernoulli"),
    }


def _transitions() -> dict[str, nn.Module]:
    return {
        "gated": GatedTransition(6, 1, 8),
        "mlp": MLPTransition(6, 1, 8),
        "residual": ResidualTransition(6, 1, 8),
        "linear": LinearTransition(6, 1),
        "locally linear": LocallyLinearTransition(6, 1, 8),
        "gru": GRUTransition(6, 1),
        "ode": ODETransition(6, 1, 8, steps=2),
        "graph": GraphTransition(GRAPH, 2, 1, 8),
    }


def _scrambled(parts: dict[str, nn.Module]) -> dict[str, nn.Module]:
    for part in parts.values():
        scramble(part.double(), 3, 0.1)
    return parts


with torch.random.fork_rng():
    torch.manual_seed(0)  # collected at import, when the random state is whatever ran before
    EMISSIONS, TRANSITIONS = _scrambled(_emissions()), _scrambled(_transitions())
each_emission = pytest.mark.parametrize("name", EMISSIONS)
each_transition = pytest.mark.parametrize("name", TRANSITIONS)


def _points(*axes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    draws = [torch.randn(*axes, n, generator=g, dtype=torch.float64) for n in (6, 1)]
    return draws[0], draws[1]


@each_emission
def test_mean_and_variance_are_those_of_draws(name: str) -> None:
    """20000 draws, four standard errors: fails for one seed in 300, this one is fixed."""
    z, u = _points(3)
    found = EMISSIONS[name](z, u)
    with seeded(torch.Generator().manual_seed(1)):
        draws = found.sample((20_000,))
    error = 4 * (found.variance / 20_000).sqrt()
    assert ((draws.mean(0) - found.mean).abs() < error + 1e-12).all()
    fourth = (draws - found.mean).pow(4).mean(0)
    error = 4 * ((fourth - found.variance.square()).clamp_min(0) / 20_000).sqrt()
    assert ((draws.var(0) - found.variance).abs() < error + 1e-3).all()


@each_emission
def test_one_row_of_many_is_the_row_alone(name: str) -> None:
    z, u = _points(2, 5)
    together, alone = EMISSIONS[name](z, u), EMISSIONS[name](z[1, 3], u[1, 3])
    assert together.mean.shape == (2, 5, *alone.mean.shape)
    torch.testing.assert_close(together.mean[1, 3], alone.mean)
    torch.testing.assert_close(together.variance[1, 3], alone.variance)


@each_transition
def test_a_transition_treats_rows_apart_and_spreads_inputs(name: str) -> None:
    z, u = _points(2, 5)
    net = TRANSITIONS[name]
    together, alone = net(z, u), net(z[1, 3], u[1, 3])
    assert together.mean.shape == together.variance.shape == (2, 5, 6)
    torch.testing.assert_close(together.mean[1, 3], alone.mean)
    torch.testing.assert_close(together.variance[1, 3], alone.variance)
    spread = net(z, u[0, 0])
    torch.testing.assert_close(spread.mean[1, 3], net(z[1, 3], u[0, 0]).mean)


def test_counts_have_the_textbook_densities() -> None:
    z, u = _points(3)
    y = torch.tensor([0.0, 1.0, 4.0, 9.0], dtype=torch.float64)
    poisson, binomial = EMISSIONS["poisson"], EMISSIONS["negative binomial"]
    mean = poisson(z, u).mean
    expected = scipy.stats.poisson.logpmf(y.numpy(), mean.detach().numpy()).sum(-1)
    np.testing.assert_allclose(poisson(z, u).log_prob(y).detach(), expected, rtol=1e-9)
    found = binomial(z, u)
    mean, variance = found.mean.detach(), found.variance.detach()
    size = (mean**2 / (variance - mean)).numpy()
    assert isinstance(binomial, NegativeBinomialEmission)
    raw = binomial.raw_count.detach().numpy()
    np.testing.assert_allclose(size, np.broadcast_to(np.log1p(np.exp(raw)) + 1e-3, size.shape))
    probability = size / (size + mean.numpy())
    expected = scipy.stats.nbinom.logpmf(y.numpy(), size, probability).sum(-1)
    np.testing.assert_allclose(found.log_prob(y).detach(), expected, rtol=1e-9)


def test_binary_data_start_at_their_rates() -> None:
    """With the last weights at zero the mean is Jeffreys' estimate of each component's rate."""
    emission = BernoulliEmission(2, 3, hidden=4)
    y = torch.tensor([[1.0, 0.0, torch.nan], [1.0, 0.0, 1.0], [1.0, 1.0, torch.nan]])
    emission.initialize_from(y[None])
    with torch.no_grad():
        list(emission.parameters())[-2].zero_()
    expected = torch.tensor([3.5 / 4, 1.5 / 4, 1.5 / 2])
    torch.testing.assert_close(emission(torch.randn(5, 2)).mean, expected.expand(5, 3))


def test_student_noise_has_heavy_tails_and_the_learnt_degrees() -> None:
    z, u = _points(3)
    student = EMISSIONS["student"]
    assert isinstance(student, StudentTEmission)
    found, y = student(z, u), torch.full((3, 4), 3.0, dtype=torch.float64)
    df = 2.1 + torch.nn.functional.softplus(student.raw_df)
    scale = (found.variance * (df - 2) / df).sqrt()
    parts = (x.detach().numpy() for x in (df, found.mean, scale))
    expected = scipy.stats.t.logpdf(y.numpy(), *parts).sum(-1)
    np.testing.assert_allclose(found.log_prob(y).detach(), expected, rtol=1e-9)


def test_one_linear_piece_is_the_linear_transition() -> None:
    z, u = _points(4)
    one, linear = LocallyLinearTransition(6, 1, 8, pieces=1).double(), LinearTransition(6, 1)
    scramble(one, 1)
    with torch.no_grad():
        linear.double().linear.weight.copy_(one.matrices[0])
        linear.linear.bias.copy_(one.offsets[0])
    torch.testing.assert_close(one(z, u).mean, linear(z, u).mean)


def test_the_weights_of_linear_pieces_sum_to_one_and_switch() -> None:
    """With a hot softmax each point moves by the one map that its region chose."""
    z, u = _points(50)
    net = LocallyLinearTransition(6, 1, 8, pieces=3).double()
    scramble(net, 2)
    with torch.no_grad():
        for name, scale in (("2.weight", 1e6), ("2.bias", 0.0)):
            net.weights.get_parameter(name).mul_(scale)
    joined = torch.cat([z, u], -1)
    every = torch.einsum("kij,nj->nki", net.matrices, joined) + net.offsets
    chosen = net.weights(joined).argmax(-1)
    assert len(chosen.unique()) > 1
    torch.testing.assert_close(net(z, u).mean, every[torch.arange(50), chosen])


def test_a_gated_cell_is_the_textbook_one() -> None:
    z, u = _points(4)
    net = TRANSITIONS["gru"]
    assert isinstance(net, GRUTransition)
    cell: nn.GRUCell = net.cell
    linear = nn.functional.linear
    r_u, i_u, n_u = linear(u, cell.weight_ih, cell.bias_ih).chunk(3, -1)
    r_z, i_z, n_z = linear(z, cell.weight_hh, cell.bias_hh).chunk(3, -1)
    reset, keep = torch.sigmoid(r_u + r_z), torch.sigmoid(i_u + i_z)
    expected = (1 - keep) * torch.tanh(n_u + reset * n_z) + keep * z
    torch.testing.assert_close(net(z, u).mean, expected)
    assert GRUTransition(6).double()(z).mean.shape == (4, 6)


def test_the_flow_is_that_of_an_independent_solver_and_composes() -> None:
    z, u = _points(1)
    net = ODETransition(6, 1, 8, steps=30).double()
    scramble(net, 4)

    def drift(_: float, state: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net.drift(torch.from_numpy(state), u[0]).numpy()

    solved = scipy.integrate.solve_ivp(drift, (0, 1.7), z[0].numpy(), rtol=1e-10, atol=1e-12)
    dt = torch.tensor([1.7], dtype=torch.float64)
    whole = net(z, u, dt)
    np.testing.assert_allclose(whole.mean[0].detach(), solved.y[:, -1], rtol=1e-5)
    first = net(z, u, 0.4 * dt)
    torch.testing.assert_close(net(first.mean, u, 0.6 * dt).mean, whole.mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(whole.variance / first.variance, torch.full((1, 6), 2.5).double())
    still = net(z, u, torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(still.mean, z)


def test_relabelling_the_sensors_relabels_the_prediction() -> None:
    z, u = _points(5)
    net = TRANSITIONS["graph"]
    order = torch.tensor([2, 0, 1])
    other = GraphTransition(GRAPH[order][:, order], 2, 1, 8).double()
    own = {k: v for k, v in net.state_dict().items() if "adjacency" not in k and "raw" not in k}
    other.load_state_dict(own, strict=False)
    moved = z.unflatten(-1, (3, 2))[:, order].flatten(-2)
    expected = net(z, u).mean.unflatten(-1, (3, 2))[:, order].flatten(-2)
    torch.testing.assert_close(other(moved, u).mean, expected)


def test_a_sensor_hears_only_its_neighbours() -> None:
    z = _points()[0].requires_grad_()
    quiet = torch.zeros(1, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: TRANSITIONS["graph"](x, quiet).mean, z)
    blocks = jacobian.reshape(3, 2, 3, 2).abs().amax((1, 3))  # type: ignore[union-attr]
    linked = (GRAPH > 0) | torch.eye(3, dtype=torch.bool)
    assert torch.equal(blocks > 0, linked)


def test_learnt_links_get_gradients_and_bad_ones_are_refused() -> None:
    net = GraphTransition(nn.Parameter(GRAPH.clone()), 2, hidden=4)
    scramble(net, 1)
    net(torch.randn(3, 6)).mean.square().sum().backward()
    assert net.adjacency.grad is not None and net.adjacency.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="`adjacency` must be square"):
        GraphTransition(torch.ones(2, 3), 1)
    with pytest.raises(ValueError, match="`adjacency` must hold no negative"):
        GraphTransition(-torch.eye(2), 1)
    with pytest.raises(ValueError, match="`height` and `width` must be multiples of 4"):
        ImageEmission(2, 10, 12)


@pytest.mark.parametrize("name", ["locally linear", "gru", "graph", "gated", "mlp", "linear"])
def test_steps_that_are_discrete_refuse_time(name: str) -> None:
    with pytest.raises(ValueError, match="`dt` was given, but"):
        TRANSITIONS[name](*_points(3), torch.ones(3, dtype=torch.float64))


def _model(transition: str, emission: str) -> DeepMarkov:
    net = EMISSIONS[emission]
    model = DeepMarkov(
        int(net.obs_dim),  # type: ignore[arg-type]
        6,
        input_dim=1,
        transition=TRANSITIONS[transition],
        emission=net,
    ).double()
    model.initialized.fill_(True)
    return model


PAIRS = [("residual", name) for name in EMISSIONS] + [(name, "student") for name in TRANSITIONS]


@pytest.mark.parametrize(("transition", "emission"), PAIRS)
def test_every_filter_takes_every_part(transition: str, emission: str) -> None:
    """One draw with a gap; the three filters agree on where the states are."""
    model = _model(transition, emission)
    u = _points(8)[1]
    with torch.no_grad():
        y = ds.simulate(model, 8, u=u, generator=torch.Generator().manual_seed(1)).y
        y[3] = math.nan
        means = {}
        for method in (Extended(), Unscented(), Particle(2000)):
            found = method.filter(model, Series(y, u))
            assert found.log_likelihood.isfinite().all()
            # One row of a one-hot step follows from the others, which Gaussian filters flag.
            flagged = emission == "categorical" and not isinstance(method, Particle)
            assert bool(found.ill_conditioned) == flagged
            assert found.log_likelihood[3] == 0
            means[type(method).__name__] = found.mean
    spread = found.predicted_cov.diagonal(dim1=-2, dim2=-1).sqrt()
    for name in ("Extended", "Unscented"):
        assert ((means[name] - means["Particle"]) / spread).square().mean() < 0.6


@pytest.mark.parametrize("name", ["categorical", "negative binomial", "image"])
def test_discrete_and_image_models_learn(name: str) -> None:
    """The bound of data that the untrained model has not seen rises."""
    torch.manual_seed(0)
    sizes = {"categorical": 4, "negative binomial": 4, "image": 16}[name]
    nets: dict[str, nn.Module] = {
        "categorical": CategoricalEmission(2, sizes, hidden=0),
        "negative binomial": NegativeBinomialEmission(2, sizes, hidden=0),
        "image": ImageEmission(2, 4, 4, channels=8),
    }
    blind = ProductCombiner(2, sizes, 8, innovation=False)
    guide = SmoothingGuide(sizes, 2, hidden=8, combiner=blind) if name == "image" else None
    phase = torch.arange(30)[None, :] / 5 + torch.arange(6)[:, None]
    if name == "categorical":
        y = nn.functional.one_hot((phase % 4).long(), 4).float()
    else:
        wave = torch.sin(phase[..., None] + torch.arange(sizes))
        y = (20 + 15 * wave).round() if "binomial" in name else 0.5 + 0.4 * wave
    y[2, 7:12] = math.nan
    model = DeepMarkov(sizes, 2, emission=nets[name], hidden=8)
    method = SVI(guide, steps=40, report_every=5, batch_size=6, learning_rate=3e-2)
    learned = method.fit(model, Series(y), progress=False)
    elbos = [record["elbo"] for record in learned.history]
    assert elbos[-1] > elbos[0] + 0.02


def test_presets_are_the_models_of_the_papers() -> None:
    kalman = ds.models.deep_kalman_filter(3, 2, input_dim=1, hidden=5)
    assert isinstance(kalman.transition_net, MLPTransition)
    assert isinstance(kalman.emission_net, GaussianEmission)
    music = ds.models.deep_markov_model(88)
    augmented = ds.models.deep_markov_model(5, 4, feedback="both")
    assert augmented.transition_net.layer.in_features == 4 + 2 * 5  # type: ignore[union-attr]
    assert ds.simulate(augmented, 3).y.shape == (3, 5)
    assert isinstance(music.transition_net, GatedTransition)
    assert isinstance(music.emission_net, BernoulliEmission)
    assert (music.state_dim, music.transition_net.hidden, music.emission_net.hidden) == (
        100,
        200,
        100,
    )
    assert ds.simulate(music, 4).y.unique().tolist() == [0.0, 1.0]
