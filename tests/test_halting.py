"""Gates trained together with the core: their laws against slow references, and what Eq. 11 does to a gate."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from loopwm.data.cache import Columns
from loopwm.data.windows import WindowSampler
from loopwm.errors import UserError
from loopwm.model.config import ExitConfig, LoopConfig
from loopwm.model.gate import Gate, GateConfig, Gated, GateKind
from loopwm.model.trace import Trace
from loopwm.model.world_model import WorldModel
from loopwm.presets import RunConfig, preset
from loopwm.train.checkpoint import load, read_checkpoint
from loopwm.train.config import GateTraining, HaltConfig, LossConfig, OptimConfig
from loopwm.train.gate import train_gate
from loopwm.train.halting import ENOUGH, act_shares, divergence, geometric_prior, halting_law, halting_loss
from loopwm.train.runs import train
from loopwm.train.trainer import Trainer

MODES = ("ponder", "act", "eq11")


def joint(store: Path, mode: str, weight: float = 0.01, **train_fields: object) -> RunConfig:
    config = preset("debug").config
    return replace(
        config,
        data=store,
        model=replace(config.model, loop=LoopConfig(mu=3)),
        halt=HaltConfig(mode, weight),  # type: ignore[arg-type]
        train=replace(config.train, **train_fields),  # type: ignore[arg-type]
    )


probabilities = st.lists(st.floats(0.01, 0.99), min_size=6, max_size=6)


@given(probabilities, st.integers(1, 6))
@settings(max_examples=60)
def test_the_law_of_halting_is_that_of_tossing_a_coin_at_every_loop(go_on: list[float], loops: int) -> None:
    p = halting_law(torch.tensor(go_on, dtype=torch.float64)[:, None], torch.tensor([loops]))[:, 0]
    reached, expected = 1.0, []
    for t in range(1, 7):
        halts = 1.0 if t == loops else 1 - go_on[t - 1]
        expected.append(reached * halts if t <= loops else 0.0)
        reached *= 1 - halts
    np.testing.assert_allclose(p.numpy(), expected, atol=1e-12)
    assert float(p.sum()) == pytest.approx(1)


@given(st.floats(0, 0.9), st.integers(1, 6))
@settings(max_examples=30)
def test_a_gate_that_tosses_the_coin_of_the_prior_is_at_no_distance_from_it(rate: float, loops: int) -> None:
    prior = geometric_prior(rate, torch.tensor([loops]), 6)
    expected = np.array([(1 - rate) ** t for t in range(loops)] + [0.0] * (6 - loops))
    np.testing.assert_allclose(prior[:, 0].numpy(), expected / expected.sum(), rtol=1e-5)
    assert float(divergence(prior, prior)) == pytest.approx(0, abs=1e-6)
    if loops > 1:
        certain = functional.one_hot(torch.tensor([loops - 1]), 6).T.float()
        assert float(divergence(certain, prior)) == pytest.approx(-np.log(float(prior[loops - 1, 0])), rel=1e-4)


@given(probabilities, st.integers(1, 6))
@settings(max_examples=60)
def test_adaptive_computation_time_adds_up_until_enough(go_on: list[float], loops: int) -> None:
    shares, cost = act_shares(torch.tensor(go_on, dtype=torch.float64)[:, None], torch.tensor([loops]))
    expected, spent, t = [0.0] * 6, 0.0, 0
    for t in range(loops):
        if spent + 1 - go_on[t] >= ENOUGH or t == loops - 1:
            expected[t] = 1 - spent
            break
        expected[t] = 1 - go_on[t]
        spent += expected[t]
    np.testing.assert_allclose(shares[:, 0].numpy(), expected, atol=1e-9)
    assert float(cost) == pytest.approx(t + 1 + expected[t])


@pytest.mark.parametrize("mode", MODES)
def test_the_loss_is_that_of_the_source_written_out_row_by_row(
    billiards_store: Path, billiards_columns: Columns, tmp_path: Path, mode: str
) -> None:
    trainer = Trainer(joint(billiards_store, mode, weight=0.3), tmp_path)
    model = trainer.model.eval().requires_grad_(False)
    assert model.gate is not None
    torch.nn.init.normal_(model.gate.out.weight)
    windows = WindowSampler(billiards_columns, np.arange(20), 3).sample(5, 2)
    visible, loops = torch.tensor([[True, True]] * 3 + [[True, False]] * 2), torch.tensor([5, 4, 3, 2, 1])
    halt, std = HaltConfig(mode, 0.3, prior=0.25), 0.2  # type: ignore[arg-type]
    found = halting_loss(model, windows, visible, loops, LossConfig(), halt, std)
    observation = halting = 0.0
    for b in range(5):
        h = model.initial(1)
        for k in range(2):
            e = model.encode(windows.observations[b : b + 1, k]) * visible[b, k]
            u = model.encode_action(windows.actions[b : b + 1, k])
            path, injected = model.core.path(h, e, u, int(loops[b]))  # type: ignore[operator]
            errors = [observation_error(model, state, windows.observations[b, k + 1]) for state in path[1:]]
            h = model.core.finish(path[-1])  # type: ignore[operator]
            g = 1 - model.judge(path, injected)[0][:, 0].sigmoid().double()
            if mode == "ponder":
                p = torch.tensor([float(g[t] * (1 - g[:t]).prod()) for t in range(len(g))])
                p[-1] = 1 - p[:-1].sum()
                prior = torch.tensor([0.25 * 0.75**t for t in range(len(g))])
                observation += sum(float(share) * error for share, error in zip(p, errors, strict=True)) / 10
                halting += float((p * (p / (prior / prior.sum())).log()).sum()) / 10
            elif mode == "eq11":
                observation += errors[-1] / 10
                halting += float((g * g.log() + (1 - g) * (1 - g).log()).sum()) / 10
            else:
                shares, cost = act_shares((1 - g)[:, None], loops[b : b + 1])
                mixed = (shares[..., None, None] * path[1:]).sum(0).float()
                observation += observation_error(model, mixed, windows.observations[b, k + 1]) / 10
                halting += float(cost) / 10
                h = model.core.finish(mixed)  # type: ignore[operator]
    assert float(found.observation) == pytest.approx(observation, rel=1e-3)
    assert float(found.further["halting"]) == pytest.approx(halting, rel=1e-3, abs=1e-5)
    expected = observation + 0.1 * float(found.reward) + float(found.continues) + 0.3 * halting
    assert float(found.total) == pytest.approx(expected, rel=1e-3)


def observation_error(model: WorldModel, state: Tensor, truth: Tensor) -> float:
    """Normalised squared error of the prediction that a loop state (1, N, D) decodes to."""
    predicted = model.decode(model.core.finish(state)).observation[0]  # type: ignore[operator]
    return float((((predicted - truth) / model.observation_std)[:, :4]).square().mean())


@pytest.mark.parametrize("mode", ["ponder", "act"])
def test_a_joint_gate_hears_of_the_errors_and_that_of_equation_11_does_not(
    billiards_store: Path, tmp_path: Path, mode: str
) -> None:
    for tried in (mode, "eq11"):
        trainer = Trainer(joint(billiards_store, tried, weight=0.0), tmp_path)
        assert trainer.model.gate is not None
        torch.nn.init.normal_(trainer.model.gate.out.weight)
        trainer.loss(trainer.draw(), "float32").total.backward()
        gradients = [p.grad.norm() for p in trainer.model.gate.parameters() if p.grad is not None]
        assert (sum(map(float, gradients)) > 1e-6) == (tried != "eq11")


def halting_probabilities(run: Path, columns: Columns) -> Tensor:
    """What the gate of a run says after loops 1 .. 3 of 200 transitions, as a probability, (3, 200)."""
    model, windows = load(run), WindowSampler(columns, np.arange(40, 60), 0).sample(200, 1)
    with torch.no_grad():
        u, e = model.encode_action(windows.actions[:, 0]), model.encode(windows.observations[:, 0])
        path, injected = model.core.path(model.initial(200), e, u, 3)  # type: ignore[operator]
        return 1 - model.judge(path, injected)[0].sigmoid()


def test_the_gate_of_equation_11_stays_at_one_half_for_every_row_and_one_trained_afterwards_does_not(
    billiards_store: Path, billiards_columns: Columns, tmp_path: Path
) -> None:
    run = tmp_path / "eq11"
    config = joint(billiards_store, "eq11", weight=1.0, updates=200)
    train(replace(config, optim=OptimConfig(lr=0.03, warmup=2, ema=0.9)), run)
    g = halting_probabilities(run, billiards_columns)
    assert float((g - 0.5).abs().max()) < 0.05 and float(g.std()) < 0.005
    later = Path(shutil.copytree(run, tmp_path / "later"))
    train_gate(later, GateTraining("ouro", updates=80, batch=16, lr=1e-2, device="cpu"), overwrite=True)
    assert float(halting_probabilities(later, billiards_columns).std(1).max()) > 0.025


@pytest.mark.parametrize("mode", MODES)
def test_a_run_with_a_joint_gate_can_leave_its_loop_by_it(
    billiards_store: Path, billiards_columns: Columns, tmp_path: Path, mode: str
) -> None:
    run = tmp_path / mode
    train(joint(billiards_store, mode, updates=10), run)
    model, windows = load(run), WindowSampler(billiards_columns, np.arange(20), 0).sample(16, 2)
    observations, actions = windows.observations[:, :-1], windows.actions
    with torch.no_grad():
        full, trace = model.observe(observations, actions), Trace()
        assert torch.equal(model.observe(observations, actions, exit=ExitConfig("gate", 0.0)), full)
        model.observe(observations, actions, exit=ExitConfig("gate", 1.0), trace=trace)
    assert int(trace.loops.max()) == 1


def test_a_joint_run_resumes_bit_for_bit_gate_included(billiards_store: Path, tmp_path: Path) -> None:
    config = joint(billiards_store, "ponder")
    whole, stopped, resumed = (Trainer(config, tmp_path) for _ in range(3))
    for _ in range(4):
        whole.advance()
        stopped.advance()
    stopped.save()
    resumed.restore(read_checkpoint(tmp_path / "checkpoint.safetensors"))
    for _ in range(3):
        whole.advance()
        resumed.advance()
    for mine, theirs in ((resumed.model, whole.model), (resumed.average.model, whole.average.model)):
        assert any(name.startswith("gate.") for name in mine.state_dict())
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in mine.state_dict().items())


@pytest.mark.parametrize("kind", ["ouro", "eq11", "ponder", "act"])
def test_the_signal_of_a_gate_means_what_its_training_meant(kind: GateKind) -> None:
    torch.manual_seed(0)
    gate = Gate(GateConfig(kind, marks=3, hidden=8), 4).requires_grad_(False)
    torch.nn.init.normal_(gate.out.weight)
    path, e = torch.randn(5, 6, 2, 4), torch.randn(6, 2, 4)
    go_on = gate.along(path, path.flatten(2), e).sigmoid()
    expected = {
        "ouro": go_on,
        "eq11": go_on,
        # As often as no coin has shown "halt" so far.
        "ponder": torch.stack([go_on[: t + 1].prod(0) for t in range(4)]),
        "act": torch.stack([(1 - (1 - go_on[: t + 1]).sum(0)).clamp(min=0) for t in range(4)]),
    }[kind]
    signal, staying = Gated(path[0], e, gate, lambda h: h), torch.tensor([5, 0, 2])
    torch.testing.assert_close(torch.stack([signal.look(h) for h in path[1:3]]), expected[:2])
    signal.keep(staying)
    torch.testing.assert_close(torch.stack([signal.look(h[staying]) for h in path[3:]]), expected[2:][:, staying])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "pondre"}, "halt.mode must be one of"),
        ({"weight": -1.0}, "halt.weight must not be negative"),
        ({"prior": 1.0}, "halt.prior is a probability"),
    ],
)
def test_meaningless_settings_are_refused(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        HaltConfig(**options)


def test_a_joint_gate_is_refused_where_there_is_no_loop_or_no_gradient_through_it(billiards_store: Path) -> None:
    config = joint(billiards_store, "ponder")
    with pytest.raises(UserError, match=r"halt\.mode 'ponder' needs model.system 'looped'"):
        replace(config, model=replace(config.model, system="stack-equal-flops"))
    with pytest.raises(UserError, match=r"needs model\.loop\.gradient 'all'"):
        replace(config, model=replace(config.model, loop=LoopConfig(mu=3, gradient="last")))
