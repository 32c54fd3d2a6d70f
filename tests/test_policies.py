"""Who acts in a recording, and environments of one's own."""

from __future__ import annotations

import os
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from loopwm.cli import main
from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.data.recorder import record_episode
from loopwm.data.store import Store
from loopwm.envs.gymnasium_worlds import own_world
from loopwm.errors import LoopwmError, UserError


class Ramp(gymnasium.Env):
    """Where you are is the sum of what you did."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Dict(
            {"place": gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64), "goal": gymnasium.spaces.Discrete(2)}
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.place = 0.0

    def observed(self) -> dict:
        return {"place": np.array([self.place]), "goal": int(self.place > 0)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = float(self.np_random.normal())
        return self.observed(), {}

    def step(self, action):
        self.place += float(action[0])
        info = {"threads": float(os.environ.get("OMP_NUM_THREADS", "0")), "far": abs(self.place)}
        return self.observed(), -abs(self.place), abs(self.place) > 5, False, info


def homeward(observation: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Half of the way back; the place is the last number, as dictionaries are sorted by name."""
    return np.clip(-0.5 * observation[-1:] + 0.01 * generator.normal(), -1, 1)


def outward(observation: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """No action of that world."""
    return np.array([3.0])


def test_an_environment_of_ones_own_is_recorded_by_several_processes(tmp_path: Path) -> None:
    world = own_world(Ramp, labels=("far", "threads"), max_steps=20)
    for workers in (1, 2):
        collect(CollectConfig(episodes=40, workers=workers), tmp_path / f"{workers}.h5", world=world)
    with Store.open(tmp_path / "1.h5") as one, Store.open(tmp_path / "2.h5") as two:
        assert one.fingerprints == two.fingerprints
        assert one.meta.world == "own:Ramp"
        assert one.meta.observation.names == ("goal0", "goal1", "place")
        episode = two.episode(0)
        place = episode.observations[:, 2]
        np.testing.assert_allclose(place[1:], place[:-1] + episode.actions[:, 0], rtol=1e-5)
        np.testing.assert_allclose(episode.labels["far"], np.abs(episode.observations[1:, 2]), rtol=1e-6)
        # A thread for each process, as they share the cores.
        assert set(episode.labels["threads"]) == {1.0}


class Thrifty(gymnasium.Env):
    """Writes every observation into the same array."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.action_space = gymnasium.spaces.MultiDiscrete([9])
        self.seen = np.zeros(1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen[:] = 0
        return self.seen, {}

    def step(self, action):
        self.seen += 0.5
        return self.seen, 0.0, False, False, {}


class Counting:
    """A policy that writes every action into the same array."""

    def __init__(self) -> None:
        self.action = np.zeros(1, np.int64)

    def __call__(self, observation: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        self.action += 1
        return self.action


def test_arrays_that_are_written_to_again_are_recorded_as_they_were() -> None:
    world = own_world(Thrifty, max_steps=5)
    episode = record_episode(world.make(5), world, seed=0, max_steps=5, policy=Counting())
    assert episode.observations[:, 0].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert episode.actions[:, 0].tolist() == [1, 2, 3, 4, 5]


class Scaling(Ramp):
    """Scales in place what it is given."""

    def step(self, action):
        action *= 0.5
        return super().step(action)


def test_an_action_is_recorded_and_held_as_it_was_chosen() -> None:
    world = own_world(Scaling, max_steps=4)
    episode = record_episode(world.make(4), world, seed=0, max_steps=4, hold=2)
    assert episode.actions[0] == episode.actions[1] and episode.actions[2] == episode.actions[3]
    np.testing.assert_allclose(np.diff(episode.observations[:, 2]), 0.5 * episode.actions[:, 0], rtol=1e-5)


def test_a_label_that_is_never_given_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"info has no label 'near' after a step, only threads, far\."):
        collect(CollectConfig(workers=1), tmp_path / "out.h5", world=own_world(Ramp, labels=("near",), max_steps=5))


def test_what_several_processes_cannot_be_handed_is_refused(tmp_path: Path) -> None:
    world = own_world(lambda: Ramp(), max_steps=5)
    with pytest.raises(UserError, match="define what makes it at the top of a module, or record with workers=1"):
        collect(CollectConfig(episodes=2, workers=2), tmp_path / "out.h5", world=world)
    collect(CollectConfig(episodes=2, workers=1), tmp_path / "out.h5", world=world)


def test_an_environment_without_a_limit_needs_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="own:Ramp never cuts an episode short"):
        collect(CollectConfig(episodes=2, workers=1), tmp_path / "out.h5", world=own_world(Ramp))


def test_a_function_of_ones_own_acts(tmp_path: Path) -> None:
    config = CollectConfig(episodes=10, workers=2, policy=f"{__name__}:homeward")
    meta = collect(config, tmp_path / "home.h5", world=own_world(Ramp, max_steps=15))
    assert meta.command.endswith(f"--policy {__name__}:homeward")
    with Store.open(tmp_path / "home.h5") as store:
        for index in range(10):
            episode = store.episode(index)
            wanted = np.clip(-0.5 * episode.observations[:-1, 2], -1, 1)
            assert 0 < np.abs(episode.actions[:, 0] - wanted).max() < 0.05
            assert abs(episode.observations[-1, 2]) < 0.1


def test_held_actions_stay_for_so_many_steps(tmp_path: Path) -> None:
    collect(CollectConfig(episodes=5, max_steps=14, workers=1, hold=4), tmp_path / "held.h5")
    with Store.open(tmp_path / "held.h5") as store:
        actions = store.episode(0).actions
    changes = np.flatnonzero((actions[1:] != actions[:-1]).any(axis=1)) + 1
    assert set(changes) <= {4, 8, 12} and len(changes) >= 2


def test_the_scripted_cue_finds_a_pocket_more_often_than_chance(tmp_path: Path) -> None:
    ended = {}
    for policy in ("random", "scripted"):
        collect(CollectConfig(episodes=60, max_steps=30, workers=1, policy=policy), tmp_path / f"{policy}.h5")
        with Store.open(tmp_path / f"{policy}.h5") as store:
            ended[policy] = store.terminated.mean()
    assert ended["scripted"] > 1.5 * ended["random"] > 0


def test_the_command_line_finds_a_policy_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_pushes.py").write_text("def up(observation, generator):\n    return [0.0, 1.0]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    words = ["collect", "--episodes", "3", "--max-steps", "4", "--workers", "2", "--policy", "my_pushes:up"]
    assert main([*words, "--out", "up.h5"]) == 0
    with Store.open(tmp_path / "up.h5") as store:
        assert set(map(tuple, store.episode(2).actions)) == {(0.0, 1.0)}


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("expert", "There is no policy called 'expert'; choose random or scripted, or name a function"),
        ("no_such_module:act", "The policy no_such_module:act cannot be imported: No module named"),
        ("math:nothing", "The policy math:nothing cannot be imported: module 'math' has no attribute 'nothing'"),
        ("math:pi", "The policy math:pi is no function but a float"),
        ("scripted", "own:Ramp has no scripted policy"),
    ],
)
def test_a_policy_that_cannot_act_is_refused(policy: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        collect(CollectConfig(policy=policy), tmp_path / "out.h5", world=own_world(Ramp, max_steps=5))
    assert not (tmp_path / "out.h5").exists()


def test_the_script_of_discs_is_not_that_of_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="billiards-pixels has no scripted policy"):
        collect(CollectConfig("billiards-pixels", policy="scripted"), tmp_path / "out.h5")


def test_an_action_that_is_none_names_the_episode(tmp_path: Path) -> None:
    config = CollectConfig(policy=f"{__name__}:outward", workers=1)
    with pytest.raises(LoopwmError, match=r"episode 0 of own:Ramp .* which is not in the action space"):
        collect(config, tmp_path / "out.h5", world=own_world(Ramp, max_steps=5))


def test_an_action_is_held_for_at_least_a_step() -> None:
    with pytest.raises(UserError, match="hold must be at least 1, got 0"):
        CollectConfig(hold=0)
