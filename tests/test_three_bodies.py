"""The three-body engine obeys Newton and Kepler, its observation is its whole state, and its task is real."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwm.errors import UserError

pytest.importorskip("scipy", reason='needs pip install "loopwm[physics]"')
from loopwm.envs.physics.three_bodies import ThreeBodies, ThreeBodiesConfig, draw, kinetic_energy, potential_energy

STILL = np.zeros(2, dtype=np.float32)
# Moore's orbit, as Chenciner and Montgomery (2000) give it: three equal masses chase each other along an eight.
EIGHT_PERIOD = 6.32591398
EIGHT = np.array(
    [
        (0.97000436, -0.24308753, 0.93240737 / 2, 0.86473146 / 2),
        (-0.97000436, 0.24308753, 0.93240737 / 2, 0.86473146 / 2),
        (0.0, 0.0, -0.93240737, -0.86473146),
    ]
)


def newton(**options) -> ThreeBodies:
    """Points under Newton's law, which nothing ends, unless told otherwise."""
    free = {"softening": 0.0, "collision": 0.0, "reach": 0.0, "max_steps": 0, "tolerance": 1e-11}
    return ThreeBodies(ThreeBodiesConfig(**{**free, **options}))


def place(env: ThreeBodies, motion: np.ndarray, masses: tuple[float, ...] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Set positions and velocities (3, 4) and return the state (3, 6)."""
    env.set_state(np.column_stack([motion, masses, (1.0, 0.0, 0.0)]))
    return env.state()


def invariants(state: np.ndarray, softening: float = 0.0) -> np.ndarray:
    """Energy, both components of momentum, and angular momentum of a state (3, 6)."""
    positions, velocities, masses = state[:, :2], state[:, 2:4], state[:, 4]
    spin = masses @ (positions[:, 0] * velocities[:, 1] - positions[:, 1] * velocities[:, 0])
    energy = kinetic_energy(velocities, masses) + potential_energy(positions, masses, softening)
    return np.array([energy, *(masses @ velocities), spin])


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31))
def test_energy_momentum_and_angular_momentum_are_conserved_without_action(seed: int):
    env = newton(softening=0.15)
    env.reset(seed=seed)
    before = invariants(env.state(), 0.15)
    for _ in range(30):
        env.step(STILL)
    np.testing.assert_allclose(invariants(env.state(), 0.15), before, atol=1e-7)


def test_the_default_tolerance_keeps_the_energy_of_an_episode():
    env = ThreeBodies()
    for seed in range(5):
        env.reset(seed=seed)
        before, over = invariants(env.state(), env.config.softening), False
        while not over:
            *_, terminated, truncated, _ = env.step(STILL)
            over = terminated or truncated
        np.testing.assert_allclose(invariants(env.state(), env.config.softening), before, atol=1e-6)


def test_the_figure_eight_returns_to_its_start():
    env = newton(dt=EIGHT_PERIOD / 30)
    start = place(env, EIGHT)
    states = []
    for _ in range(30):
        env.step(STILL)
        states.append(env.state())
    np.testing.assert_allclose(states[-1], start, atol=1e-5)
    # A third of a period later everybody is where another one was.
    np.testing.assert_allclose(states[9][:, :4], start[[2, 0, 1], :4], atol=1e-5)


def kepler(time: float, eccentricity: float, mass: float) -> tuple[np.ndarray, np.ndarray]:
    """Relative position and velocity on the orbit of semi-major axis 1, at pericentre at time 0, by Kepler's equation.

    Source: Murray and Dermott, Solar System Dynamics, section 2.4.
    """
    rate = np.sqrt(mass)
    anomaly = np.pi if time > 0 else -np.pi
    for _ in range(60):
        step = anomaly - eccentricity * np.sin(anomaly) - rate * time
        anomaly -= step / (1 - eccentricity * np.cos(anomaly))
    assert abs(anomaly - eccentricity * np.sin(anomaly) - rate * time) < 1e-12
    short = np.sqrt(1 - eccentricity**2)
    speed = rate / (1 - eccentricity * np.cos(anomaly))
    position = np.array([np.cos(anomaly) - eccentricity, short * np.sin(anomaly)])
    return position, speed * np.array([-np.sin(anomaly), short * np.cos(anomaly)])


@pytest.mark.parametrize("eccentricity", [0.0, 0.5, 0.9])
def test_two_bodies_alone_move_as_kepler_says(eccentricity: float):
    masses = (1.0, 0.5, 1e-12)
    apart, relative = kepler(0.0, eccentricity, mass=1.5)
    motion = np.zeros((3, 4))
    motion[0] = -np.concatenate([apart, relative]) * 0.5 / 1.5
    motion[1] = np.concatenate([apart, relative]) * 1.0 / 1.5
    motion[2, 0] = 1e4
    env = newton()
    place(env, motion, masses)
    for k in range(1, 41):
        env.step(STILL)
        state = env.state()
        expected = np.concatenate(kepler(0.2 * k, eccentricity, mass=1.5))
        np.testing.assert_allclose(state[1, :4] - state[0, :4], expected, atol=2e-6)


@pytest.mark.parametrize("eccentricity", [0.3, 0.9, 0.99])
def test_proximity_is_one_over_the_distance_at_pericentre(eccentricity: float):
    env = newton(dt=1.0)
    apart, relative = kepler(-0.4, eccentricity, mass=2.0)
    place(env, np.array([(*-apart / 2, *-relative / 2), (*apart / 2, *relative / 2), (1e4, 0.0, 0.0, 0.0)]))
    info = env.step(STILL)[4]
    assert 1 / info["proximity"] == pytest.approx(1 - eccentricity, rel=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_with_velocities_reversed_the_bodies_go_back_where_they_came_from(seed: int):
    env = newton(softening=0.15, tolerance=1e-13)
    start = env.reset(seed=seed)[0]
    for _ in range(20):
        env.step(STILL)
    back = env.state() * np.array((1, 1, -1, -1, 1, 1))
    env.set_state(back)
    for _ in range(20):
        env.step(STILL)
    np.testing.assert_allclose(env.state() * np.array((1, 1, -1, -1, 1, 1)), start, atol=1e-6)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), action=st.tuples(*[st.floats(-1, 1)] * 2))
def test_an_action_changes_the_momentum_by_exactly_its_impulse(seed: int, action: tuple[float, float]):
    env = ThreeBodies(ThreeBodiesConfig(impulse=0.3))
    env.reset(seed=seed)
    before = env.state()
    env.step(np.array(action))
    after = env.state()
    change = after[:, 4] @ after[:, 2:4] - before[:, 4] @ before[:, 2:4]
    np.testing.assert_allclose(change, 0.3 * np.array(action), atol=1e-8)


def test_an_action_pushes_body_0_by_impulse_over_mass_and_is_clipped():
    env = newton(dt=1e-6, impulse=0.3)
    start = place(env, np.diag((9.0, 9.0, 9.0, 0.0))[:3], masses=(0.5, 1.0, 2.0))
    env.step(np.array([7.0, -0.5]))
    np.testing.assert_allclose((env.state() - start)[:, 2:4], [(0.6, -0.3), (0, 0), (0, 0)], atol=1e-6)


def test_momentum_of_one_body_is_what_the_others_pull():
    # At rest, in a row: the accelerations are sums of m / r^2.
    env = newton(dt=1e-4)
    place(env, np.array([(0.0, 0, 0, 0), (1.0, 0, 0, 0), (3.0, 0, 0, 0)]), masses=(1.0, 2.0, 4.0))
    env.step(STILL)
    pulls = np.array([2 / 1 + 4 / 9, -1 / 1 + 4 / 4, -1 / 9 - 2 / 4])
    np.testing.assert_allclose(env.state()[:, 2] / 1e-4, pulls, atol=1e-6)
    assert not env.state()[:, 3].any()


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), drift=st.tuples(*[st.floats(-1, 1)] * 2), turn=st.floats(0, 6.28))
def test_the_law_is_the_same_turned_around_moving_and_in_another_order(seed: int, drift: tuple, turn: float):
    env = newton(softening=0.15, dt=0.4)
    start = env.reset(seed=seed)[0].astype(np.float64)
    rotation = np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))])

    def seen(state: np.ndarray, time: float) -> np.ndarray:
        moved = state[[0, 2, 1]].copy()
        moved[:, :2] = moved[:, :2] @ rotation + time * np.array(drift)
        moved[:, 2:4] = moved[:, 2:4] @ rotation + np.array(drift)
        return moved

    env.step(STILL)
    straight = env.state()
    env.set_state(seen(start, 0.0))
    env.step(STILL)
    np.testing.assert_allclose(env.state(), seen(straight, 0.4), atol=1e-6)


def test_the_observation_is_the_whole_state():
    env = ThreeBodies()
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        env.action_space.seed(seed)
        for _ in range(5):
            action = env.action_space.sample()
            env.set_state(observation)
            again = env.step(action)
            env.set_state(observation)
            observation, reward, terminated, _, info = env.step(action)
            np.testing.assert_array_equal(again[0], observation)
            assert (again[1], again[2], again[4]) == (reward, terminated, info)


def test_reset_is_a_function_of_the_seed():
    env, other = ThreeBodies(), ThreeBodies()
    first = env.reset(seed=3)[0]
    env.step(STILL)
    np.testing.assert_array_equal(env.reset(seed=3)[0], first)
    np.testing.assert_array_equal(other.reset(seed=3)[0], first)
    assert not np.array_equal(other.reset(seed=4)[0], first)


def test_starts_are_bound_apart_and_at_rest_around_the_origin():
    env = ThreeBodies()
    config = env.config
    for seed in range(50):
        env.reset(seed=seed)
        state = env.state()
        masses, kinetic = state[:, 4], kinetic_energy(state[:, 2:4], state[:, 4])
        assert ((masses >= config.mass_low) & (masses <= config.mass_high)).all()
        np.testing.assert_allclose(masses @ state[:, :4], 0.0, atol=1e-6)
        share = -kinetic / potential_energy(state[:, :2], masses, config.softening)
        assert config.kinetic_low - 1e-5 < share < config.kinetic_high + 1e-5
        assert min(np.linalg.norm(state[i, :2] - state[j, :2]) for i, j in ((0, 1), (0, 2), (1, 2))) > config.apart


def test_a_triple_that_holds_is_rewarded_less_the_fuel():
    env = newton(fuel=0.2)
    place(env, EIGHT)
    assert env.step(STILL)[1:4] == (1.0, False, False)
    assert env.step(np.array([1.0, -0.5]))[1] == pytest.approx(1.0 - 0.2 * 1.25 / 2)


def test_a_collision_within_the_step_ends_the_episode():
    # They meet in the middle of the step, and are far apart again at its end.
    motion = np.array([(-1.0, 0.0, 5.0, 0.0), (1.0, 0.019, -5.0, 0.0), (50.0, 0.0, 0.0, 0.0)])
    for collision, ends in ((0.02, True), (0.005, False)):
        env = newton(softening=0.15, collision=collision, dt=0.4)
        place(env, motion)
        observation, reward, terminated, truncated, info = env.step(STILL)
        assert np.linalg.norm(observation[0, :2] - observation[1, :2]) > 1.0
        assert (reward, terminated, truncated) == (float(not ends), ends, False)
        assert 1 / info["proximity"] < 0.019


def test_an_escape_from_the_others_ends_the_episode_and_their_common_drift_does_not():
    leaving = EIGHT.copy()
    leaving[0] = (5.0, 0.0, 1.0, 0.0)
    for motion, ends in ((leaving, True), (EIGHT + np.array((40.0, 0, 2.0, 0)), False)):
        env = newton(reach=3.0)
        place(env, motion)
        assert env.step(STILL)[1:4] == (float(not ends), ends, False)


@pytest.mark.parametrize(("max_steps", "truncated_at"), [(3, 3), (0, None)])
def test_max_steps_truncates_without_terminating(max_steps: int, truncated_at: int | None):
    env = newton(max_steps=max_steps)
    place(env, EIGHT)
    flags = [env.step(STILL)[2:4] for _ in range(5)]
    assert not any(terminated for terminated, _ in flags)
    assert [k for k, (_, truncated) in enumerate(flags, 1) if truncated] == (
        [] if truncated_at is None else list(range(truncated_at, 6))
    )


def test_a_close_encounter_costs_the_integrator_more():
    costs = []
    for eccentricity in (0.0, 0.5, 0.8, 0.95):
        env = newton(dt=1.0)
        apart, relative = kepler(-0.5, eccentricity, mass=2.0)
        place(env, np.array([(*-apart / 2, *-relative / 2), (*apart / 2, *relative / 2), (1e4, 0.0, 0.0, 0.0)]))
        costs.append(env.step(STILL)[4]["evaluations"])
    assert all(later > earlier for earlier, later in pairwise(costs))


def test_random_play_offers_easy_and_hard_transitions():
    env = ThreeBodies()
    labels, endings = [], []
    for seed in range(40):
        env.reset(seed=seed)
        env.action_space.seed(seed)
        terminated = truncated = False
        while not (terminated or truncated):
            _, _, terminated, truncated, info = env.step(env.action_space.sample())
            labels.append((info["evaluations"], info["proximity"]))
        endings.append(terminated)
    evaluations, proximity = np.array(labels).T
    easy, median, hard = np.quantile(evaluations, (0.05, 0.5, 0.95))
    assert hard > 2.5 * median > 4 * easy
    ranks = np.argsort(np.argsort([evaluations, proximity], kind="stable"), kind="stable")
    assert np.corrcoef(ranks[0], ranks[1]).min() > 0.8
    assert 0.3 < np.mean(endings) < 0.95


@pytest.mark.filterwarnings("ignore:.*env_checker|.*spec|.*Box|.*infinity:UserWarning")
def test_it_is_a_gymnasium_environment():
    check_env(ThreeBodies(), skip_render_check=False)


def test_drawing_puts_each_body_where_it_is_with_y_upwards():
    observation = np.zeros((3, 6), dtype=np.float32)
    observation[:, :2] = [(-1.5, 1.5), (1.5, 1.5), (0.0, -3.0 * 0.9)]
    observation[:, 4], observation[0, 5] = 1.0, 1.0
    centre = observation[:, :2].mean(axis=0)
    image = draw(observation, ThreeBodiesConfig(pixels=60))
    assert image.shape == (60, 60, 3) and image.dtype == np.uint8
    columns, rows = ((observation[:, :2] - centre) * (1, -1) * 10 + 30).astype(int).T
    colours = [tuple(int(value) for value in image[row, column]) for row, column in zip(rows, columns, strict=True)]
    assert colours[0] == (245, 245, 240) and len(set(colours)) == 3


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mass_low": 0.0}, "0 < mass_low"),
        ({"kinetic_low": 0.7}, "kinetic_low <= kinetic_high"),
        ({"dt": 0.0}, "positive size, dt"),
        ({"fuel": -1.0}, "fuel of at least 0"),
        ({"tolerance": 0.5}, "between 1e-13 and 1e-3, got 0.5"),
        ({"collision": 0.5}, "leave no room"),
        ({"reach": 1.0}, "leave no room"),
    ],
)
def test_impossible_triples_are_refused(options: dict, reason: str):
    with pytest.raises(UserError, match=reason):
        ThreeBodiesConfig(**options)


def test_misuse_is_explained():
    env = ThreeBodies()
    with pytest.raises(UserError, match="call reset"):
        env.step(STILL)
    env.reset(seed=0)
    with pytest.raises(UserError, match="2 finite numbers"):
        env.step(np.array([np.nan, 0.0]))
    with pytest.raises(UserError, match=r"shape \(3, 6\), got \(2, 6\)"):
        env.set_state(np.zeros((2, 6)))
    with pytest.raises(UserError, match="controlled = 1 for body 0 alone"):
        env.set_state(np.ones((3, 6)))
