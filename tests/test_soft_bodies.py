"""Cloth and soft cube obey mechanics, their observation is their whole state, and their labels are the engine's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwm.cli import main
from loopwm.data.recorder import record_episode
from loopwm.data.store import Store
from loopwm.envs.mujoco_labels import LABELS
from loopwm.envs.physics.cloth import Cloth, ClothConfig
from loopwm.envs.physics.soft_body import SoftBody, rotation
from loopwm.envs.physics.soft_cube import SoftCube, SoftCubeConfig
from loopwm.envs.registry import find_world
from loopwm.errors import UserError

mujoco: Any = pytest.importorskip("mujoco", reason='needs pip install "loopwm[mujoco]"')
G = 9.81


def cloth(**options: Any) -> Cloth:
    return Cloth(ClothConfig(**options))


def cube(**options: Any) -> SoftCube:
    """Without a goal and, unless told otherwise, without walls."""
    return SoftCube(SoftCubeConfig(**{"goal_radius": 0.0, "half_width": 0.0, **options}))


def still(env: SoftBody) -> np.ndarray:
    return np.zeros_like(env.action_space.sample())


def lifted(env: SoftBody, height: float = 20.0) -> None:
    """Far above everything that could be touched."""
    state = env.state()
    state[:, 2] += height
    env.set_state(state)


WORLDS = pytest.mark.parametrize("make", [cloth, cube])


@WORLDS
def test_the_centre_of_mass_falls_as_the_engines_integrator_says(make: Callable[..., SoftBody]):
    env = make()
    env.reset(seed=1)
    lifted(env)
    start, velocity, h, n = env.centre, env.momentum / env.masses.sum(), env.model.opt.timestep, 0
    for _ in range(8):
        info = env.step(still(env))[4]
        n += round(env.dt / h)
        # Semi-implicit Euler: velocities first, positions with the new ones.
        expected = start + velocity * n * h + np.array([0.0, 0.0, -G * h * h * n * (n + 1) / 2])
        np.testing.assert_allclose(env.centre, expected, atol=1e-9)
        assert (info["contacts"], info["impulse"]) == (0.0, 0.0)


@WORLDS
def test_without_gravity_or_touch_momentum_stays(make: Callable[..., SoftBody]):
    env = make(gravity=0.0)
    env.reset(seed=2)
    lifted(env)
    before = env.momentum
    # The start is rigid; what stretches it is its own turning.
    for _ in range(10):
        env.step(still(env))
    np.testing.assert_allclose(env.momentum, before, atol=1e-10)


@WORLDS
@settings(max_examples=8)
@given(data=st.data())
def test_an_action_changes_momentum_by_force_times_time(make: Callable[..., SoftBody], data: st.DataObject):
    env = make()
    env.reset(seed=3)
    lifted(env)
    action = np.array(data.draw(st.lists(st.floats(-1.0, 1.0), min_size=len(still(env)), max_size=len(still(env)))))
    before = env.momentum
    env.step(action)
    # A cloth's solver stops at a residual, and what it leaves is not balanced.
    force = action.reshape(-1, 3).sum(axis=0) * env.config.force  # type: ignore[attr-defined]
    expected = before + env.dt * (force + env.masses.sum() * np.array([0.0, 0.0, -G]))
    np.testing.assert_allclose(env.momentum, expected, atol=1e-5 if make is cloth else 1e-9)


@WORLDS
def test_an_action_pulls_the_held_points_first(make: Callable[..., SoftBody]):
    env, free = make(gravity=0.0), make(gravity=0.0)
    for one in (env, free):
        one.reset(seed=4)
        lifted(one)
    pulled, untouched = env.step(np.ones_like(still(env)))[0], free.step(still(free))[0]
    moved = np.linalg.norm((pulled - untouched)[:, 3:6], axis=1)
    held = pulled[:, -1] == 1
    assert held.sum() == len(still(env)) // 3
    assert moved[held].min() > moved[~held].max()


@WORLDS
def test_an_action_beyond_its_bounds_is_clipped(make: Callable[..., SoftBody]):
    seen = []
    for scale in (1.0, 7.0):
        env = make()
        env.reset(seed=5)
        seen.append(env.step(np.full_like(still(env), scale))[0])
    np.testing.assert_array_equal(*seen)


@WORLDS
def test_labels_are_what_the_engine_says(make: Callable[..., SoftBody]):
    env = make()
    env.reset(seed=0)
    env.action_space.seed(0)
    forces = np.zeros(6)
    touched = 0
    for _ in range(25):
        twin = mujoco.MjData(env.model)
        mujoco.mj_copyData(twin, env.model, env.data)
        action = env.action_space.sample()
        info = env.step(action)[4]
        twin.qfrc_applied[:] = env.data.qfrc_applied
        twin.qacc_warmstart[:] = 0.0
        iterations = contacts = impulse = 0.0
        steps = round(env.dt / env.model.opt.timestep)
        for _ in range(steps):
            mujoco.mj_step(env.model, twin)
            iterations += twin.solver_niter[: max(twin.nisland, 1)].sum()
            contacts += twin.ncon
            for contact in range(twin.ncon):
                mujoco.mj_contactForce(env.model, twin, contact, forces)
                impulse += forces[0] * env.model.opt.timestep
        np.testing.assert_array_equal(twin.qpos, env.data.qpos)
        assert (info["solver_iterations"], info["contacts"]) == (iterations, contacts / steps)
        assert info["impulse"] == pytest.approx(impulse, rel=1e-9)
        touched += contacts > 0
    assert touched > 5


def test_a_cube_that_lies_still_presses_with_its_weight():
    env, info = cube(), {}
    env.reset(seed=0)
    state = env.state()
    state[:, :3] = 0.15 * state[:, 6:9] + np.array([0.0, 0.0, 0.16])
    state[:, 3:6] = 0.0
    env.set_state(state)
    for _ in range(80):
        _, _, _, _, info = env.step(still(env))
    assert np.abs(env.velocities).max() < 1e-3
    assert info["impulse"] == pytest.approx(1.0 * G * env.dt, rel=1e-3)


def test_a_pinned_cloth_loses_its_energy_and_hangs():
    env = cloth(pinned=(72, 80), ball_radius=0.0, max_steps=0, edge_damping=0.5)
    env.reset(seed=0)
    state = env.state()
    # Upright below the pins, but longer than its edges by a fifth.
    state[:, 0] = env.rest[72, 0]
    state[:, 2] = env.rest[72, 2] - 1.2 * 0.4 * (1.0 - state[:, 6])
    env.set_state(state)
    energies = []
    for _ in range(6):
        energies.append((env.masses @ (0.5 * (env.velocities**2).sum(axis=1) + G * env.positions[:, 2])).item())
        for _ in range(40):
            env.step(still(env))
    # Without what was stored in the stretched edges, these are potential and kinetic.
    assert (np.diff(energies[1:]) < 0).all()
    assert 0.5 * env.masses @ (env.velocities**2).sum(axis=1) < 1e-4
    np.testing.assert_array_equal(env.positions[[72, 80]], env.rest[[72, 80]])
    # Eight edges of 0.1 m below the pins, and what the weight stretches them.
    below = env.rest[72, 2] - env.positions[:9, 2]
    assert below.min() > 0.8 and below.max() < 0.82


def strains(env: Cloth) -> np.ndarray:
    """Relative change of length of every edge."""
    ends = env.positions[env.model.flex_edge]
    return np.abs(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=-1) / env.model.flexedge_length0 - 1.0)


def test_edges_stretch_little():
    env, seen = cloth(), []
    for seed in range(3):
        env.reset(seed=seed)
        env.action_space.seed(seed)
        done = False
        while not done:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            done = terminated or truncated
            seen.append(strains(env))
    assert np.median(seen) < 0.03 and np.quantile(seen, 0.99) < 0.2 and np.max(seen) < 0.6


@WORLDS
def test_the_observation_is_the_whole_state(make: Callable[..., SoftBody]):
    env, other = make(), make()
    env.reset(seed=6)
    env.action_space.seed(6)
    for _ in range(12):
        env.step(env.action_space.sample())
    other.set_state(env.state())
    for _ in range(3):
        action = env.action_space.sample()
        first, second = env.step(action), other.step(action)
        # Positions are kept as offsets from where the body was made, hence the last bit.
        np.testing.assert_allclose(first[0], second[0], atol=1e-5)
        assert first[4]["contacts"] == pytest.approx(second[4]["contacts"], abs=0.3)


@pytest.mark.parametrize("name", ["cloth", "soft-cube"])
def test_an_episode_is_a_function_of_its_seed_whatever_came_before(name: str):
    world = find_world(name)
    env = world.make(15)
    first, other = (record_episode(env, world, seed, 15) for seed in (1, 2))
    again, elsewhere = record_episode(env, world, 1, 15), record_episode(world.make(15), world, 1, 15)
    assert first.fingerprint == again.fingerprint == elsewhere.fingerprint != other.fingerprint
    for label in LABELS:
        assert first.labels[label].tolist() == again.labels[label].tolist()


@pytest.mark.filterwarnings("ignore:.*env_checker|.*spec|.*Box|.*infinity:UserWarning")
@WORLDS
def test_it_is_a_gymnasium_environment(make: Callable[..., SoftBody]):
    check_env(make(), skip_render_check=True)


def test_walls_keep_the_cube_in():
    env = SoftCube(SoftCubeConfig(goal_radius=0.0))
    env.reset(seed=0)
    env.action_space.seed(0)
    farthest = [np.abs(env.step(env.action_space.sample())[0][:, :2]).max() for _ in range(60)]
    assert 0.75 < max(farthest) < 0.85


def test_a_cloth_beside_the_ball_ends_the_episode_and_time_only_truncates_it():
    env = cloth(max_steps=2)
    env.reset(seed=0)
    assert [env.step(still(env))[1:4] for _ in range(2)] == [(0.0, False, False), (0.0, False, True)]
    state = env.state()
    state[:, :2] = 0.4 * state[:, 6:8] + np.array([2.0, 0.0])
    state[:, 2], state[:, 3:6] = 0.1, 0.0
    env.set_state(state)
    assert env.step(still(env))[1:4] == (1.0, True, False)


def test_a_cube_on_its_goal_ends_the_episode():
    env = SoftCube()
    env.reset(seed=0)
    state = env.state()
    state[:, :3] = 0.15 * state[:, 6:9] + np.array([0.5, 0.45, 0.16])
    state[:, 3:6] = 0.0
    env.set_state(state)
    assert env.step(still(env))[1:4] == (1.0, True, False)
    state[:, 0] -= 0.6
    env.set_state(state)
    assert env.step(still(env))[1:4] == (0.0, False, False)


@WORLDS
def test_what_makes_no_sense_is_refused(make: Callable[..., SoftBody]):
    env = make()
    with pytest.raises(UserError, match="before reset"):
        env.step(still(env))
    env.reset(seed=0)
    with pytest.raises(UserError, match="finite numbers"):
        env.step(np.full_like(still(env), np.nan))
    with pytest.raises(UserError, match="finite array of shape"):
        env.set_state(np.zeros((3, 3)))
    state = env.state()
    state[0, -1] = 1.0 - state[0, -1]
    with pytest.raises(UserError, match="a state cannot change them"):
        env.set_state(state)


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        (ClothConfig, {"side": 1}, "side of at least 2"),
        (ClothConfig, {"mass": 0.0}, "positive spacing, mass"),
        (ClothConfig, {"force": -1.0}, "no negative"),
        (ClothConfig, {"pinned": (0,)}, "other than the held"),
        (SoftCubeConfig, {"substeps": 0}, "substeps of at least 1"),
        (SoftCubeConfig, {"poisson": 0.5}, "poisson in"),
        (SoftCubeConfig, {"damping": -1.0}, "no negative"),
        (SoftCubeConfig, {"half_width": 0.2}, "half_width of at least"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(config: Any, options: dict[str, Any], words: str):
    with pytest.raises(UserError, match=words):
        config(**options)


@given(st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda axis: np.linalg.norm(axis) > 0.1), st.floats(-7, 7))
def test_a_rotation_keeps_lengths_and_its_axis(axis: tuple[float, float, float], angle: float):
    turn = rotation(np.array(axis), angle)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(turn @ axis, axis, atol=1e-12)
    assert np.trace(turn) == pytest.approx(1 + 2 * np.cos(angle), abs=1e-9)


@pytest.mark.parametrize("name", [pytest.param("cloth", marks=pytest.mark.slow), "soft-cube"])
def test_a_soft_body_is_recorded_trained_on_and_evaluated_by_the_same_commands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["collect", name, "--episodes", "60", "--max-steps", "12", "--workers", "1", "--out", "soft.h5"]) == 0
    with Store.open(tmp_path / "soft.h5") as store:
        assert store.meta.label_names == LABELS and "mujoco" in store.meta.versions
    assert main(["train", "debug", "--data", "soft.h5", "--run", "run", "--train.updates", "3"]) == 0
    words = ["--horizon", "3", "--stability-steps", "6", "--speed.rounds", "1", "--speed.seconds", "0.001"]
    words += ["--transitions", "100", "--rollouts", "20", "--training-rollouts", "100", "--resamples", "50"]
    assert main(["evaluate", "run", *words]) == 0
    assert main(["report", "run", "--out", "report"]) == 0
