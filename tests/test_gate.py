"""A gate trained afterwards: what it learns, what it leaves alone, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from loopwm.certify.certificate import claims_of
from loopwm.data.cache import Columns
from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.data.store import Store
from loopwm.data.windows import Windows, WindowSampler
from loopwm.errors import UserError
from loopwm.evaluate.matching import ranks
from loopwm.model.config import ExitConfig, LoopConfig
from loopwm.model.trace import Trace
from loopwm.presets import RunConfig, preset
from loopwm.train.checkpoint import NAME, load, read_checkpoint, save_checkpoint
from loopwm.train.config import GateTraining
from loopwm.train.gate import FLOOR, LOG, Lesson, gain_loss, train_gate, worthwhile
from loopwm.train.runs import resume, train
from loopwm.train.trainer import Interrupted

SHORT = GateTraining(updates=4, batch=8, device="cpu")


def debug(store: Path, **model: object) -> RunConfig:
    config = preset("debug").config
    model = {"loop": LoopConfig(mu=4), **model}
    return replace(config, data=store, model=replace(config.model, **model))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bare(billiards_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run without a gate, trained enough for its loops to differ. Copy it, never change it."""
    run, config = tmp_path_factory.mktemp("bare") / "run", debug(billiards_store)
    train(replace(config, train=replace(config.train, updates=200, batch=16)), run)
    return run


@pytest.fixture
def run(bare: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bare, tmp_path / "run"))


def held_out(columns: Columns, store: Path, batch: int = 512) -> Windows:
    with Store.open(store) as opened:
        return WindowSampler(columns, opened.split("validation"), 5).sample(batch, 1)


# ---- what it learns ----


# Errors carry the noise of the outcome, distances do not.
@pytest.mark.parametrize(("target", "least"), [("distance", 0.6), ("gain", 0.15), ("ouro", 0.15)])
def test_the_gate_ranks_what_each_loop_still_gains_on_episodes_it_has_not_seen(
    run: Path, billiards_store: Path, billiards_columns: Columns, target: str, least: float
) -> None:
    result = train_gate(run, GateTraining(target=target, updates=80, batch=32, lr=1e-2, device="cpu"))  # type: ignore[arg-type]
    assert result.losses[-1][1] < result.losses[0][1]
    windows = held_out(billiards_columns, billiards_store)
    truth = windows.observations[:, 1]
    with torch.no_grad():
        model, (path, e) = load(run), path_of(run, windows)
        numbers, _ = model.judge(path, e)
        predicted = torch.stack([model.decode(model.core.finish(h)).observation for h in path[1:]])  # type: ignore[operator]
        losses = ((predicted - truth) / model.observation_std)[..., :4].square().mean((2, 3))
    gained = {
        "distance": ((predicted[:-1] - predicted[-1]) / model.observation_std)[..., :4].square().mean((2, 3)),
        "gain": losses[:-1] - losses[-1],
        "ouro": losses[:-1] - losses[1:],
    }[target]
    x, y = (ranks(value.flatten().double().numpy()) for value in (numbers[:-1], gained))
    assert np.corrcoef(x, y)[0, 1] > least


def path_of(run: Path, windows: Windows) -> tuple[torch.Tensor, torch.Tensor]:
    """h^(0) .. h^(4) and e of the leading transition of every window."""
    model = load(run)
    u, e = model.encode_action(windows.actions[:, 0]), model.encode(windows.observations[:, 0])
    return model.core.path(model.initial(len(u)), e, u, 4)  # type: ignore[operator]


def test_a_core_that_only_ever_saw_the_beginning_is_shown_no_more(
    bare: Path, billiards_columns: Columns, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, unroll = [], Lesson.unroll
    monkeypatch.setattr(Lesson, "unroll", lambda self, *told: seen.append(told[1]) or unroll(self, *told))
    windows = WindowSampler(billiards_columns, np.arange(20), 3).sample(12, 3)
    for imagined in (True, False):
        Lesson(load(bare), replace(SHORT, loops=4), 3, 0.5, imagined=imagined).advance(windows)
    alone, mixed = (one.tolist() for one in seen)
    assert alone == [[True, False, False]] * 12 and any(row[1] for row in mixed)


def test_the_errors_it_learns_from_are_those_of_the_model_stopped_at_every_depth(
    bare: Path, billiards_store: Path, billiards_columns: Columns
) -> None:
    """Partly observed, partly imagined; the latent that is carried on is the one at full depth."""
    windows = WindowSampler(billiards_columns, np.arange(20), 3).sample(12, 3)
    model, visible = load(bare), torch.tensor([[True, True, True]] * 6 + [[True, False, False]] * 6)
    with torch.no_grad():
        _, losses, distances = Lesson(model, replace(SHORT, loops=4), 3, 0.5).unroll(windows, visible)
        h = model.initial(12)
        for k in range(3):
            e = model.encode(windows.observations[:, k]) * visible[:, k, None, None]
            deepest = model.decode(model.step(h, windows.actions[:, k], e, num_loops=4)).observation
            for t in range(1, 5):
                latent = model.step(h, windows.actions[:, k], e, num_loops=t)
                predicted = model.decode(latent).observation
                error = (predicted - windows.observations[:, k + 1]) / model.observation_std
                # x, y, vx, vy of every disc; which disc is the cue never changes.
                moved = ((predicted - deepest) / model.observation_std)[..., :4].square().mean((1, 2))
                torch.testing.assert_close(distances[t - 1, :, k], moved, rtol=1e-3, atol=1e-5)
                torch.testing.assert_close(
                    losses[t - 1, :, k], error[..., :4].square().mean((1, 2)), rtol=1e-3, atol=1e-5
                )
            h = model.step(h, windows.actions[:, k], e, num_loops=4)


def test_the_gain_loss_is_smallest_at_the_expected_gain() -> None:
    """Heavy-tailed gains, some of them negative: the mean wins, not the median or the mean of the logarithms."""
    draws = torch.Generator().manual_seed(0)
    gains = (torch.randn(20_000, generator=draws) * 1.5).exp() * 0.01 - 0.005
    levels = torch.linspace(-8, 0, 801)
    losses = torch.stack([gain_loss(level.expand(len(gains)), gains) for level in levels])
    best = float(levels[losses.argmin()].exp())
    assert best == pytest.approx(float(gains.mean()), rel=0.02)
    assert float(gains.median()) < 0.3 * best


@given(st.floats(-12, 6), st.floats(-1, 100))
@settings(max_examples=50)
def test_the_gain_loss_is_finite_for_every_gain(level: float, gain: float) -> None:
    number = torch.tensor([level], requires_grad=True)
    loss = gain_loss(number, torch.tensor([gain]))
    loss.backward()
    assert loss.isfinite().all() and number.grad is not None and number.grad.isfinite().all()
    expected = np.log(np.exp(level) + FLOOR) + (gain + FLOOR) / (np.exp(level) + FLOOR)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_a_loop_is_worthwhile_by_how_much_it_improves() -> None:
    losses = torch.tensor([[1.0, 0.5], [0.9, 0.8], [0.9, 0.2]])
    by_hand = [[1 / (1 + np.exp(-10 * (i - 0.05))) for i in row] for row in ([0.1, 0.0], [0.0, 0.6])]
    torch.testing.assert_close(worthwhile(losses, 10, 0.05), torch.tensor(by_hand, dtype=torch.float32))


# ---- what it leaves alone ----


def test_nothing_in_the_checkpoint_changes_but_the_gate(run: Path, bare: Path) -> None:
    before, certified = load_file(bare / NAME), claims_of(bare)
    assert load(bare).gate is None
    result = train_gate(run, SHORT)
    after = load_file(run / NAME)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    added = {name.split(".")[0] for name in after.keys() - before.keys()}
    assert added == {"gate"}
    checkpoint = read_checkpoint(run / NAME)
    assert checkpoint.state == read_checkpoint(bare / NAME).state
    assert claims_of(run) == certified and result.weights == certified.sha256
    assert resume(run).updates == 200 and load(run, "model").gate is None


def test_a_loaded_gate_decides_when_rows_leave(run: Path, billiards_store: Path, billiards_columns: Columns) -> None:
    train_gate(run, GateTraining(updates=40, batch=16, lr=1e-2, device="cpu"))
    model, windows, trace = load(run), held_out(billiards_columns, billiards_store), Trace()
    observations, actions = windows.observations[:, :-1], windows.actions
    with torch.no_grad():
        full = model.observe(observations, actions)
        assert torch.equal(model.observe(observations, actions, exit=ExitConfig("gate", 0.0)), full)
        path, e = path_of(run, windows)
        signals = (model.judge(path, e)[0] / 2).exp()
        threshold = float(signals.min(0).values.median()) * 1.001
        model.observe(observations, actions, exit=ExitConfig("gate", threshold), trace=trace)
    quiet = signals < threshold
    quiet[-1] = True
    assert torch.equal(trace.loops[:, 0], quiet.int().argmax(0) + 1)
    assert trace.loops.min() < trace.loops.max() == 4


def test_the_log_says_how_the_gate_was_trained(run: Path) -> None:
    result = train_gate(run, replace(SHORT, updates=25))
    log = json.loads((run / LOG).read_text())
    assert log["settings"] == {**vars(replace(SHORT, updates=25)), "loops": 4}
    assert [update for update, _ in log["losses"]] == [10, 20, 25]
    assert log["weights"] == result.weights and log["seconds"] > 0


def test_equal_seeds_give_equal_gates(bare: Path, tmp_path: Path) -> None:
    gates = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = Path(shutil.copytree(bare, tmp_path / name))
        train_gate(run, replace(SHORT, seed=seed))
        gates.append(read_checkpoint(run / NAME).part("gate"))
    assert all(torch.equal(value, gates[1][name]) for name, value in gates[0].items())
    assert not torch.equal(gates[0]["from_state.weight"], gates[2]["from_state.weight"])


def test_ctrl_c_leaves_the_run_as_it_was(run: Path) -> None:
    class Impatient:
        def advance(self, done: int, total: int, **fields: float) -> None:
            if done == 2:
                os.kill(os.getpid(), signal.SIGINT)

    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(Interrupted, match=r"Stopped at update [23] of 1000; .* is as it was before"):
        train_gate(run, replace(SHORT, updates=1000), Impatient())
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


# ---- what it refuses ----


def test_a_gate_is_replaced_only_on_request(run: Path) -> None:
    train_gate(run, SHORT)
    before = (run / NAME).read_bytes()
    with pytest.raises(UserError, match=r"has a gate already.*--overwrite"):
        train_gate(run, SHORT)
    assert (run / NAME).read_bytes() == before
    train_gate(run, replace(SHORT, target="ouro"), overwrite=True)
    gate = load(run).gate
    assert gate is not None and gate.config.kind == "ouro"


def test_a_gate_does_not_serve_other_weights(run: Path) -> None:
    train_gate(run, SHORT)
    checkpoint = read_checkpoint(run / NAME)
    other = dict(checkpoint.tensors)
    other["ema.core.B.weight"] = other["ema.core.B.weight"] + 1e-3
    save_checkpoint(run / NAME, checkpoint.blueprint, other, checkpoint.state, checkpoint.extras)
    with pytest.raises(UserError, match=r"trained for other weights.*loopwm train-gate .* --overwrite"):
        load(run)
    train_gate(run, SHORT, overwrite=True)
    assert load(run).gate is not None


@pytest.mark.parametrize("change", [{"kind": "oracle"}, {"hidden": 5}])
def test_a_gate_of_another_making_is_refused(run: Path, change: dict) -> None:
    train_gate(run, SHORT)
    checkpoint = read_checkpoint(run / NAME)
    entry = checkpoint.extras["gate"]
    extras = {"gate": {**entry, "config": {**entry["config"], **change}}}
    save_checkpoint(run / NAME, checkpoint.blueprint, checkpoint.tensors, checkpoint.state, extras)
    with pytest.raises(UserError, match="holds a gate this loopwm cannot build; train it again"):
        load(run)


def test_a_stack_has_no_use_for_a_gate(billiards_store: Path, tmp_path: Path) -> None:
    config = debug(billiards_store, system="stack-equal-params")
    train(replace(config, train=replace(config.train, updates=2)), tmp_path / "stack")
    with pytest.raises(UserError, match="no loop to leave early"):
        train_gate(tmp_path / "stack", SHORT)


def test_an_unfinished_run_is_refused(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("updates: 200", "updates: 210"))
    with pytest.raises(UserError, match=r"not trained to its end.*loopwm train --resume"):
        train_gate(run, SHORT)


def test_another_recording_is_refused_by_its_digest(run: Path, tmp_path: Path) -> None:
    collect(CollectConfig(episodes=30, workers=1, seed=99), tmp_path / "other.h5")
    with pytest.raises(UserError, match=r"other\.h5 is not the recording .* --data"):
        train_gate(run, SHORT, data=tmp_path / "other.h5")


def test_one_loop_leaves_no_choice(billiards_store: Path, tmp_path: Path) -> None:
    config = debug(billiards_store, loop=LoopConfig(mu=1))
    train(replace(config, train=replace(config.train, updates=2)), tmp_path / "one")
    with pytest.raises(UserError, match=r"makes one loop.*: --loops 2"):
        train_gate(tmp_path / "one", SHORT)
    assert train_gate(tmp_path / "one", replace(SHORT, loops=3)).settings.loops == 3


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("target", "gian", "target must be"),
        ("loops", 1, "at least 2"),
        ("updates", 0, "at least 1"),
        ("lr", 0.0, "positive"),
    ],
)
def test_meaningless_settings_are_refused(field: str, value: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(SHORT, **{field: value})  # type: ignore[arg-type]
