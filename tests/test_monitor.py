"""The monitor: what it measures, that an unchanged model passes, and that every real change trips it for its reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loopwm.cli import main
from loopwm.data.cache import open_memmap
from loopwm.data.collect import collect, describe
from loopwm.data.config import CollectConfig
from loopwm.data.recorder import record_episode
from loopwm.data.store import Store, write_store
from loopwm.envs.physics.billiards import Billiards, BilliardsConfig
from loopwm.envs.registry import find_world
from loopwm.errors import UserError
from loopwm.evaluate.rollout import one_step
from loopwm.evaluate.segments import tile
from loopwm.model.config import ExitConfig
from loopwm.model.core import LoopedCore
from loopwm.model.trace import Trace
from loopwm.monitor.checks import FEWEST, compare, quantile
from loopwm.monitor.config import MonitorConfig, ProfileConfig
from loopwm.monitor.monitor import RESULT, Changed, keep_reference, monitor, read_monitoring
from loopwm.monitor.profile import LoopProfile, profile
from loopwm.monitor.reference import FILE, read_reference
from loopwm.monitor.section import monitor_section
from loopwm.presets import RunConfig, preset
from loopwm.train.checkpoint import NAME, Blueprint, load, read_checkpoint, save_checkpoint
from loopwm.train.runs import resume, train

SAMPLE = ProfileConfig(split="train", transitions=1200)
"""Many episodes in a small recording. What was trained on serves as well here: both sides see the same."""
NO_MARGIN = MonitorConfig(error=1, overthinking=1, residual=1, oscillation=0, halting=0, loops=1, resamples=300)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "billiards.h5"
    collect(CollectConfig(episodes=240, max_steps=15, workers=1, seed=1), path)
    return path


@pytest.fixture(scope="module")
def settings(recording: Path) -> RunConfig:
    config = preset("debug").config
    return replace(config, data=recording, train=replace(config.train, updates=120, batch=32, validate_every=1000))


@pytest.fixture(scope="module")
def run(settings: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run whose reference is measured on many episodes. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("runs") / "served"
    train(settings, folder)
    keep_reference(folder, sample=SAMPLE, overwrite=True)
    return folder


@pytest.fixture(scope="module")
def served(run: Path) -> LoopProfile:
    return read_reference(run).profile


def altered(
    run: Path,
    folder: Path,
    weights: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, value: value,
    blueprint: Callable[[Blueprint], Blueprint] = lambda same: same,
) -> Path:
    """A copy of a run with other averaged weights or another configuration of its model."""
    copy = folder / "altered"
    shutil.copytree(run, copy)
    found = read_checkpoint(run / NAME)
    tensors = {
        name: weights(name, value) if name.startswith("ema.") else value for name, value in found.tensors.items()
    }
    save_checkpoint(copy / NAME, blueprint(found.blueprint), tensors, found.state)
    return copy


def subset(found: LoopProfile, rows: np.ndarray) -> LoopProfile:
    """The profile as it would be if only some of its episodes had been measured."""

    def keep(values: Any) -> Any:
        return tuple(values[row] for row in rows)

    sums = found.sums
    kept = {name: keep(getattr(sums, name)) for name in ("episode", "transitions", "error", "residual", "turning")}
    counts, loops = (tuple(map(keep, part)) for part in (sums.counts, sums.loops))
    return replace(found, sums=replace(sums, **kept, halting=keep(sums.halting), counts=counts, loops=loops))


# ---- what is measured ----


def test_error_and_loops_of_a_profile_are_those_of_the_verbs(run: Path, recording: Path) -> None:
    model = load(run)
    with Store.open(recording) as store:
        columns = open_memmap(store)
    segments = tile(columns, np.arange(30), 1)
    found = profile(model, segments, SAMPLE)
    assert found.grid == (1, 2, 4, 8, 16) and found.mu == 2 and found.n == len(segments)
    for loops, error in zip(found.grid, found.error, strict=True):
        assert error == pytest.approx(one_step(model, segments, loops).observation.mean(), rel=1e-5)
    trace = Trace()
    with torch.no_grad():
        e = model.encode(torch.as_tensor(segments.observations[:, 0]))
        h, action = model.initial(len(segments)), torch.as_tensor(segments.actions[:, 0])
        model.step(h, action, e, num_loops=8, exit=ExitConfig("output_delta", 0.05), trace=trace)
    used = trace.loops[:, 0].numpy()
    assert found.halting == pytest.approx(np.bincount(used - 1, minlength=8) / len(used))
    # By difficulty: the same loops, sorted by hand.
    contacts, (at,) = segments.labels["contacts"][:, 0], [i for i, b in enumerate(found.bins) if b.label == "contacts"]
    free = np.asarray(found.sums.loops[at])[:, 0].sum() / np.asarray(found.sums.counts[at])[:, 0].sum()
    assert free == pytest.approx(used[contacts == 0].mean())


def test_residual_and_turning_are_those_of_the_loop_run_by_hand(run: Path, recording: Path) -> None:
    model = load(run)
    core = model.core
    assert isinstance(core, LoopedCore)
    with Store.open(recording) as store:
        segments = tile(open_memmap(store), np.arange(10), 1)
    found = profile(model, segments, SAMPLE)
    states = []
    with torch.no_grad():
        e = core.prelude(
            model.initial(len(segments)),
            model.encode(torch.as_tensor(segments.observations[:, 0])),
            model.encode_action(torch.as_tensor(segments.actions[:, 0])),
        )
        held, h = core.held_input(e), core.start(e, e)
        states.append(h)
        for loop in range(16):
            h = core.moved(h, e, held, torch.tensor([loop]))
            states.append(h)
    path = torch.stack(states).flatten(2).double()
    change = path.diff(dim=0)
    residual = (change.norm(dim=2) / path[1:].norm(dim=2)).log().mean(1).exp()
    assert found.residual == pytest.approx(residual.tolist(), rel=1e-3)
    turns = (torch.cosine_similarity(change[1:], change[:-1], dim=2) < 0).double().mean(1)
    assert found.turning == pytest.approx(turns.tolist(), abs=2 / len(segments))


def test_the_quantiles_are_those_of_students_tables() -> None:
    tables = {(0.975, 4): 2.776, (0.999, 4): 7.173, (0.999, 10): 4.144, (0.9995, 30): 3.646, (0.95, 1000): 1.646}
    for (probability, freedom), value in tables.items():
        assert quantile(probability, freedom) == pytest.approx(value, rel=0.02)


# ---- noise passes ----


def test_a_model_equals_its_own_reference(run: Path) -> None:
    found = monitor(run)
    assert found.paired and not found.changed
    assert all(check.change == pytest.approx(1) for check in found.checks if check.kind.startswith("factor"))
    assert {check.verdict for check in found.checks} == {"ok"}
    assert read_monitoring(run) == read_monitoring(run) is not None


def test_the_same_model_on_other_episodes_passes_as_often_as_promised(served: LoopProfile) -> None:
    """Even with limits that allow no change at all."""
    episodes, rng, alarms = len(served.sums.episode), np.random.default_rng(0), 0
    for _ in range(50):
        order = rng.permutation(episodes)
        halves = subset(served, order[: episodes // 2]), subset(served, order[episodes // 2 :])
        alarms += any(check.verdict == "changed" for check in compare(*halves, False, NO_MARGIN))
    assert alarms <= 7  # 2.5 are expected at most; more than 7 would be one in a few hundred


def test_another_recording_of_the_same_world_passes(run: Path, tmp_path: Path) -> None:
    collect(CollectConfig(episodes=120, max_steps=15, workers=1, seed=2), tmp_path / "newer.h5")
    found = monitor(run, tmp_path / "newer.h5")
    assert not found.paired and found.now.episodes >= 80
    assert not found.changed


def test_few_episodes_make_wide_intervals_and_too_few_are_refused(served: LoopProfile) -> None:
    widths = []
    for episodes in (FEWEST, 20, 100):
        few = subset(served, np.arange(episodes))
        check = next(iter(compare(served, few, False, MonitorConfig())))
        widths.append(np.log(check.high / check.low))
    assert widths[0] > 2 * widths[1] > 2 * widths[2]
    with pytest.raises(UserError, match=f"Only {FEWEST - 1} episodes"):
        compare(served, subset(served, np.arange(FEWEST - 1)), False, MonitorConfig())


# ---- real changes do not ----


def names(found: Any) -> set[str]:
    return {check.name for check in found.changed}


def test_a_model_trained_for_fewer_updates_is_worse_at_every_depth(
    run: Path, settings: RunConfig, tmp_path: Path
) -> None:
    train(replace(settings, train=replace(settings.train, updates=20)), tmp_path / "short")
    found = monitor(tmp_path / "short", reference=run)
    assert {f"error at T = {loops}" for loops in (1, 2, 4, 8, 16)} <= names(found)
    with pytest.raises(Changed, match=r"short does not loop as its reference does.*error at T = 2 is 1\.\d+ \["):
        found.require_unchanged()


def test_perturbed_weights_are_noticed(run: Path, tmp_path: Path) -> None:
    draws = torch.Generator().manual_seed(0)

    def perturbed(name: str, value: torch.Tensor) -> torch.Tensor:
        matrix = name.startswith(("ema.core.", "ema.observation_head.")) and value.ndim == 2
        return value + value.std() * torch.randn(value.shape, generator=draws) if matrix else value

    found = monitor(altered(run, tmp_path, perturbed))
    assert found.paired and "error at T = 2" in names(found)


def test_a_larger_injection_moves_the_latent_further(run: Path, tmp_path: Path) -> None:
    found = monitor(altered(run, tmp_path, lambda name, value: 3 * value if "core.B." in name else value))
    assert "residual in loop 2" in names(found)


def test_unshortened_steps_move_the_latent_beyond_mu_and_not_before(run: Path, tmp_path: Path) -> None:
    def unsettled(was: Blueprint) -> Blueprint:
        return replace(was, model=replace(was.model, loop=replace(was.model.loop, settle_eval=0.0)))

    found = monitor(altered(run, tmp_path, blueprint=unsettled))
    assert {"residual in loop 4", "residual in loop 8", "residual in loop 16"} <= names(found)
    assert not names(found) & {"residual in loop 1", "residual in loop 2", "error at T = 1", "error at T = 2"}


def test_a_world_with_other_physics_is_noticed(run: Path, tmp_path: Path) -> None:
    world = find_world("billiards")
    env = Billiards(BilliardsConfig(impulse=3.0, max_steps=15))
    meta = describe(world, CollectConfig(max_steps=15), tmp_path / "other.h5")
    write_store(tmp_path / "other.h5", (record_episode(env, world, seed, 15) for seed in range(120)), meta)
    found = monitor(run, tmp_path / "other.h5")
    assert not found.paired and "error at T = 2" in names(found)


def test_weights_that_are_not_numbers_are_noticed(run: Path, tmp_path: Path) -> None:
    found = monitor(altered(run, tmp_path, lambda name, value: value * torch.nan if "mlp_out" in name else value))
    assert "decoded numbers that are not finite" in names(found)
    again = read_monitoring(tmp_path / "altered")
    assert again is not None and names(again) == names(found)


# ---- kept with the run ----


def test_training_ends_with_a_reference_that_a_killed_run_gets_on_resuming(settings: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(replace(settings, train=replace(settings.train, updates=4)), folder)
    weights = (folder / NAME).read_bytes()
    written = json.loads((folder / FILE).read_text())
    assert written["updates"] == 4 and written["sample"]["split"] == "validation"
    assert written["config"]["train"]["seed"] == 0 and "torch" in written["versions"]
    (folder / FILE).unlink()
    resume(folder)
    again = json.loads((folder / FILE).read_text())
    assert again == written and (folder / NAME).read_bytes() == weights


def test_a_stack_is_trained_without_a_reference_and_not_monitored(settings: RunConfig, tmp_path: Path) -> None:
    stack = replace(settings, model=replace(settings.model, system="stack-equal-params"))
    train(replace(stack, train=replace(stack.train, updates=2)), tmp_path / "stack")
    assert not (tmp_path / "stack" / FILE).exists()
    for act in (monitor, keep_reference):
        with pytest.raises(UserError, match="is a stack-equal-params: it has no loop to monitor"):
            act(tmp_path / "stack")


# ---- bad input ----


def test_a_reference_of_another_depth_or_width_is_refused(run: Path, settings: RunConfig, tmp_path: Path) -> None:
    model = settings.model
    others = {
        "deeper": (replace(model, loop=replace(model.loop, mu=3)), "model.loop.mu 2 instead of 3"),
        "wider": (replace(model, width=32), "model.width 16 instead of 32"),
    }
    for name, (other, fault) in others.items():
        train(replace(settings, model=other, train=replace(settings.train, updates=2)), tmp_path / name)
        with pytest.raises(UserError, match=rf"of another architecture than .* \({fault}\)"):
            monitor(tmp_path / name, reference=run)


def test_a_recording_of_another_world_is_refused(run: Path, recording: Path, tmp_path: Path) -> None:
    with Store.open(recording) as store:
        episodes, meta = [store.episode(index) for index in range(20)], store.meta
    write_store(tmp_path / "renamed.h5", iter(episodes), replace(meta, world="snooker"))
    with pytest.raises(UserError, match="is a recording of 'snooker', and the reference of served was measured on"):
        monitor(run, tmp_path / "renamed.h5")
    env, world = Billiards(BilliardsConfig(discs=3)), find_world("billiards")
    spec = replace(meta, observation=replace(meta.observation, shape=(3, 5)))
    write_store(tmp_path / "three.h5", (record_episode(env, world, seed, 9) for seed in range(30)), spec)
    with pytest.raises(
        UserError, match=r"was trained on another world than 'billiards' \(observations of shape \(6, 5\)"
    ):
        monitor(run, tmp_path / "three.h5")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is damaged or not a reference"),
        ("[]", "is damaged or not a reference"),
        ('{"format": 99}', "has reference format 99"),
        ('{"format": 1}', "is damaged or not a reference"),
    ],
)
def test_a_damaged_reference_is_refused(run: Path, tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(UserError, match=expected):
        monitor(run, reference=tmp_path / "bad.json")


def test_a_reference_that_lost_an_episode_is_refused(run: Path, tmp_path: Path) -> None:
    content = json.loads((run / FILE).read_text())
    content["profile"]["sums"]["error"].pop()
    (tmp_path / "short.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is damaged or not a reference"):
        monitor(run, reference=tmp_path / "short.json")


def test_limits_that_make_no_sense_are_refused() -> None:
    limits: list[dict[str, Any]] = [{"error": 0.9}, {"halting": 1.5}, {"confidence": 1.0}, {"resamples": 10}]
    for bad in limits:
        with pytest.raises(UserError, match=f"monitor.{next(iter(bad))}"):
            MonitorConfig(**bad)
    samples: list[dict[str, Any]] = [{"transitions": 0}, {"exit": ExitConfig("fixed")}]
    for bad in samples:
        with pytest.raises(UserError, match=r"^sample\."):
            ProfileConfig(**bad)


# ---- in the report ----


def test_the_report_shows_the_reference_and_what_departed_from_it(run: Path, tmp_path: Path) -> None:
    assert monitor_section(tmp_path) is None
    served = tmp_path / "run"
    shutil.copytree(run, served)
    (served / RESULT).unlink(missing_ok=True)
    alone = monitor_section(served)
    assert alone is not None and alone.table is None and len(alone.figures) == 2
    worse = altered(served, tmp_path, lambda name, value: 3 * value if "core.B." in name else value)
    found = monitor(worse)
    section = monitor_section(worse)
    assert section is not None and section.table is not None
    assert [name for name, _ in section.table.rows] == [check.name for check in found.checks]
    verdicts = {name: cells[-1].text for name, cells in section.table.rows}
    assert {name for name, verdict in verdicts.items() if verdict == "changed"} == names(found)
    assert found.changed[0].reason in section.text
    (worse / RESULT).write_text("{")
    with pytest.raises(UserError, match="is not a comparison this loopwm reads"):
        monitor_section(worse)


# ---- on the command line ----


def test_the_command_prints_every_property_and_its_exit_code_is_the_verdict(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert main(["monitor", str(copy)]) == 0
    printed = capsys.readouterr().out
    assert "error at T = 16 over that at 2" in printed and "  changed" not in printed
    assert (copy / RESULT).is_file()
    worse = altered(run, tmp_path, lambda name, value: 3 * value if "core.B." in name else value)
    assert main(["monitor", str(worse), "--reference", str(copy)]) == 1
    printed = capsys.readouterr()
    assert "  changed" in printed.out
    assert (
        printed.err.startswith("loopwm: altered does not loop as its reference does") and printed.err.count("\n") == 1
    )
    # Limits are the user's.
    wide = ["--error", "1e9", "--overthinking", "1e9", "--residual", "1e9", "--oscillation", "1", "--halting", "1"]
    assert main(["monitor", str(worse), "--reference", str(copy), *wide, "--loops", "1e9"]) == 0


def test_a_run_without_a_reference_is_told_how_to_get_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / FILE).unlink()
    assert main(["monitor", str(copy)]) == 2
    assert capsys.readouterr().err.endswith(f"gets one with: loopwm monitor {copy} --store\n")
    assert main(["monitor", str(copy), "--store", "--sample.transitions", "100"]) == 0
    assert read_reference(copy).sample.transitions == 100
    assert main(["monitor", str(copy), "--store"]) == 2
    assert "already exists and is not overwritten" in capsys.readouterr().err
    assert main(["monitor", str(copy), "--store", "--overwrite"]) == 0
    assert read_reference(copy).sample.transitions == 1500
    assert main(["monitor", str(copy), "--reference", "no where"]) == 2
    assert capsys.readouterr().err.endswith("gets one with: loopwm monitor 'no where' --store\n")
    assert main(["monitor", str(copy), "--overwrite"]) == 2
    assert main(["monitor", str(copy), "--store", "--reference", str(run)]) == 2
