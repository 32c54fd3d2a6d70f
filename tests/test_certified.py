"""The certified core: its loop contracts at the rate its weights say, on every state and input one can find."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loopwm.errors import UserError
from loopwm.model.certified import CertifiedCore, bounded_rows, maxmin, soft_ball
from loopwm.model.config import CERTIFIED_ABAR, CERTIFIED_LOOP, ModelConfig
from loopwm.model.core import LoopedCore

WIDTH, TOKENS = 16, 5


def make_core(shared: int = 1, seed: int = 0, **loop: object) -> CertifiedCore:
    """Weights far from the gentle initialisation: matrices too large before the projection, retention spread out."""
    torch.manual_seed(seed)
    config = ModelConfig(width=WIDTH, heads=2, shared=shared, loop=replace(CERTIFIED_LOOP, mu=4, **loop))  # type: ignore[arg-type]
    core = CertifiedCore(config).double()
    with torch.no_grad():
        core.retention.a.copy_(torch.linspace(-4, 4, WIDTH))
        for layer in core.layers:
            for weight in layer.parameters():
                weight.add_(torch.randn_like(weight))
        for routing in core.routings:
            for weight in routing.parameters():
                weight.mul_(3)
    core.project()
    return core


def draw(batch: int, seed: int = 1, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(batch, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stretch(core: CertifiedCore, x: Tensor, y: Tensor, e: Tensor, weighted: bool = True) -> Tensor:
    """Distance of two states after one loop over the distance before, (B,), independently of `Contraction`."""
    held = core.held_input(e)
    before, after = x - y, core.update(x, e, held) - core.update(y, e, held)
    weight = (1 - core.retention.discretise()[0]).rsqrt() if weighted else 1.0
    return (weight * after).square().sum((1, 2)).sqrt() / (weight * before).square().sum((1, 2)).sqrt()


def worst_pair(core: CertifiedCore, rows: int, steps: int, weighted: bool) -> Tensor:
    """The largest stretch found by gradient ascent on both states and on e."""
    x, e = draw(rows, 3).requires_grad_(), draw(rows, 4).requires_grad_()
    gap = draw(rows, 5, 0.1).requires_grad_()
    optimiser = torch.optim.Adam([x, e, gap], lr=0.05)
    best = torch.zeros(rows, dtype=torch.float64)
    for _ in range(steps):
        optimiser.zero_grad()
        found = stretch(core, x, x + gap, e, weighted)
        best = torch.maximum(best, found.detach())
        (-found.log().sum()).backward()
        optimiser.step()
    return best


# ---- the parts ----


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.sampled_from([1.0, 4.0]))
def test_the_norm_in_front_never_stretches_and_stays_in_its_ball(seed: int, scale: float, radius: float) -> None:
    x, y = draw(4, seed, scale), draw(4, seed + 1, scale)
    moved = (soft_ball(x, radius) - soft_ball(y, radius)).norm(dim=-1)
    assert (moved <= (x - y).norm(dim=-1) * (1 + 1e-12)).all()
    assert soft_ball(x, radius).square().mean(-1).sqrt().max() < radius


def test_the_norm_of_radius_one_is_rmsnorm_with_eps_one() -> None:
    x = draw(3)
    torch.testing.assert_close(soft_ball(x, 1.0), torch.nn.functional.rms_norm(x, (WIDTH,), eps=1.0))


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.floats(0.1, 30))
def test_routing_never_stretches_values_however_sharp_it_is(seed: int, sharpness: float) -> None:
    p = (sharpness * draw(6, seed) @ draw(6, seed + 1).mT).softmax(-1)
    assert torch.linalg.matrix_norm(bounded_rows(p), 2).max() <= 1 + 1e-12


def test_routing_needs_its_division() -> None:
    everyone_looks_at_one = torch.zeros(1, 5, 5, dtype=torch.float64)
    everyone_looks_at_one[..., 0] = 1
    assert float(torch.linalg.matrix_norm(everyone_looks_at_one, 2)) == pytest.approx(math.sqrt(5))
    assert float(torch.linalg.matrix_norm(bounded_rows(everyone_looks_at_one), 2)) == pytest.approx(1)


@settings(max_examples=50)
@given(st.integers(0, 10_000))
def test_sorting_pairs_keeps_norms_and_never_stretches(seed: int) -> None:
    x, y = draw(4, seed), draw(4, seed + 1)
    torch.testing.assert_close(maxmin(x).norm(dim=-1), x.norm(dim=-1))
    assert ((maxmin(x) - maxmin(y)).norm(dim=-1) <= (x - y).norm(dim=-1) * (1 + 1e-12)).all()
    low, high = maxmin(x)[..., WIDTH // 2 :], maxmin(x)[..., : WIDTH // 2]
    assert (low <= high).all()


def test_projection_is_the_nearest_matrix_of_norm_one_and_changes_nothing_inside() -> None:
    core = make_core()
    _, layer = core.stages[0]
    with torch.no_grad():
        layer.into.weight.copy_(0.5 * layer.into.weight)
        layer.out.weight.copy_(3 * torch.randn_like(layer.out.weight))
    core.requires_grad_(False)
    inside, outside = layer.into.weight.clone(), layer.out.weight.clone()
    core.project()
    torch.testing.assert_close(layer.into.weight, inside)
    values, clipped = torch.linalg.svdvals(outside), torch.linalg.svdvals(layer.out.weight)
    torch.testing.assert_close(clipped, values.clamp(max=1))
    # No matrix of norm 1 is nearer than this, by von Neumann's trace inequality.
    assert float((outside - layer.out.weight).norm()) == pytest.approx(float((values - clipped).norm()))


# ---- the theorem ----


@pytest.mark.parametrize("shared", [1, 2])
@settings(max_examples=25)
@given(seed=st.integers(0, 1000), apart=st.floats(1e-4, 30), scale=st.floats(0.01, 30), lipschitz=st.floats(0.3, 0.99))
def test_no_random_pair_of_states_contracts_slower_than_certified(
    shared: int, seed: int, apart: float, scale: float, lipschitz: float
) -> None:
    core = make_core(shared, seed, lipschitz=lipschitz)
    x = draw(16, seed, scale)
    with torch.no_grad():
        found = stretch(core, x, x + draw(16, seed + 1, apart), draw(16, seed + 2))
    assert found.max() <= core.contraction().rate * (1 + 1e-9)


@pytest.mark.parametrize("shared", [1, 2])
def test_gradient_ascent_finds_no_pair_that_contracts_slower_than_certified(shared: int) -> None:
    core = make_core(shared)
    best = worst_pair(core, 16, 150, weighted=True)
    assert best.max() <= core.contraction().rate * (1 + 1e-9)
    # The search is worth something: it comes far closer to the bound than chance does.
    with torch.no_grad():
        x = draw(16, 3)
        chance = stretch(core, x, x + draw(16, 5), draw(16, 4)).max()
    assert best.max() > chance


def test_the_weighting_matters_in_the_plain_norm_a_loop_can_expand() -> None:
    core = make_core(lipschitz=0.97)
    best = worst_pair(core, 16, 150, weighted=False)
    assert best.max() > 1.01
    assert core.contraction().rate < 1


def test_the_weighting_matters_in_the_smallest_example_too() -> None:
    # One channel keeps almost everything, the other almost nothing, and G swaps them.
    abar, g = torch.diag(torch.tensor([0.95, 0.05])), 0.97 * torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    d = torch.eye(2) - abar
    step = abar + d @ g
    root = d.sqrt()
    weighted = root.inverse() @ step @ root
    assert float(torch.linalg.matrix_norm(step, 2)) > 1.3
    assert float(torch.linalg.matrix_norm(weighted, 2)) <= 1 - 0.05 * 0.03 + 1e-6


def test_two_starts_end_in_the_same_place_within_the_promised_number_of_loops() -> None:
    core = make_core(lipschitz=0.8)
    found, e = core.contraction(), draw(3)
    with torch.no_grad():
        start = torch.stack([draw(3, 8, 5.0), draw(3, 9, 5.0)])
        loops = torch.full((3,), found.loops_to(1e-3))
        end = torch.stack([core.refine(h, e, loops) for h in start])
    assert (found.distance(end[0] - end[1]) <= 1e-3 * found.distance(start[0] - start[1])).all()


def test_loops_to_a_share_are_the_fewest_that_the_rate_guarantees() -> None:
    found = make_core(lipschitz=0.8).contraction()
    loops = found.loops_to(0.01)
    assert found.rate**loops <= 0.01 < found.rate ** (loops - 1)


def test_the_rate_is_the_formula_of_the_theorem() -> None:
    core = make_core(lipschitz=0.7)
    found = core.contraction()
    _, layer = core.stages[0]
    factor = 0.7 * math.prod(
        float(torch.linalg.matrix_norm(part.weight.detach(), 2)) for part in (layer.into, layer.out)
    )
    abar = core.retention.discretise()[0].detach()
    assert found.lipschitz == pytest.approx(factor, rel=1e-9)
    assert found.rate == pytest.approx(1 - float((1 - abar).min()) * (1 - factor), rel=1e-9)


# ---- training and configuration ----


def test_an_enormous_gradient_step_leaves_a_contraction() -> None:
    core = make_core()
    optimiser = torch.optim.SGD(core.parameters(), lr=1e6)
    h, e = draw(4), draw(4, 2)
    (-core(h, e, e[:, :1], 4).pow(3).sum()).backward()
    optimiser.step()
    assert core.contraction().lipschitz > 1
    core.project()
    abar = core.retention.discretise()[0]
    assert CERTIFIED_ABAR[0] - 1e-12 <= abar.min() <= abar.max() <= CERTIFIED_ABAR[1] + 1e-12
    assert core.contraction().lipschitz <= 0.9 * (1 + 1e-9)


def test_an_average_of_contractions_is_one() -> None:
    one, other = make_core(seed=1), make_core(seed=2)
    with torch.no_grad():
        for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
            mine.lerp_(theirs, 0.3)
    assert one.contraction().lipschitz <= 0.9 * (1 + 1e-9)


def test_a_layer_has_the_parameters_of_an_ordinary_one() -> None:
    config = ModelConfig(loop=replace(CERTIFIED_LOOP, certified=False))
    ordinary = sum(p.numel() for p in LoopedCore(config).parameters())
    certified = CertifiedCore(replace(config, loop=CERTIFIED_LOOP))
    assert abs(sum(p.numel() for p in certified.parameters()) / ordinary - 1) < 0.002


def test_every_part_of_the_certified_update_gets_a_gradient() -> None:
    core = make_core(shared=2)
    h, e = draw(4), draw(4, 2)
    core(h, e, e[:, :1], 4).pow(3).sum().backward()
    still = [
        name for name, p in core.named_parameters() if p.numel() and (p.grad is None or not p.grad.abs().max() > 0)
    ]
    # Only a channel at the limit of Abar's range has no gradient; every parameter has others.
    assert not still


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        ({"retention": "euler"}, "needs model.loop.retention 'zoh'"),
        ({"phases": 3}, "set model.loop.phases to 0"),
        ({"settle": 1.0}, "set model.loop.settle to 0"),
        ({"abar": 0.97}, r"keeps Abar in \[0.05, 0.95\]"),
        ({"abar": 0.02}, r"keeps Abar in \[0.05, 0.95\]"),
        ({"lipschitz": 1.0}, r"must lie in \(0, 1\), got 1.0"),
        ({"lipschitz": 0.0}, r"must lie in \(0, 1\), got 0.0"),
        ({"lipschitz": float("nan")}, r"must lie in \(0, 1\)"),
    ],
)
def test_settings_that_certify_nothing_are_refused(loop: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(CERTIFIED_LOOP, **loop)


@pytest.mark.parametrize("bad", [{"system": "stack-equal-params"}, {"width": 6, "heads": 2, "mlp_ratio": 1}])
def test_models_that_cannot_be_certified_are_refused(bad: dict) -> None:
    with pytest.raises(UserError, match=r"model\.loop\.certified"):
        ModelConfig(**bad, loop=CERTIFIED_LOOP)
