"""What the optimiser does to which parameter, and how it goes on after a stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from debug_run import debug
from torch import nn

from loopwm.errors import UserError
from loopwm.model.certified import CertifiedCore
from loopwm.model.config import CERTIFIED_LOOP
from loopwm.model.core import LoopedCore
from loopwm.train.checkpoint import NAME, load, read_checkpoint
from loopwm.train.config import OptimConfig
from loopwm.train.muon import SinglePrecisionMuon, orthogonal
from loopwm.train.optimiser import Average, Optimiser, learning_rate, parameter_groups
from loopwm.train.trainer import Trainer


def test_only_matrices_decay_and_never_b_retention_norms_or_biases(trained: Path) -> None:
    model = load(trained)
    decayed, kept, slow = parameter_groups(model, OptimConfig(weight_decay=0.1, slow=0.2))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed_names, kept_names, slow_names = (
        {names[id(parameter)] for parameter in group["params"]} for group in (decayed, kept, slow)
    )
    assert len(decayed_names) + len(kept_names) + len(slow_names) == len(names)
    assert decayed_names | kept_names | slow_names == set(names.values())
    assert slow_names == {"core.B.weight", "core.retention.a", "core.retention.raw_delta"}
    assert all("norm" not in name and "bias" not in name and "gain" not in name for name in decayed_names)
    assert "core.block.blocks.0.mlp_in.weight" in decayed_names and "core.norm_out.weight" in kept_names
    assert [group["weight_decay"] for group in (decayed, kept, slow)] == [0.1, 0.0, 0.0]


def test_b_and_the_retention_learn_at_their_own_pace(trained: Path) -> None:
    model = load(trained, "model").requires_grad_(True)
    optimiser = Optimiser(model, OptimConfig(lr=1.0, slow=0.2))
    optimiser.set_rate(0.01)
    core = model.core
    assert isinstance(core, LoopedCore)
    watched = (core.B.weight, core.retention.a, core.norm_out.weight)
    before = [parameter.detach().clone() for parameter in watched]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    optimiser.step()
    for parameter, old, step in zip(watched, before, (0.002, 0.002, 0.01), strict=True):
        torch.testing.assert_close(parameter.detach(), old - step, rtol=1e-4, atol=1e-6)


def test_a_stack_has_nothing_that_learns_slowly(billiards_store: Path, tmp_path: Path) -> None:
    config = debug(billiards_store)
    stack = replace(config, model=replace(config.model, system="stack-equal-params"))
    assert {group["pace"] for group in Trainer(stack, tmp_path).optimiser.param_groups} == {1.0}


def test_the_learning_rate_warms_up_stays_and_cools_down() -> None:
    config = OptimConfig(lr=1.0, warmup=10, cooldown=0.4)
    rates = [learning_rate(config, update, 100) for update in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10:60] == pytest.approx([1.0] * 50)
    assert rates[60:] == pytest.approx([(100 - update) / 40 for update in range(60, 100)])


def test_the_average_is_the_exponential_moving_average_of_the_weights(trained: Path) -> None:
    model = load(trained, "model").requires_grad_(True)
    average, weight = Average(model, 0.9), model.core.prelude.from_latent.weight
    expected = weight.detach().clone()
    for update in range(200, 205):
        with torch.no_grad():
            weight.add_(0.1)
        average.update(model, update)
        expected = 0.9 * expected + 0.1 * weight.detach()
    torch.testing.assert_close(average.model.core.prelude.from_latent.weight, expected)


def test_adamw_takes_the_step_that_its_formula_says(trained: Path) -> None:
    model = load(trained).requires_grad_(True)
    config = OptimConfig(lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    optimiser = Optimiser(model, config)
    weight = model.core.prelude.from_latent.weight
    before = weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    optimiser.step()
    # After one step both moments are corrected to the gradient itself, so the step is lr * sign(gradient).
    torch.testing.assert_close(weight.detach(), before * (1 - 0.01 * 0.1) - 0.01, rtol=1e-5, atol=1e-6)


def test_a_certified_core_still_contracts_after_training_at_a_rate_that_would_break_it(
    billiards_store: Path, tmp_path: Path
) -> None:
    base = debug(billiards_store, updates=30)
    loop = replace(CERTIFIED_LOOP, mu=base.model.loop.mu)
    config = replace(base, model=replace(base.model, loop=loop), optim=replace(base.optim, lr=0.3))
    trainer = Trainer(config, tmp_path)
    core = trainer.model.core
    assert isinstance(core, CertifiedCore)
    broke = 0
    for _ in range(10):
        trainer.advance()
        assert core.contraction().lipschitz <= 0.9 * (1 + 1e-5)
        averaged = trainer.average.model.core
        assert isinstance(averaged, CertifiedCore) and averaged.contraction().lipschitz <= 0.9 * (1 + 1e-5)
        trainer.optimiser.step()
        broke += core.contraction().lipschitz > 0.9 * 1.01
        core.project()
    # Without the projection these steps leave the set, so the assertions above are not empty.
    assert broke > 0


def test_muon_moves_linear_maps_alike_in_all_directions_and_leaves_the_rest_to_adamw(trained: Path) -> None:
    model = load(trained, "model").requires_grad_(True)
    optimiser = Optimiser(model, OptimConfig(kind="muon", lr=0.01, weight_decay=0.0, slow=0.2))
    optimiser.set_rate(0.01)
    core = model.core
    assert isinstance(core, LoopedCore)
    maps = [one.weight for one in core.block.modules() if isinstance(one, nn.Linear)]
    watched = (core.B.weight, core.norm_out.weight)
    before = [parameter.detach().clone() for parameter in (*maps, *watched)]
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimiser.step()
    assert maps
    for parameter, old in zip(maps, before, strict=False):
        moved = torch.linalg.svdvals(old - parameter.detach())
        # The gradient's singular values differ by far more; five steps of Newton-Schulz leave them within a factor.
        assert float(moved.max() / moved.median()) < 2
        # As large as AdamW's updates usually are: 0.2 of the rate for every number.
        assert float((old - parameter.detach()).square().mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=0.3)
    for parameter, old, rate in zip(watched, before[len(maps) :], (0.002, 0.01), strict=True):
        torch.testing.assert_close((old - parameter.detach()).abs(), torch.full_like(old, rate), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("shape", [(24, 96), (96, 24), (32, 32)])
def test_muon_in_single_precision_moves_as_torchs_does_but_for_rounding(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    ours, theirs, still = (nn.Parameter(start.clone()) for _ in range(3))
    single = SinglePrecisionMuon([{"params": [ours, still], "weight_decay": 0.05}], lr=0.01)
    rounded = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    for update in range(4):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        before = ours.detach().clone()
        single.step()
        rounded.step()
        # What one update moves, beside the difference that bfloat16 makes to it.
        moved, apart = (ours - before).norm(), (ours - theirs).norm()
        assert apart < 0.02 * (update + 1) * moved
    assert not torch.equal(ours, theirs)
    assert torch.equal(still, start)


def test_muon_in_single_precision_leaves_the_singular_vectors_of_a_gradient_as_they_are() -> None:
    generator = torch.Generator().manual_seed(1)
    u, values, v = torch.linalg.svd(torch.randn(16, 40, generator=generator, dtype=torch.float64), full_matrices=False)
    a, b, c = coefficients = (3.4445, -4.775, 2.0315)
    expected = values / values.norm()
    for _ in range(5):
        expected = a * expected + b * expected**3 + c * expected**5
    for matrix in (u * values @ v, (u * values @ v).T):
        found = orthogonal(matrix, coefficients, 5, 1e-7)
        wanted = u * expected @ v
        torch.testing.assert_close(found, wanted if found.shape == wanted.shape else wanted.T)


def test_muon_goes_on_bit_by_bit(billiards_store: Path, tmp_path: Path) -> None:
    config = replace(debug(billiards_store, updates=8), optim=OptimConfig(kind="muon", warmup=2))
    whole, stopped = Trainer(config, tmp_path / "whole"), Trainer(config, tmp_path / "stopped")
    for _ in range(6):
        whole.advance()
    for _ in range(3):
        stopped.advance()
    (tmp_path / "stopped").mkdir()
    stopped.save()
    resumed = Trainer(config, tmp_path / "stopped")
    resumed.restore(read_checkpoint(tmp_path / "stopped" / NAME))
    for _ in range(3):
        resumed.advance()
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_unknown_optimiser_is_refused() -> None:
    with pytest.raises(UserError, match=r"optim\.kind must be adamw or muon, got 'sgd'"):
        OptimConfig(kind="sgd")  # type: ignore[arg-type]
