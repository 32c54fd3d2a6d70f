"""Deferred decoding, Eq. 16-22: what the loss is made of, what it cannot see, and what survives an interruption."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from loopwm.data.cache import Columns
from loopwm.data.statistics import compute_statistics
from loopwm.data.windows import Windows, WindowSampler
from loopwm.errors import UserError
from loopwm.model.config import LoopConfig, ModelConfig
from loopwm.model.world_model import WorldModel
from loopwm.presets import PRESETS, RunConfig, preset
from loopwm.train.checkpoint import NAME, load, read_checkpoint
from loopwm.train.config import DeferredConfig, LossConfig, TrainConfig
from loopwm.train.curriculum import draw_shape, horizon
from loopwm.train.deferred import DeferredDecoding, budget, drift
from loopwm.train.journal import read_log
from loopwm.train.losses import LossTerms, PerStepDecoding
from loopwm.train.runs import train
from loopwm.train.trainer import Trainer

STD = 0.2
DRAWS = torch.Generator()


@pytest.fixture(scope="module")
def model(billiards_columns: Columns) -> WorldModel:
    torch.manual_seed(0)
    statistics = compute_statistics(billiards_columns, torch.arange(30).numpy())
    config = ModelConfig(width=16, heads=2, loop=LoopConfig(mu=2), summary=True)
    meta = billiards_columns.meta
    return WorldModel(config, meta.observation, meta.action, statistics)


@pytest.fixture(scope="module")
def windows(billiards_columns: Columns) -> Windows:
    return WindowSampler(billiards_columns, torch.arange(30).numpy(), seed=0).sample(8, 5)


def deferred(alpha: float = 0.0, beta: float = 0.0, cmax: float = 0.05) -> LossConfig:
    return LossConfig(reward=0.3, continues=0.7, decoding="deferred", deferred=DeferredConfig(alpha, beta, cmax))


def cost(model: WorldModel, windows: Windows, config: LossConfig) -> LossTerms:
    objective = DeferredDecoding(config, STD)
    return objective.terms(model, windows, objective.unroll(model, windows, 2, DRAWS))


def number(term: torch.Tensor) -> float:
    return float(term.detach())


def gradients(model: WorldModel, value: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    value.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# ---- the terms, by hand ----


def test_the_terminal_loss_is_eq_10_of_the_last_transition_alone(model: WorldModel, windows: Windows) -> None:
    """By hand in float64, one window at a time; a target shifted by one step must give another number."""
    terms = cost(model, windows, deferred())
    with torch.no_grad():
        latents = model.imagine(windows.actions, observation=windows.observations[:, 0], num_loops=2)
        prediction = model.decode(latents)
    observation = reward = continues = 0.0
    for b in range(8):
        predicted, seen = (x.double().numpy() for x in (prediction.observation[b, 4], windows.observations[b, 5]))
        error = ((predicted - seen) / model.observation_std.double().numpy())[:, :4]
        observation += float((error**2).mean()) / 8
        reward += ((float(prediction.reward[b, 4]) - float(windows.rewards[b, 4])) / STD) ** 2 / 8
        probability = float(prediction.continue_probability[b, 4])
        continues -= math.log(probability if windows.continues[b, 4] else 1 - probability) / 8
    assert number(terms.observation) == pytest.approx(observation, rel=1e-4)
    assert number(terms.reward) == pytest.approx(reward, rel=1e-4)
    assert number(terms.continues) == pytest.approx(continues, rel=1e-4)
    assert number(terms.total) == pytest.approx(observation + 0.3 * reward + 0.7 * continues, rel=1e-4)
    shifted = replace(windows, observations=torch.cat([windows.observations[:, :1], windows.observations[:, :-1]], 1))
    assert number(cost(model, shifted, deferred()).observation) != pytest.approx(observation, rel=1e-3)


def test_consistency_and_budget_are_what_the_equations_say(model: WorldModel, windows: Windows) -> None:
    terms = cost(model, windows, deferred(alpha=0.4, beta=0.6, cmax=0.05))
    with torch.no_grad():
        latents = model.imagine(windows.actions, observation=windows.observations[:, 0], num_loops=2)
        h = latents.double().numpy()
        g = model.summary(latents).double().numpy()
        e = model.encode(windows.observations).double().numpy()
    consistency = np.mean([(g[b, k] - e[b, k + 1]) ** 2 for b in range(8) for k in range(4)])
    paths = [sum(np.sqrt(((h[b, k + 1] - h[b, k]) ** 2).sum() / (6 * 16)) for k in range(4)) for b in range(8)]
    excess = np.mean([max(0.0, path - 4 * 0.05) for path in paths])
    assert excess > 0
    assert number(terms.further["consistency"]) == pytest.approx(consistency, rel=1e-4)
    assert number(terms.further["budget"]) == pytest.approx(excess, rel=1e-4)
    assert number(terms.further["drift"]) == pytest.approx(np.mean(paths) / 4, rel=1e-4)
    terminal = number(cost(model, windows, deferred()).total)
    assert number(terms.total) == pytest.approx(terminal + 0.4 * consistency + 0.6 * excess, rel=1e-4)


def test_consistency_looks_at_what_follows_the_action_not_at_what_preceded_it(
    model: WorldModel, windows: Windows
) -> None:
    """A g_w that is right by construction makes the term vanish, and does not for targets one step off."""
    latents = model.encode(windows.observations[:, 1:])
    assert model.summary_head is not None
    weight, bias = (p.detach().clone() for p in model.summary_head.read.parameters())
    with torch.no_grad():
        model.summary_head.read.weight.copy_(torch.eye(16))
        model.summary_head.read.bias.zero_()
        torch.testing.assert_close(model.summary(latents), latents)
        objective = DeferredDecoding(deferred(alpha=1.0), STD)
        right = objective.terms(model, windows, latents).further["consistency"]
        wrong = objective.terms(model, windows, model.encode(windows.observations[:, :-1])).further["consistency"]
        model.summary_head.read.weight.copy_(weight)
        model.summary_head.read.bias.copy_(bias)
    assert float(right) == 0.0 and float(wrong) > 1e-4


@given(
    k=st.integers(1, 6),
    cmax=st.floats(0.01, 3),
    seed=st.integers(0, 1000),
)
def test_the_budget_is_free_up_to_cmax_and_grows_by_what_exceeds_it(k: int, cmax: float, seed: int) -> None:
    latents = torch.randn(3, k, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    moves = drift(latents)
    assert moves.shape == (3, k - 1)
    largest = float(moves.sum(1).max()) / (k - 1) if k > 1 else 0.0
    assert float(budget(moves, largest + 1e-9)) == 0.0
    path = np.linalg.norm(np.diff(latents.numpy(), axis=1).reshape(3, k - 1, 20), axis=-1).sum(1) / math.sqrt(20)
    assert float(budget(moves, cmax)) == pytest.approx(np.maximum(0, path - (k - 1) * cmax).mean(), abs=1e-9)


def test_latents_that_stand_still_have_a_finite_gradient() -> None:
    latents = torch.ones(2, 3, 4, 5, requires_grad=True)
    (drift(latents).sum() + budget(drift(latents), 0.1)).backward()
    assert latents.grad is not None and bool((latents.grad == 0).all())


# ---- what the loss can see, and where its gradient goes ----


def test_without_alpha_and_beta_nothing_between_the_ends_of_a_window_matters(
    model: WorldModel, windows: Windows
) -> None:
    tampered = windows.observations.clone()
    tampered[:, 1:5] += 10
    other = replace(
        windows, observations=tampered, rewards=windows.rewards.clone(), continues=windows.continues.clone()
    )
    other.rewards[:, :4] += 10
    other.continues[:, :4] = 0
    assert number(cost(model, other, deferred()).total) == number(cost(model, windows, deferred()).total)
    assert number(cost(model, other, deferred(alpha=1.0)).total) > 1 + number(cost(model, windows, deferred()).total)
    each = PerStepDecoding(replace(deferred(), decoding="each", imagined=True), STD)
    latents = each.unroll(model, windows, 2, DRAWS)
    assert number(each.terms(model, other, latents).total) > 1 + number(each.terms(model, windows, latents).total)


def test_no_gradient_reaches_the_encoder_through_the_target(model: WorldModel, windows: Windows) -> None:
    """The gradient is that of a target made of numbers, and not that of a target left attached."""

    def term(target: torch.Tensor) -> torch.Tensor:
        latents = model.imagine(windows.actions, observation=windows.observations[:, 0], num_loops=2)
        return (model.summary(latents[:, :-1]) - target[:, :-1]).square().mean()

    name = "encoder.embed.weight"
    got = gradients(model, cost(model, windows, deferred(alpha=1.0)).further["consistency"])[name]
    numbers = torch.from_numpy(model.encode(windows.observations[:, 1:]).detach().numpy().copy())
    torch.testing.assert_close(got, gradients(model, term(numbers))[name])
    attached = gradients(model, term(model.encode(windows.observations[:, 1:])))[name]
    assert float((got - attached).norm()) > 0.05 * float(attached.norm())


def test_every_part_is_trained_and_the_summary_head_by_consistency_alone(model: WorldModel, windows: Windows) -> None:
    every = {name for name, _ in model.named_parameters()}
    head = {name for name in every if name.startswith("summary_head")}
    assert len(head) == 2
    assert gradients(model, cost(model, windows, deferred(alpha=1.0)).total).keys() == every
    assert gradients(model, cost(model, windows, deferred(beta=1.0)).total).keys() == every - head


def test_a_window_of_one_transition_is_its_end(model: WorldModel, billiards_columns: Columns) -> None:
    one = WindowSampler(billiards_columns, torch.arange(30).numpy(), seed=0).sample(8, 1)
    terms = cost(model, one, deferred(alpha=1.0, beta=1.0))
    each = PerStepDecoding(replace(deferred(), decoding="each", imagined=True), STD)
    assert number(terms.further["consistency"]) == number(terms.further["budget"]) == 0.0
    expected = each.terms(model, one, each.unroll(model, one, 2, DRAWS)).total
    assert number(terms.total) == number(expected)


def test_deferring_decodes_one_latent_per_window_and_draws_nothing(model: WorldModel, windows: Windows) -> None:
    shapes: list[torch.Size] = []
    hook = model.observation_head.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    draws = torch.Generator().manual_seed(3)
    before = draws.get_state()
    objective = DeferredDecoding(deferred(alpha=1.0), STD)
    objective.terms(model, windows, objective.unroll(model, windows, 2, draws))
    hook.remove()
    assert shapes == [torch.Size((8, 1, 6, 16))]
    assert torch.equal(draws.get_state(), before)


def test_the_last_transition_of_a_window_is_a_window(windows: Windows, billiards_columns: Columns) -> None:
    last = windows.last()
    rows = billiards_columns.ep_offset[last.episode.numpy()] + last.start.numpy()
    np.testing.assert_array_equal(last.observations[:, 0].numpy(), billiards_columns.observation[rows])
    np.testing.assert_array_equal(last.observations[:, 1].numpy(), billiards_columns.observation[rows + 1])
    np.testing.assert_array_equal(last.actions[:, 0].numpy(), billiards_columns.action[rows])
    np.testing.assert_array_equal(last.rewards[:, 0].numpy(), billiards_columns.reward[rows])
    assert all(len(label[0]) == 1 for label in last.labels.values())


# ---- the curriculum ----


@given(window=st.integers(1, 40), delta=st.integers(0, 300), update=st.integers(0, 5000))
def test_the_horizon_starts_at_one_grows_by_one_every_delta_updates_and_stops_at_the_window(
    window: int, delta: int, update: int
) -> None:
    config = TrainConfig(window=window, curriculum=delta)
    k = horizon(config, update)
    if not delta:
        assert k == window
        return
    assert horizon(config, 0) == 1 and 1 <= k <= window
    assert horizon(config, update + delta) == min(window, k + 1)
    assert horizon(config, delta * (update // delta)) == k
    assert horizon(config, delta * (window - 1)) == window


def test_mixed_horizons_are_even_up_to_the_curriculum_and_depend_on_seed_and_update_alone() -> None:
    config = TrainConfig(window=4, curriculum=100, mixed_horizons=True)
    drawn = [horizon(config, update) for update in range(2400)]
    assert set(drawn[:100]) == {1} and set(drawn[100:200]) == {1, 2}
    assert np.bincount(drawn[400:])[1:] / 2000 == pytest.approx([0.25] * 4, abs=0.04)
    assert [horizon(config, update) for update in (2000, 700, 3)] == [drawn[2000], drawn[700], drawn[3]]
    assert [horizon(replace(config, seed=1), update) for update in range(2400)] != drawn


@given(window=st.integers(1, 40), batch=st.integers(1, 300), update=st.integers(0, 2000), refill=st.booleans())
def test_refilled_updates_see_as_many_transitions_as_whole_windows_have(
    window: int, batch: int, update: int, refill: bool
) -> None:
    config = TrainConfig(batch=batch, window=window, curriculum=50, refill=refill)
    b, k = draw_shape(config, update)
    assert k == horizon(config, update)
    if refill:
        assert b * k <= batch * window < (b + 1) * k
    else:
        assert b == batch


def run_config(store: Path, **train_fields: object) -> RunConfig:
    base = preset("debug").config
    fields = {"window": 4, "curriculum": 5, "updates": 20, "log_every": 1, "refill": True, **train_fields}
    return replace(
        base,
        data=store,
        model=replace(base.model, summary=True),
        loss=LossConfig(decoding="deferred"),
        train=replace(base.train, **fields),  # type: ignore[arg-type]
    )


def plain_config(store: Path) -> RunConfig:
    base = preset("debug").config
    return replace(base, data=store, train=replace(base.train, updates=2))


@pytest.fixture(scope="module")
def trained(billiards_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("deferred") / "run"
    train(run_config(billiards_store), run)
    return run


def test_the_log_has_every_term_and_the_horizon(trained: Path) -> None:
    lines = [line for line in read_log(trained) if "loss" in line]
    assert [line["window"] for line in lines] == [1 + update // 5 for update in range(20)]
    weights = LossConfig().deferred
    for line in lines:
        terminal = line["observation"] + 0.1 * line["reward"] + line["continue"]
        rest = weights.alpha * line["consistency"] + weights.beta * line["budget"]
        assert line["loss"] == pytest.approx(terminal + rest, rel=1e-4)
        assert line["embedding_spread"] > 0
    assert [line["consistency"] > 0 for line in lines] == [update >= 5 for update in range(20)]
    assert [line["drift"] > 0 for line in lines] == [update >= 5 for update in range(20)]


@pytest.mark.parametrize("stop", [4, 5, 12])
def test_resume_is_bit_exact_across_a_change_of_horizon(
    billiards_store: Path, trained: Path, tmp_path: Path, stop: int
) -> None:
    """Stopped just before the horizon grows (and before the summary head has met a gradient), at it, and later."""
    config = run_config(billiards_store)
    first = Trainer(config, tmp_path)
    for _ in range(stop):
        first.advance()
    first.save()
    second = Trainer(config, tmp_path)
    second.restore(read_checkpoint(tmp_path / NAME))
    while second.update < 20:
        second.advance()
    second.save()
    got, wanted = (read_checkpoint(run / NAME).tensors for run in (tmp_path, trained))
    assert got.keys() == wanted.keys()
    assert [name for name in got if not torch.equal(got[name], wanted[name])] == []


def test_draws_do_not_depend_on_the_lengths_of_earlier_ones(billiards_columns: Columns) -> None:
    grown, steady = (WindowSampler(billiards_columns, torch.arange(30).numpy(), seed=3) for _ in range(2))
    for length in (1, 2, 3):
        grown.sample(4, length)
        steady.sample(4, 5)
    assert torch.equal(grown.sample(4, 5).observations, steady.sample(4, 5).observations)


def test_both_ways_of_decoding_see_the_same_windows_from_the_same_weights(
    billiards_store: Path, tmp_path: Path
) -> None:
    config = run_config(billiards_store)
    each = replace(
        config, model=replace(config.model, summary=False), loss=replace(config.loss, decoding="each", imagined=True)
    )
    a, b = Trainer(config, tmp_path / "a"), Trainer(each, tmp_path / "b")
    weights = dict(a.model.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in b.model.named_parameters())
    for update in (0, 5, 19):
        a.update = b.update = update
        first, second = a.draw(), b.draw()
        assert torch.equal(first.start, second.start) and torch.equal(first.observations, second.observations)
    assert torch.equal(a.depth_draws.get_state(), b.depth_draws.get_state())


def test_embeddings_do_not_collapse(billiards_store: Path, tmp_path: Path) -> None:
    """Were the target attached, embedding everything alike would be the way to please the consistency."""
    config = run_config(billiards_store, updates=150, batch=16, curriculum=1)
    config = replace(config, loss=replace(config.loss, deferred=DeferredConfig(alpha=30.0)))
    trainer = Trainer(config, tmp_path)
    lines = [trainer.advance() for _ in range(150)]
    spread = [line["embedding_spread"] for line in lines]
    assert min(spread[-20:]) > 0.5 * spread[0]
    share = np.mean([line["consistency"] / line["embedding_spread"] ** 2 for line in lines[-20:]])
    assert share < 0.9


# ---- bad input ----


def test_a_window_longer_than_every_episode_is_refused_before_training(billiards_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"window of 400 transitions does not fit"):
        Trainer(run_config(billiards_store, window=400), tmp_path)


def test_a_head_without_a_loss_and_a_loss_without_a_head_are_refused() -> None:
    config = RunConfig()
    with pytest.raises(UserError, match=r"this model has none: start from the preset 'deferred'"):
        replace(config, loss=LossConfig(decoding="deferred"))
    with pytest.raises(UserError, match="a head that nothing here trains"):
        replace(config, model=replace(config.model, summary=True))
    replace(config, loss=LossConfig(decoding="deferred", deferred=DeferredConfig(alpha=0)))
    with pytest.raises(UserError, match="must not be negative"):
        DeferredConfig(beta=-1)
    with pytest.raises(UserError, match="cmax must be positive"):
        DeferredConfig(cmax=0)
    with pytest.raises(UserError, match=r"loss\.decoding must be each or deferred, got 'late'"):
        LossConfig(decoding="late")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="curriculum must not be negative"):
        TrainConfig(curriculum=-1)


# ---- old and new checkpoints ----


def test_the_head_is_part_of_the_checkpoint_only_where_it_is_configured(
    trained: Path, billiards_store: Path, tmp_path: Path
) -> None:
    train(plain_config(billiards_store), tmp_path / "plain")
    without, with_head = load(tmp_path / "plain"), load(trained)
    assert with_head.num_parameters() - without.num_parameters() == 16 * 16 + 16
    assert not any("summary" in name for name in without.state_dict())
    assert with_head.flops().total == without.flops().total
    assert "summary" in repr(with_head) and "summary" not in repr(without)


def test_a_checkpoint_from_before_there_was_a_summary_head_still_loads(billiards_store: Path, tmp_path: Path) -> None:
    train(plain_config(billiards_store), tmp_path / "run")
    path = tmp_path / "run" / NAME
    with safe_open(path, framework="pt") as stream:
        header = json.loads(stream.metadata()["loopwm"])
    del header["blueprint"]["model"]["summary"]
    save_file(read_checkpoint(path).tensors, tmp_path / NAME, metadata={"loopwm": json.dumps(header)})
    assert load(tmp_path / NAME).summary_head is None


def test_the_preset_is_consistent_and_a_size_keeps_its_head() -> None:
    from loopwm.commands.train import parse_train

    config = PRESETS["deferred"].config
    assert config.loss.trains_summary and config.model.summary
    settings = parse_train(["deferred", "--size", "nano"]).settings
    assert settings.model.summary and settings.model.width == 32
