"""A trained model behind Gymnasium's reset and step, checked by Gymnasium itself and against the model's own verbs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.envs.imagined import Starts, WorldModelEnv, WorldModelVectorEnv
from loopwm.errors import UserError
from loopwm.model.config import ExitConfig, LoopConfig
from loopwm.presets import preset
from loopwm.train.checkpoint import load
from loopwm.train.runs import train


def trained(store: Path, run: Path) -> Path:
    config = preset("debug").config
    model = replace(config.model, loop=LoopConfig(mu=4))
    train(replace(config, data=store, model=model, train=replace(config.train, updates=60)), run)
    return run


@pytest.fixture(scope="module")
def run(billiards_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(billiards_store, tmp_path_factory.mktemp("imagined") / "run")


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a world with discrete actions whose episodes all terminate."""
    folder = tmp_path_factory.mktemp("cartpole")
    collect(CollectConfig("gym:CartPole-v1", episodes=60, workers=1), folder / "cartpole.h5")
    return trained(folder / "cartpole.h5", folder / "run")


def rollout(env: gymnasium.Env, actions: np.ndarray, seed: int) -> list[np.ndarray]:
    return [env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)]


@pytest.mark.parametrize("name", ["run", "cartpole"])
def test_gymnasiums_own_checker_is_content(name: str, request: pytest.FixtureRequest) -> None:
    # Through a wrapper, as the checker asks for the limit that an unregistered environment does not have.
    env = WorldModelEnv.from_run(request.getfixturevalue(name), max_steps=50)
    with pytest.warns(UserWarning) as heard:
        check_env(env, skip_render_check=True)
    told = {str(warning.message).split("WARN: ")[-1] for warning in heard}
    # A recording does not say where a world's numbers end.
    assert all("infinity" in line or "spec" in line for line in told), told


def test_a_step_gives_what_the_model_imagines_at_that_step(run: Path) -> None:
    env, model = WorldModelEnv.from_run(run), load(run)
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (6, 2)).astype(np.float32)
    start, _ = env.reset(seed=3)
    happened = [env.step(action) for action in actions]
    with torch.no_grad():
        imagined = model.imagine(torch.from_numpy(actions)[None], observation=torch.from_numpy(start)[None])
        expected = model.decode(imagined)
    seen = np.stack([observation for observation, *_ in happened])
    np.testing.assert_allclose(seen, expected.observation[0].numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose([step[1] for step in happened], expected.reward[0].numpy(), rtol=1e-5, atol=1e-6)
    going_on = expected.continue_probability[0].numpy()
    np.testing.assert_allclose([step[4]["continue_probability"] for step in happened], going_on, rtol=1e-5)
    assert not np.allclose(seen[:-1], expected.observation[0, 1:].numpy(), atol=1e-3)  # a step late would be


def test_episodes_begin_where_recorded_ones_do_and_the_seed_says_which(run: Path, billiards_store: Path) -> None:
    env, starts = WorldModelEnv.from_run(run), Starts.of(billiards_store)
    began = [env.reset(seed=seed)[0] for seed in range(20)]
    assert all(any(np.array_equal(one, start) for start in starts.observations[:, 0]) for one in began)
    assert len({one.tobytes() for one in began}) > 5
    actions = np.full((3, 2), 0.5, np.float32)
    assert all(np.array_equal(a, b) for a, b in zip(rollout(env, actions, 4), rollout(env, actions, 4), strict=True))


def test_an_episode_can_begin_at_an_observation_of_ones_own(run: Path, billiards_store: Path) -> None:
    env = WorldModelEnv.from_run(run)
    mine = Starts.of(billiards_store, "test").observations[0, 0]
    assert np.array_equal(env.reset(options={"observation": mine})[0], mine)
    model, action = load(run), np.array([0.3, -0.2], np.float32)
    with torch.no_grad():
        h = model.imagine(torch.from_numpy(action)[None, None], observation=torch.from_numpy(mine)[None])
        expected = model.decode(h[:, -1]).observation[0].numpy()
    np.testing.assert_allclose(env.step(action)[0], expected, rtol=1e-5, atol=1e-5)


def test_what_happened_before_the_beginning_is_remembered(run: Path, billiards_store: Path) -> None:
    starts, model = Starts.of(billiards_store, warmup=3), load(run)
    env = WorldModelEnv(model, starts)
    began, _ = env.reset(seed=0)
    which = int(np.flatnonzero([np.array_equal(began, row) for row in starts.observations[:, -1]])[0])
    action = np.array([0.1, 0.9], np.float32)
    observations = torch.from_numpy(starts.observations[which])[None]
    actions = torch.from_numpy(np.vstack([starts.actions[which], action]))[None]
    with torch.no_grad():
        expected = model.decode(model.observe(observations, actions)[:, -1]).observation[0].numpy()
    np.testing.assert_allclose(env.step(action)[0], expected, rtol=1e-5, atol=1e-5)


def test_the_loops_of_a_step_are_told_and_can_be_chosen(run: Path) -> None:
    action = np.zeros(2, np.float32)
    for num_loops, loops in ((None, 4), (9, 9)):
        env = WorldModelEnv.from_run(run, num_loops=num_loops)
        env.reset(seed=0)
        assert env.step(action)[4]["loops"] == loops
    env = WorldModelEnv.from_run(run, exit=ExitConfig("output_delta", threshold=10.0))
    env.reset(seed=0)
    assert env.step(action)[4]["loops"] < 4


def test_worlds_imagined_together_are_the_worlds_imagined_alone(run: Path) -> None:
    model, starts = load(run), Starts.of_run(run)
    together = WorldModelVectorEnv(model, starts, 5)
    began, _ = together.reset(seed=11)
    actions = np.random.default_rng(1).uniform(-1, 1, (4, 5, 2)).astype(np.float32)
    # The end of an episode is left out here: it is what the next test is about.
    together.config = replace(together.config, end_below=0.0)
    seen = [together.step(action) for action in actions]
    for row in range(5):
        alone = WorldModelEnv(model, starts)
        alone.reset(options={"observation": began[row]})
        for action, step in zip(actions[:, row], seen, strict=True):
            observation, reward, _, _, info = alone.step(action)
            np.testing.assert_allclose(step[0][row], observation, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(step[1][row], reward, rtol=1e-4, atol=1e-5)
            assert step[4]["loops"][row] == info["loops"]


def test_an_ended_world_begins_again_at_the_next_step_while_the_others_go_on(run: Path) -> None:
    env = WorldModelVectorEnv.from_run(run, 3, max_steps=2, end_below=0.0)
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    env.reset(seed=0)
    env._taken[1] = 1  # one world a step ahead of the others
    action = np.zeros((3, 2), np.float32)
    assert env.step(action)[3].tolist() == [False, True, False]
    observation, reward, _, truncated, info = env.step(action)
    assert truncated.tolist() == [True, False, True]
    assert reward[1] == 0
    assert info["loops"].tolist() == [4, 0, 4]
    starts = Starts.of_run(run).observations[:, 0]
    assert any(np.array_equal(observation[1], start) for start in starts)
    assert not any(np.array_equal(observation[0], start) for start in starts)


def test_a_world_whose_episodes_end_ends_in_imagination(cartpole: Path) -> None:
    env = WorldModelEnv.from_run(cartpole)
    env.reset(seed=0)
    steps = [env.step(1) for _ in range(60)]
    going_on = [step[4]["continue_probability"] for step in steps]
    assert [step[2] for step in steps] == [value < 0.5 for value in going_on]
    assert min(going_on) < going_on[0]  # pushed one way for ever, the pole falls sooner or later
    ever = WorldModelEnv.from_run(cartpole, end_below=0.0)
    ever.reset(seed=0)
    assert not any(ever.step(1)[2] for _ in range(60))


def test_gymnasiums_vectors_and_wrappers_take_it(cartpole: Path) -> None:
    model, starts = load(cartpole), Starts.of_run(cartpole)
    env = SyncVectorEnv([lambda: TimeLimit(WorldModelEnv(model, starts), 5)] * 2)
    observation, _ = env.reset(seed=[1, 2])
    assert observation.shape == (2, 4)
    steps = [env.step(env.action_space.sample()) for _ in range(5)]
    observation, _, _, truncated, info = steps[-1]
    assert np.isfinite(observation).all() and truncated.all()
    assert info["loops"].tolist() == [4, 4]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0.0], r"2 finite number\(s\), got \[0\.0\]"),
        ([np.nan, 0.0], r"2 finite number\(s\), got \[nan, 0\.0\]"),
        ([0.0, 1.5], r"\[0\.0, 1\.5\] is outside of \[-1\.0, -1\.0\] to \[1\.0, 1\.0\].*ClipAction"),
    ],
)
def test_an_action_of_another_world_is_refused(run: Path, action: list[float], message: str) -> None:
    env = WorldModelEnv.from_run(run)
    env.reset(seed=0)
    with pytest.raises(UserError, match=message):
        env.step(action)
    env.step(np.array([1.0, -1.000001], np.float32))


def test_a_choice_that_does_not_exist_is_refused(cartpole: Path) -> None:
    env = WorldModelEnv.from_run(cartpole)
    env.reset(seed=0)
    with pytest.raises(UserError, match=r"one of \(2,\) choices, counted from 0; got \[\[2\.0\]\]"):
        env.step(2)


def test_many_worlds_need_an_action_each(cartpole: Path) -> None:
    env = WorldModelVectorEnv.from_run(cartpole, 2)
    env.reset(seed=0)
    with pytest.raises(UserError, match="Give an action for each of 2 worlds, got 4"):
        env.step([0, 1, 1, 0])


def test_what_cannot_be_imagined_is_refused_with_the_reason(run: Path, billiards_store: Path) -> None:
    env = WorldModelEnv.from_run(run)
    with pytest.raises(UserError, match="has to be reset before its first step"):
        env.step(np.zeros(2, np.float32))
    with pytest.raises(UserError, match=r"observation of shape \(6, 5\), got shape \(5,\)"):
        env.reset(options={"observation": np.zeros(5)})
    with pytest.raises(UserError, match="Unknown option of reset: obs"):
        env.reset(options={"obs": np.zeros((6, 5))})
    with pytest.raises(UserError, match="Unknown setting of an imagined world: loops"):
        WorldModelEnv.from_run(run, loops=3)
    with pytest.raises(UserError, match=r"No train episode of .* has 1000 transitions"):
        Starts.of(billiards_store, warmup=1000)
    with pytest.raises(UserError, match="end_below is a probability, got 2"):
        WorldModelEnv.from_run(run, end_below=2)
    with pytest.raises(UserError, match="give reset one seed"):
        WorldModelVectorEnv.from_run(run, 2).reset(seed=[1, 2])
    with pytest.raises(UserError, match="num_envs must be at least 1, got 0"):
        WorldModelVectorEnv.from_run(run, 0)
