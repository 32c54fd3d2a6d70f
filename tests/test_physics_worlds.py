"""Every physics world is recorded, trained on and evaluated by the same commands, and says what it lacks."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from loopwm.cli import main
from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.data.store import Store
from loopwm.envs.registry import find_world
from loopwm.errors import UserError
from loopwm.evaluate.lyapunov import Restorable
from loopwm.train.checkpoint import load

ENGINES = {"three-bodies": "scipy", "fluid": "torch_cfd"}


def recorded(world: str, out: Path, episodes: int, max_steps: int, workers: int = 1) -> Store:
    """An open recording, or a skipped test where the engine is missing."""
    pytest.importorskip(ENGINES[world], reason='needs pip install "loopwm[physics]"')
    collect(CollectConfig(world, episodes=episodes, max_steps=max_steps, workers=workers, seed=4), out)
    return Store.open(out)


@pytest.mark.parametrize("world", ENGINES)
def test_the_recording_does_not_depend_on_the_number_of_workers(world: str, tmp_path: Path):
    # Two tasks, so that both workers have something to do.
    with (
        recorded(world, tmp_path / "1.h5", episodes=18, max_steps=3) as one,
        recorded(world, tmp_path / "2.h5", episodes=18, max_steps=3, workers=2) as two,
    ):
        assert one.digest == two.digest


@pytest.mark.parametrize("world", ENGINES)
def test_a_stored_seed_and_its_actions_replay_the_episode_with_its_labels(world: str, tmp_path: Path):
    with recorded(world, tmp_path / "out.h5", episodes=3, max_steps=8) as store:
        found = find_world(world)
        env = found.make(8)
        for index in range(3):
            episode = store.episode(index)
            np.testing.assert_array_equal(env.reset(seed=episode.seed)[0], episode.observations[0])
            terminated = truncated = False
            for k, action in enumerate(episode.actions):
                observation, reward, terminated, truncated, info = env.step(action)
                np.testing.assert_array_equal(observation, episode.observations[k + 1])
                assert np.float32(reward) == episode.rewards[k]
                assert {name: np.float32(info[name]) for name in found.labels} == {
                    name: column[k] for name, column in episode.labels.items()
                }
            assert (terminated or truncated) and terminated == episode.terminated


@pytest.mark.parametrize("world", ENGINES)
def test_the_engine_can_be_put_into_a_state_so_that_its_exponent_can_be_measured(world: str):
    pytest.importorskip(ENGINES[world], reason='needs pip install "loopwm[physics]"')
    env = find_world(world).make(0).unwrapped
    assert isinstance(env, Restorable)
    env.reset(seed=0)
    state = env.state() * 1.0
    env.set_state(state)
    np.testing.assert_array_equal(env.state(), state)


@pytest.mark.parametrize("world", ENGINES)
def test_a_recorded_world_is_trained_on_and_evaluated_by_the_same_commands(
    world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with recorded(world, tmp_path / "data.h5", episodes=60, max_steps=10) as store:
        shape, labels = store.meta.observation.shape, set(store.meta.label_names)
    small = ["--model.width", "16", "--model.heads", "2", "--train.batch", "8", "--train.updates", "4"]
    assert main(["train", "debug", "--data", "data.h5", "--run", "run", "--optim.warmup", "1", *small]) == 0
    words = ["--horizon", "4", "--stability-steps", "10", "--speed.rounds", "1", "--speed.seconds", "0.001"]
    words += ["--transitions", "100", "--rollouts", "20", "--training-rollouts", "100", "--resamples", "50"]
    assert main(["evaluate", "run", *words]) == 0
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert {table["label"] for table in evaluation["difficulty"]} == labels
    assert ("constant velocity" in json.dumps(evaluation)) == (world == "three-bodies")
    assert load(tmp_path / "run").observation.shape == shape
    assert main(["report", "run", "--out", "report"]) == 0


@pytest.mark.parametrize(("world", "engine"), ENGINES.items())
def test_a_missing_engine_is_named_with_the_extra_that_brings_it(
    world: str, engine: str, monkeypatch: pytest.MonkeyPatch
):
    package = importlib.import_module("loopwm.envs.physics")
    for name in list(sys.modules):
        if name.split(".")[0] == engine:
            monkeypatch.delitem(sys.modules, name)
        elif name.startswith(f"{package.__name__}."):
            monkeypatch.delitem(sys.modules, name)
            monkeypatch.delattr(package, name.split(".")[-1], raising=False)
    monkeypatch.setitem(sys.modules, engine, None)
    with pytest.raises(UserError, match=rf"'{world}' needs the package {engine}.*pip install \"loopwm\[physics\]\""):
        find_world(world)


def test_listing_the_worlds_loads_no_engine():
    script = (
        "import sys; from loopwm.envs.registry import world_names; world_names(); "
        "sys.exit(any(name in sys.modules for name in ('scipy', 'torch', 'torch_cfd', 'pymunk')))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
