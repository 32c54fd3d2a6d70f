"""Worlds on MuJoCo: dm_control's tasks and Gymnasium's locomotion, with the difficulty that the engine measured."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from loopwm.cli import main
from loopwm.data.recorder import record_episode
from loopwm.data.store import Store
from loopwm.envs.gymnasium_mujoco import measured
from loopwm.envs.gymnasium_worlds import made
from loopwm.envs.mujoco_labels import LABELS, joint_rates
from loopwm.envs.registry import find_world
from loopwm.errors import UserError

mujoco: Any = pytest.importorskip("mujoco", reason='needs pip install "loopwm[mujoco]"')
needs_dmc = pytest.mark.skipif(importlib.util.find_spec("dm_control") is None, reason='needs pip install "loopwm[dmc]"')
ROOT = Path(__file__).parents[1]


def counted_by_hand(model: Any, data: Any) -> tuple[int, int, float]:
    """Iterations, contacts and normal impulse of the engine step just taken, contact by contact."""
    force = np.zeros(6)
    total = 0.0
    for contact in range(data.ncon):
        mujoco.mj_contactForce(model, data, contact, force)
        total += force[0] * model.opt.timestep
    return int(data.solver_niter[: max(data.nisland, 1)].sum()), int(data.ncon), total


def test_the_versions_that_may_be_installed_exclude_an_engine_that_the_suite_fails_with():
    packaging = pytest.importorskip("packaging.requirements")
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    asked = {one.name: one.specifier for one in map(packaging.Requirement, extras["mujoco"] + extras["dmc"])}
    assert "4.0.0" not in asked["mujoco"] and "3.17.0" in asked["mujoco"]
    # dm_control itself sets no upper bound, so the extra with it has to bring ours along.
    assert any(one.startswith("loopwm[") and "mujoco" in one for one in extras["dmc"])
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    for name in ("mujoco", "dm_control"):
        assert pins[name] in asked[name]
        if importlib.util.find_spec(name) is not None:
            assert importlib.metadata.version(name) in asked[name], f"{name} was resolved outside of our range"


@needs_dmc
def test_what_was_resolved_runs_a_task_of_the_suite():
    env = find_world("dmc:cartpole-swingup").make(0)
    env.reset(seed=0)
    observation, reward, *_ = env.step(env.action_space.sample())
    assert np.isfinite(observation).all() and 0 <= float(reward) <= 1


TASKS = ["ball_in_cup-catch", "walker-walk", "acrobot-swingup", "finger-spin", "reacher-easy", "manipulator-bring_ball"]


@needs_dmc
@pytest.mark.parametrize("task", TASKS)
def test_a_task_moves_exactly_as_in_the_suite_and_says_what_its_engine_says(task: str):
    from dm_control import suite

    env: Any = find_world(f"dmc:{task}").make(0)
    observation, _ = env.reset(seed=5)
    seeds = np.random.Generator(np.random.PCG64(np.random.SeedSequence(5))).integers(0, 2**32, 4, dtype=np.uint32)
    raw = suite.load(*task.split("-"), task_kwargs={"random": 0})
    raw.task.random.seed(seeds)
    first = raw.reset()
    assert flat(first.observation).tolist() == observation.tolist()
    model, data = raw.physics.model.ptr, raw.physics.data.ptr
    env.action_space.seed(1)
    touched = 0.0
    for _ in range(40):
        action = env.action_space.sample()
        # The same transition once more, one engine step at a time, on a copy.
        twin = mujoco.MjData(model)
        mujoco.mj_copyData(twin, model, data)
        raw.task.before_step(action.astype(np.float64), raw.physics)
        twin.ctrl[:] = data.ctrl
        counts = []
        for _ in range(round(raw.control_timestep() / model.opt.timestep)):
            mujoco.mj_step(model, twin)
            counts.append(counted_by_hand(model, twin))
        expected = raw.step(action.astype(np.float64))
        observation, reward, terminated, _, info = env.step(action)
        assert flat(expected.observation).tolist() == observation.tolist()
        assert reward == expected.reward and not terminated
        iterations, contacts, impulse = np.sum(counts, axis=0)
        assert info["solver_iterations"] == iterations
        assert info["contacts"] == pytest.approx(contacts / len(counts))
        assert info["impulse"] == pytest.approx(impulse, rel=1e-9, abs=1e-12)
        touched += contacts
    # One with pyramidal friction cones, one with elliptic ones.
    assert touched > 0 or task not in ("walker-walk", "manipulator-bring_ball")


def flat(observation: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in observation.values()]).astype(np.float32)


@needs_dmc
@pytest.mark.parametrize("world", ["dmc:walker-walk", "dmc:lqr-lqr_2_1", "dmc:swimmer-swimmer6", "gym:Hopper-v5"])
def test_an_episode_is_a_function_of_its_seed_whatever_was_recorded_before(world: str):
    found = find_world(world)
    env = found.make(30)
    first = record_episode(env, found, 11, 30)
    other = record_episode(env, found, 12, 30)
    again, elsewhere = record_episode(env, found, 11, 30), record_episode(found.make(30), found, 11, 30)
    assert first.fingerprint == again.fingerprint == elsewhere.fingerprint != other.fingerprint
    for name in LABELS:
        assert first.labels[name].tolist() == again.labels[name].tolist()


@needs_dmc
@pytest.mark.filterwarnings("ignore:.*Box observation space m.*imum value is -?infinity")
def test_a_task_passes_gymnasiums_own_checker():
    check_env(find_world("dmc:ball_in_cup-catch").make(0), skip_render_check=True)


@needs_dmc
def test_the_time_limit_truncates_and_only_the_task_terminates():
    limited = find_world("dmc:ball_in_cup-catch").make(3)
    limited.reset(seed=0)
    endings = [limited.step(limited.action_space.sample())[2:4] for _ in range(3)]
    assert endings == [(False, False), (False, False), (False, True)]
    # A regulator at rest has discount 0.
    settled: Any = find_world("dmc:lqr-lqr_2_1").make(5)
    settled.reset(seed=0)
    settled.physics.data.qpos[:] = settled.physics.data.qvel[:] = 0.0
    settled.physics.forward()
    assert settled.step(np.zeros(1, np.float32))[2:4] == (True, False)


@needs_dmc
def test_the_suites_own_limit_is_known_and_a_repeated_action_divides_it():
    once, twice = find_world("dmc:ball_in_cup-catch"), find_world("dmc:ball_in_cup-catch@2")
    assert (once.max_steps, once.dt) == (1000, 0.02) and (twice.max_steps, twice.dt) == (500, 0.04)
    assert find_world("dmc:lqr-lqr_2_1").max_steps == 0
    single, double = once.make(0), twice.make(0)
    single.reset(seed=4)
    double.reset(seed=4)
    action = single.action_space.sample()
    parts = [single.step(action) for _ in range(2)]
    whole = double.step(action)
    assert whole[0].tolist() == parts[1][0].tolist()
    assert whole[1] == sum(float(part[1]) for part in parts)
    assert whole[4]["solver_iterations"] == sum(part[4]["solver_iterations"] for part in parts)
    assert whole[4]["impulse"] == pytest.approx(sum(part[4]["impulse"] for part in parts))


@needs_dmc
def test_observed_numbers_are_named_and_paired_with_their_rates():
    world = find_world("dmc:ball_in_cup-catch")
    assert world.features == tuple(f"{part}{i}" for part in ("position", "velocity") for i in range(4))
    assert world.rates == tuple((f"position{i}", f"velocity{i}") for i in range(4))
    walker = find_world("dmc:walker-walk")
    assert "height" in walker.features and walker.rates == ()
    # Nine joints, of which the first is not observed; the velocities of this one are clipped.
    assert len(find_world("gym:Walker2d-v5").rates) == 8
    assert find_world("gym:HalfCheetah-v5").rates[0] == ("feature0", "feature9")


def test_a_number_that_merely_stays_the_same_is_no_joint():
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><joint type='slide'/><geom size='1'/></body></worldbody></mujoco>"
    )
    moving, still = np.linspace(0, 1, 9)[:, None], np.zeros((9, 1))
    rate = np.linspace(3, 5, 9)[:, None]
    assert joint_rates(np.hstack([still, moving, rate]), moving, rate, model) == [(1, 2)]
    assert joint_rates(np.hstack([still, moving]), moving, still, model) == []
    assert joint_rates(np.hstack([moving, moving, rate]), moving, rate, model) == []


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Hopper-v5", "Ant-v5", "Pusher-v5"])
def test_measuring_leaves_a_gymnasium_environment_as_it_was_and_says_what_its_engine_says(name: str):
    raw, env = gymnasium.make(name), measured(gymnasium.make(name))
    base: Any = raw.unwrapped
    assert raw.reset(seed=3)[0].tolist() == env.reset(seed=3)[0].tolist()
    env.action_space.seed(0)
    touched = 0.0
    for _ in range(30):
        action = env.action_space.sample()
        twin = mujoco.MjData(base.model)
        mujoco.mj_copyData(twin, base.model, base.data)
        twin.ctrl[:] = action
        counts = []
        for _ in range(base.frame_skip):
            mujoco.mj_step(base.model, twin)
            counts.append(counted_by_hand(base.model, twin))
        expected, observed = raw.step(action), env.step(action)
        assert expected[0].tolist() == observed[0].tolist() and expected[1:4] == observed[1:4]
        iterations, contacts, impulse = np.sum(counts, axis=0)
        info = observed[4]
        assert (info["solver_iterations"], info["contacts"]) == (iterations, contacts / len(counts))
        assert info["impulse"] == pytest.approx(impulse, rel=1e-9, abs=1e-12)
        touched += contacts
    assert touched > 0


def test_a_gymnasium_environment_without_mujoco_has_no_labels():
    assert find_world("gym:CartPole-v1").labels == ()
    assert "solver_iterations" not in step_info(made("CartPole-v1", 5))
    assert set(LABELS) <= step_info(made("HalfCheetah-v5", 5)).keys()


def step_info(env: gymnasium.Env) -> dict[str, Any]:
    env.reset(seed=0)
    return env.step(env.action_space.sample())[4]


@needs_dmc
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dmc:walkr-walk", "did you mean walker-walk"),
        ("dmc:cartpole-swing", "did you mean cartpole-swingup"),
        ("dmc:zzzzzz", "with a domain of: acrobot"),
        ("dmc:walker-walk@0", "1 or more, not '0'"),
        ("dmc:walker-walk@often", "1 or more, not 'often'"),
    ],
)
def test_a_task_that_does_not_exist_is_answered_with_the_nearest(name: str, words: str):
    with pytest.raises(UserError) as refused:
        find_world(name)
    assert words in str(refused.value)


MISSING = """
import sys
sys.modules[sys.argv[1]] = None
from loopwm.cli import main
sys.exit(main(["collect", sys.argv[2], "--steps", "5", "--out", sys.argv[3]]))
"""


@pytest.mark.parametrize(
    ("absent", "world", "fix"),
    [
        ("dm_control", "dmc:walker-walk", 'pip install "loopwm[dmc]"'),
        ("mujoco", "dmc:walker-walk", 'pip install "loopwm[dmc]"'),
        ("mujoco", "gym:HalfCheetah-v5", 'pip install "loopwm[mujoco]"'),
        ("mujoco", "cloth", 'pip install "loopwm[mujoco]"'),
        ("mujoco", "soft-cube", 'pip install "loopwm[mujoco]"'),
        ("imageio", "gym:HalfCheetah-v5", 'pip install "loopwm[mujoco]"'),
    ],
)
def test_a_missing_extra_is_named(absent: str, world: str, fix: str, tmp_path: Path):
    command = [sys.executable, "-c", MISSING, absent, world, str(tmp_path / "out.h5")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and fix in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@needs_dmc
def test_an_engine_that_the_suite_fails_with_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mujoco, "__version__", "4.0.0")
    with pytest.raises(UserError, match=r'fail with mujoco 4\.0\.0: pip install "loopwm\[dmc\]"'):
        find_world("dmc:walker-walk")


NO_GL = """
import os, sys
from loopwm.envs.registry import find_world
find_world("dmc:cartpole-swingup").make(0).reset(seed=0)
assert "MUJOCO_GL" not in os.environ
sys.exit(any(name == "OpenGL" or name.startswith("OpenGL.") for name in sys.modules))
"""


@needs_dmc
def test_states_need_no_opengl_and_the_process_is_left_as_it_was():
    env = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    done = subprocess.run([sys.executable, "-c", NO_GL], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@needs_dmc
def test_a_task_is_recorded_trained_on_and_evaluated_by_the_same_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    words = ["--episodes", "120", "--max-steps", "20", "--workers", "1"]
    assert main(["collect", "dmc:ball_in_cup-catch@2", *words]) == 0
    data = next((tmp_path / "data").glob("*.h5"))
    with Store.open(data) as store:
        assert store.meta.label_names == LABELS
        assert {"mujoco", "dm_control"} <= store.meta.versions.keys()
    assert main(["train", "debug", "--data", str(data), "--run", "run", "--train.updates", "6"]) == 0
    words = ["--horizon", "5", "--stability-steps", "20", "--speed.rounds", "1", "--speed.seconds", "0.001"]
    words += ["--transitions", "100", "--rollouts", "20", "--training-rollouts", "100", "--resamples", "50"]
    assert main(["evaluate", "run", *words]) == 0
