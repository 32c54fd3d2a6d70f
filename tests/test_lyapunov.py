"""Lyapunov exponents against systems whose exponents are known, and very long imagination against its bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from loopwm.data.statistics import compute_statistics
from loopwm.envs.physics.billiards import Billiards, BilliardsConfig
from loopwm.errors import UserError
from loopwm.evaluate.config import LyapunovConfig
from loopwm.evaluate.diagnostics import stability
from loopwm.evaluate.imagination import long_imagination
from loopwm.evaluate.lyapunov import (
    Advance,
    engine_exponent,
    exponent,
    guided_exponent,
    lyapunov,
    model_exponent,
    tangent,
)
from loopwm.evaluate.scores import Scorer
from loopwm.evaluate.segments import rollouts
from loopwm.model.config import LoopConfig, ModelConfig, System
from loopwm.model.core import LoopedCore
from loopwm.model.world_model import WorldModel

LONG = LyapunovConfig(starts=16, burn_in=100, steps=1500)
Map = Callable[[int, Tensor], Tensor]


def make(columns, system: System = "looped", **loop: object) -> WorldModel:
    torch.manual_seed(0)
    config = ModelConfig(system=system, width=16, heads=2, loop=LoopConfig(mu=2, **loop))  # type: ignore[arg-type]
    statistics = compute_statistics(columns, np.arange(40))
    return WorldModel(config, columns.meta.observation, columns.meta.action, statistics).eval()


def by_neighbour(step: Map) -> Advance:
    """The linearisation of any map, by a neighbour."""
    epsilon = 1e-8

    def advance(k: int, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, None]:
        after = step(k, x)
        return after, (step(k, x + epsilon * v) - after) / epsilon, None

    return advance


# ---- known exponents ----


def logistic(k: int, x: Tensor) -> Tensor:
    return 4 * x * (1 - x)


def henon(k: int, z: Tensor) -> Tensor:
    return torch.stack([1 - 1.4 * z[:, 0] ** 2 + z[:, 1], 0.3 * z[:, 0]], dim=1)


def lorenz(k: int, z: Tensor, dt: float = 0.02) -> Tensor:
    """One step of the classical Runge-Kutta method; its exponent per unit of time is 0.9056."""

    def slope(z: Tensor) -> Tensor:
        x, y, w = z.unbind(1)
        return torch.stack([10 * (y - x), x * (28 - w) - y, x * y - 8 / 3 * w], dim=1)

    a = slope(z)
    b = slope(z + dt / 2 * a)
    c = slope(z + dt / 2 * b)
    d = slope(z + dt * c)
    return z + dt / 6 * (a + 2 * b + 2 * c + d)


@pytest.mark.parametrize("linearised", [tangent, by_neighbour])
@pytest.mark.parametrize(
    ("step", "axes", "known", "tolerance", "settings"),
    [
        (logistic, 1, math.log(2), 0.005, LONG),
        (henon, 2, 0.4192, 0.01, LONG),
        # Its step is short, and its way to the attractor long.
        (lorenz, 3, 0.02 * 0.9056, 0.0015, replace(LONG, burn_in=1000, steps=2500)),
    ],
    ids=["logistic", "henon", "lorenz"],
)
def test_the_exponent_of_a_chaotic_system_is_the_known_one(
    linearised: Callable[[Map], Advance], step: Map, axes: int, known: float, tolerance: float, settings: LyapunovConfig
) -> None:
    start = 0.1 + 0.1 * torch.rand(16, axes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = exponent(linearised(step), start, settings)
    assert found.value.mean == pytest.approx(known, abs=tolerance)
    assert (found.value.n, found.starts, found.torn) == (16, 16, 0)
    assert len(found.curve) == settings.burn_in + settings.steps


@pytest.mark.parametrize("linearised", [tangent, by_neighbour])
def test_the_exponent_of_a_linear_map_is_its_spectral_radius(linearised: Callable[[Map], Advance]) -> None:
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    matrix = torch.block_diag(0.9 * turn, torch.tensor([[0.5, 3.0], [0.0, 0.5]], dtype=torch.float64))
    start = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = exponent(linearised(lambda k, x: x @ matrix.mT), start, replace(LONG, steps=300))
    assert found.value.mean == pytest.approx(math.log(0.9), abs=1e-3)


def test_steps_that_are_torn_count_neither_in_the_mean_nor_in_the_curve() -> None:
    def advance(k: int, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x, 1e6 * v if k == 3 else 2 * v, torch.tensor([k == 3, False])

    found = exponent(advance, torch.zeros(2, 1, dtype=torch.float64), LyapunovConfig(starts=2, burn_in=2, steps=4))
    assert found.torn == 1
    other = (3 * math.log(2) + math.log(1e6)) / 4
    assert found.value.mean == pytest.approx((math.log(2) + other) / 2)
    assert found.curve[3] == pytest.approx(math.log(1e6)) and found.curve[2] == pytest.approx(math.log(2))


# ---- engine and model ----


def exponent_of_table(config: BilliardsConfig, settings: LyapunovConfig, columns) -> float:
    env, scorer = Billiards(config), Scorer.of(make(columns))
    observations = np.stack([env.reset(seed=seed)[0] for seed in range(settings.starts)])
    actions = np.zeros((settings.starts, 1 + settings.burn_in + settings.steps, 2))
    found = engine_exponent(env, scorer, observations, actions, settings)
    assert found.torn == 0
    return found.value.mean


def test_colliding_discs_are_chaotic_and_a_single_one_is_not(billiards_columns) -> None:
    settings = LyapunovConfig(starts=4, burn_in=10, steps=30)
    # A disc in a square drifts from its neighbour in proportion to time, so the logarithm grows by 1/t per step.
    lone = exponent_of_table(BilliardsConfig(discs=1, damping=1.0, max_steps=0), settings, billiards_columns)
    many = exponent_of_table(BilliardsConfig(damping=1.0, max_steps=0), settings, billiards_columns)
    assert abs(lone) < 0.06
    assert many > 0.3


def test_the_engine_shows_in_double_precision_what_it_is_given(billiards_columns) -> None:
    env = Billiards()
    env.reset(seed=3)
    given = env.state()
    given[2, :4] += 1e-9
    env.set_state(given)
    np.testing.assert_array_equal(env.state(), given)
    assert env.state().dtype == np.float64 and env.observation().dtype == np.float32


def test_a_models_exponent_is_that_of_twins_in_its_imagination(billiards_columns) -> None:
    model, settings = make(billiards_columns), LyapunovConfig(starts=5, burn_in=5, steps=20)
    starts = rollouts(billiards_columns, np.arange(5), 1, stride=60)
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 26, 2))
    found = model_exponent(model, starts, actions, settings)
    # The same by imagining two futures side by side, renormalised by hand.
    model = model.double()
    with torch.no_grad():
        taken, e = torch.tensor(actions), model.encode(torch.tensor(starts.observations[:, 0]).double())
        h = model.step(model.initial(5), taken[:, 0], e)
        gap = 1e-6 * torch.nn.functional.normalize(
            torch.randn(h.shape, dtype=h.dtype, generator=torch.Generator().manual_seed(0)).flatten(1), dim=1
        ).view_as(h)
        total = torch.zeros(5, dtype=h.dtype)
        for k in range(1, 26):
            both = model.step(torch.cat([h, h + gap]), taken[:, k].repeat(2, 1))
            h, other = both.chunk(2)
            length = (other - h).flatten(1).norm(dim=1)
            total += (length / 1e-6).log() * (k > 5)
            gap = 1e-6 * (other - h) / length[:, None, None]
    assert found.value.mean == pytest.approx(float(total.mean()) / 20, abs=1e-4)
    assert found.value.low < found.value.mean < found.value.high


def test_model_and_engine_are_measured_from_the_same_starts(billiards_columns) -> None:
    settings = LyapunovConfig(starts=3, burn_in=2, steps=4)
    found = lyapunov(make(billiards_columns), billiards_columns, np.arange(12), settings)
    assert found.engine is not None
    assert found.model.starts == found.engine.starts == 3
    assert len(found.model.curve) == len(found.engine.curve) == 6
    assert found == lyapunov(make(billiards_columns), billiards_columns, np.arange(12), settings)
    # A world without a restorable engine has a model's exponent only.
    elsewhere = replace(billiards_columns, meta=replace(billiards_columns.meta, world="pond"))
    alone = lyapunov(make(billiards_columns), elsewhere, np.arange(12), settings)
    assert alone.engine is None and alone.model == found.model


def test_guided_growth_is_the_product_of_the_jacobians_at_observed_latents(billiards_columns) -> None:
    model, settings = make(billiards_columns), LyapunovConfig(starts=2, burn_in=0, steps=6)
    episodes = np.flatnonzero(billiards_columns.ep_len >= 10)[:2]
    found = guided_exponent(model, billiards_columns, episodes, settings)
    assert found is not None and (found.starts, found.steps) == (2, 6)
    segments = rollouts(billiards_columns, episodes, 7, stride=60)
    model = model.double()
    observations, actions = torch.tensor(segments.observations).double(), torch.tensor(segments.actions).double()
    with torch.no_grad():
        latents = model.observe(observations[:, :-1], actions)
    v = torch.randn(latents[:, 0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grown = []
    for row in range(2):
        w = v[row].flatten() / v[row].norm()
        for k in range(6):
            jacobian = torch.autograd.functional.jacobian(
                lambda h, row=row, k=k: model.step(h, actions[row : row + 1, 1 + k]), latents[row : row + 1, k]
            )
            assert isinstance(jacobian, Tensor)
            w = jacobian.reshape(w.numel(), w.numel()) @ w
        grown.append(float(w.norm().log()) / 6)
    assert found.value.mean == pytest.approx(np.mean(grown), rel=1e-8)
    # Nothing is left of an episode that is shorter than its burn-in.
    assert guided_exponent(model, billiards_columns, episodes, replace(settings, burn_in=60)) is None


def test_settings_that_measure_nothing_are_refused() -> None:
    refused: list[dict[str, Any]] = [{"starts": 1}, {"steps": 0}, {"burn_in": -1}, {"epsilon": 1e-15}]
    for bad in refused:
        with pytest.raises(UserError, match="lyapunov"):
            LyapunovConfig(**bad)


# ---- very long imagination ----


@pytest.mark.parametrize("system", ["looped", "stack-equal-flops"])
def test_long_imagination_stays_within_its_bound(billiards_columns, system: System) -> None:
    model = make(billiards_columns, system)
    segments = rollouts(billiards_columns, np.arange(10), 5)
    found = long_imagination(model, segments, steps=300, starts=8)
    assert (found.steps, found.starts, found.nonfinite) == (300, 8, 0)
    # The latent leaves a norm of unit gain, so the bound is reached.
    assert found.carried_bound == pytest.approx(4.0) and found.carried_max == pytest.approx(4.0, rel=0.01)
    assert found.norm_max <= found.norm_bound * (1 + 1e-6)
    if system == "looped":
        assert found.state_max is not None and found.observed is not None and found.observed_max <= found.observed
        assert found.norm_max == found.state_max and found.norm_bound == found.state_bound
    else:
        assert found.state_max is None and found.norm_max == found.carried_max
    assert stability(model, segments, steps=300, rollouts=8).nonfinite == 0


def test_the_largest_loop_state_is_the_largest_of_all_loops_run_by_hand(billiards_columns) -> None:
    model, segments = make(billiards_columns), rollouts(billiards_columns, np.arange(6), 1, stride=60)
    core = model.core
    assert isinstance(core, LoopedCore)
    found = long_imagination(model, segments, steps=1, starts=6, seed=5)
    rng = np.random.default_rng(5)
    o = torch.tensor(segments.observations[rng.choice(6, 6, replace=False), 0])
    pool = segments.actions[segments.valid]
    a = torch.tensor(pool[rng.integers(len(pool), size=(6, 1))][:, 0])
    with torch.no_grad():
        e = core.prelude(model.initial(6), model.encode(o), model.encode_action(a))
        held, h = core.held_input(e), core.start(e, e)
        norms = [h.norm(dim=-1).max()]
        for loop in range(2):
            h = core.moved(h, e, held, torch.tensor([loop]))
            norms.append(h.norm(dim=-1).max())
    assert found.state_max == pytest.approx(float(torch.stack(norms).max()), rel=1e-5)
    # The model that was handed in is not watched afterwards.
    assert "moved" not in vars(core)


def test_numbers_that_are_not_finite_are_counted_in_long_imagination(billiards_columns) -> None:
    model = make(billiards_columns)
    with torch.no_grad():
        model.reward_head.read.bias.fill_(torch.inf)
    assert long_imagination(model, rollouts(billiards_columns, np.arange(4), 5), steps=30, starts=2).nonfinite == 60
