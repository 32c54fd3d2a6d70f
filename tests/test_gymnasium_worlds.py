"""Any Gymnasium environment is a world: what it shows becomes a vector, what it does becomes numbers or indices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation

from loopwm.cli import main
from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.data.store import Store
from loopwm.envs import mujoco_labels
from loopwm.envs.gymnasium_worlds import adapted, feature_names, made
from loopwm.envs.registry import find_world
from loopwm.errors import UserError
from loopwm.evaluate.controls import encoded
from loopwm.spaces import ActionSpec
from loopwm.train.checkpoint import load

BOX = spaces.Box(-1, 1, (3,), np.float32)


class Echo(gymnasium.Env[Any, Any]):
    """Shows samples of a space, and remembers what was done to it."""

    def __init__(self, seen: spaces.Space, act: spaces.Space) -> None:
        self.observation_space, self.action_space = seen, act
        self.done: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        self.done.append(action)
        return self.observation_space.sample(), 0.0, False, False, {}


class Several(Echo):
    """A dictionary of parts, moved by two choices at once."""

    def __init__(self) -> None:
        parts = {"place": spaces.Box(-1, 1, (2,), np.float64), "door": spaces.Discrete(3, start=1)}
        super().__init__(spaces.Dict(parts), spaces.MultiDiscrete([2, 3], start=[0, 5]))


def stacked() -> gymnasium.Env:
    return FrameStackObservation(Echo(BOX, BOX), 2)


def fails() -> gymnasium.Env:
    raise RuntimeError("no licence")


def needs(level: int) -> gymnasium.Env:
    return Several()


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register("test/Several-v0", f"{__name__}:Several", max_episode_steps=9)
    gymnasium.register("test/Endless-v0", f"{__name__}:Several")
    for name in ("stacked", "fails", "needs"):
        gymnasium.register(f"test/{name.capitalize()}-v0", f"{__name__}:{name}", max_episode_steps=9)
    yield
    for name in ("Several", "Endless", "Stacked", "Fails", "Needs"):
        del gymnasium.registry[f"test/{name}-v0"]


SEEN = [
    BOX,
    spaces.Box(0, 5, (2, 2), np.int64),
    spaces.Box(-1, 1, (), np.float64),
    spaces.Discrete(4),
    spaces.MultiBinary(3),
    spaces.MultiDiscrete([2, 3]),
    spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Tuple([BOX, spaces.MultiBinary(2)])}),
]


@pytest.mark.parametrize("space", SEEN, ids=str)
def test_every_fixed_space_becomes_one_vector_with_a_name_for_each_number(space: spaces.Space) -> None:
    env = adapted(Echo(space, BOX))
    observation, _ = env.reset(seed=3)
    assert observation.shape == env.observation_space.shape == (len(feature_names(space)),)
    space.seed(3)
    np.testing.assert_allclose(observation, np.asarray(spaces.flatten(space, space.sample())), rtol=1e-6)


def test_names_say_which_part_a_number_comes_from() -> None:
    assert feature_names(SEEN[-1]) == ("a0", "a1", "b.00", "b.01", "b.02", "b.10", "b.11")
    assert feature_names(BOX) == ("feature0", "feature1", "feature2")
    assert feature_names(spaces.Dict({"speed": spaces.Box(-1, 1, (1,))})) == ("speed",)


ACTIONS = [
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 4]),
    spaces.MultiDiscrete(np.array([[2, 3], [4, 2]]), start=np.array([[1, 1], [0, -2]])),
    spaces.MultiBinary(3),
    spaces.Box(-1, 1, (2, 2), np.float32),
    BOX,
]


@pytest.mark.parametrize("space", ACTIONS, ids=str)
def test_every_stored_action_is_one_the_environment_understands(space: spaces.Space) -> None:
    inner = Echo(BOX, space)
    env = adapted(inner)
    spec = ActionSpec.from_gymnasium(env.action_space)
    env.action_space.seed(0)
    for _ in range(30):
        action = env.action_space.sample()
        assert np.atleast_1d(action).shape == (spec.stored_size,)
        env.step(action)  # Echo refuses what is not in its space
    if spec.choices:
        assert sum(spec.choices) == spec.size
        assert len({np.asarray(one).tobytes() for one in inner.done}) > 1


def test_choices_are_read_as_one_hot_parts() -> None:
    spec = ActionSpec.from_gymnasium(spaces.MultiDiscrete([2, 3]))
    assert (spec.kind, spec.size, spec.stored_size, spec.choices) == ("multi-discrete", 5, 2, (2, 3))
    np.testing.assert_array_equal(encoded(spec, np.array([[1.0, 2.0], [0.0, 1.0]])), [[0, 1, 0, 0, 1], [1, 0, 0, 1, 0]])


@pytest.mark.parametrize(
    ("seen", "act", "words"),
    [
        (spaces.Sequence(BOX), BOX, "a space of varying size (Sequence)"),
        (spaces.OneOf([BOX, spaces.Discrete(2)]), BOX, "a space of varying size (OneOf)"),
        (spaces.Dict({"a": BOX, "b": spaces.Tuple([spaces.Text(4)])}), BOX, "a space of varying size (Text 'b.0')"),
        (spaces.Dict(), BOX, "an empty space"),
        (BOX, spaces.Box(-1, 1, (0,)), "only Box, Discrete, MultiDiscrete and MultiBinary"),
        (BOX, spaces.Dict({"a": BOX}), "only Box, Discrete, MultiDiscrete and MultiBinary"),
    ],
)
def test_a_space_that_cannot_be_recorded_is_named_with_what_to_do(
    seen: spaces.Space, act: spaces.Space, words: str
) -> None:
    with pytest.raises(UserError, match="wrap it") as refused:
        adapted(Echo(seen, act))
    assert words in str(refused.value)


def test_an_unregistered_id_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean CartPole-v1"):
        find_world("gym:CartPoll-v1")
    with pytest.raises(UserError, match="import the package that registers it as part of the name"):
        find_world("gym:Zzzzzzzzzz-v0")
    with pytest.raises(UserError, match="cannot be imported"):
        find_world("gym:no_such_package:Thing-v0")
    with pytest.raises(UserError, match="did you mean CartPole-v1"):
        find_world("gym:gymnasium:CartPoll-v1")


@pytest.mark.parametrize("name", ["test/Fails-v0", "test/Needs-v0", "a:b:c"])
def test_an_environment_that_cannot_be_made_says_why(name: str) -> None:
    with pytest.raises(UserError, match=rf"^{name} cannot be made \((RuntimeError: no licence|TypeError|ValueError)"):
        find_world(f"gym:{name}")


def test_names_are_those_of_the_space_that_is_flattened(tmp_path: Path) -> None:
    # Of the wrapper around it, and not of the environment itself.
    collect(CollectConfig("gym:test/Stacked-v0", episodes=1, workers=1), tmp_path / "stack.h5")
    with Store.open(tmp_path / "stack.h5") as store:
        assert store.meta.observation.names == tuple(f"feature{i}" for i in range(6))


def test_an_engine_without_its_library_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    monkeypatch.setattr(mujoco_labels.importlib, "import_module", broken)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    for name in ("gym:HalfCheetah-v5", "gym:HalfCheetah-v5@64", "dmc:cartpole-swingup"):
        with pytest.raises(UserError, match=r"with MUJOCO_GL=egl .*eglQueryString.* apt-get install libegl1"):
            find_world(name)


def test_an_environment_without_a_limit_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="say after how many transitions with --max-steps"):
        collect(CollectConfig("gym:test/Endless-v0", episodes=2, workers=1), tmp_path / "endless.h5")
    assert not list(tmp_path.iterdir())
    collect(CollectConfig("gym:test/Endless-v0", episodes=2, workers=1, max_steps=4), tmp_path / "endless.h5")
    with Store.open(tmp_path / "endless.h5") as store:
        assert store.ep_len.tolist() == [4, 4]


def test_recording_stops_after_the_episode_that_reaches_the_steps_asked_for(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    for workers in (1, 2):
        config = CollectConfig("gym:CartPole-v1", steps=400, seed=2, workers=workers)
        collect(config, tmp_path / f"{workers}.h5", lambda done, total: seen.append((done, total)))
    with Store.open(tmp_path / "1.h5") as one, Store.open(tmp_path / "2.h5") as two:
        assert one.digest == two.digest
        assert one.num_transitions >= 400 > one.num_transitions - one.ep_len[-1]
        assert one.meta.command.endswith("--steps 400 --max-steps 500 --seed 2")
    assert seen[-1] == (400, 400)


def test_fewer_steps_than_asked_for_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["collect", "gym:CartPole-v1", "--steps", "5000", "--workers", "1", "--episodes"]
    assert main([*words, "2", "--out", str(tmp_path / "few.h5")]) == 0
    assert "Fewer than 5000 transitions: that many need more than --episodes 2." in capsys.readouterr().out


def test_stored_episodes_replay_in_the_environment_and_keep_time_limits_apart_from_endings(tmp_path: Path) -> None:
    collect(CollectConfig("gym:CartPole-v1", episodes=6, max_steps=12, workers=1), tmp_path / "cart.h5")
    env = made("CartPole-v1", 12)
    endings = set()
    with Store.open(tmp_path / "cart.h5") as store:
        for index in range(store.num_episodes):
            episode = store.episode(index)
            np.testing.assert_array_equal(env.reset(seed=episode.seed)[0], episode.observations[0])
            terminated = truncated = False
            for k, action in enumerate(episode.actions):
                observation, reward, terminated, truncated, _ = env.step(int(action[0]))
                np.testing.assert_array_equal(observation, episode.observations[k + 1])
                assert reward == episode.rewards[k]
            assert (terminated or truncated) and terminated == episode.terminated
            endings.add(terminated)
    assert endings == {True, False}


@pytest.mark.parametrize("world", ["gym:CartPole-v1", "gym:Pendulum-v1", "gym:test/Several-v0"])
def test_a_recorded_environment_is_trained_on_and_evaluated_by_the_same_commands(
    world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # One worker, because the environment of this file is registered in this process alone.
    assert main(["collect", world, "--episodes", "120", "--max-steps", "20", "--workers", "1"]) == 0
    data = next((tmp_path / "data").glob("*.h5"))
    assert main(["train", "debug", "--data", str(data), "--run", "run", "--train.updates", "6"]) == 0
    words = ["--horizon", "5", "--stability-steps", "20", "--speed.rounds", "1", "--speed.seconds", "0.001"]
    words += ["--transitions", "100", "--rollouts", "20", "--training-rollouts", "100", "--resamples", "50"]
    assert main(["evaluate", "run", *words]) == 0
    assert main(["report", "run", "--out", "report"]) == 0
    assert (tmp_path / "report" / "report.html").is_file()
    assert main(["certify", "run"]) == 0
    assert load(tmp_path / "run").action.kind == {"C": "discrete", "P": "continuous", "t": "multi-discrete"}[world[4]]
