"""The billiards engine obeys mechanics, its observation is its whole state, and its task is real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loopwm.data.store import Store
from loopwm.envs.physics.billiards import Billiards, BilliardsConfig, draw
from loopwm.errors import UserError

STILL = np.zeros(2, dtype=np.float32)


def table(**options) -> Billiards:
    """Undamped billiards without pockets, unless told otherwise."""
    return Billiards(BilliardsConfig(**{"radius": 0.14, "damping": 1.0, "pocket_radius": 0.0, **options}))


def place(env: Billiards, *discs: tuple[float, float, float, float]) -> np.ndarray:
    """Set (x, y, vx, vy) of each disc and return the observation."""
    env.set_state(np.array([(*disc, float(i == 0)) for i, disc in enumerate(discs)]))
    return env.observation()


def test_an_undisturbed_disc_flies_straight():
    env = table(discs=1)
    place(env, (-0.3, 0.1, 0.8, -0.4))
    observation, _, _, _, info = env.step(STILL)
    np.testing.assert_allclose(observation[0, :4], (-0.3 + 0.25 * 0.8, 0.1 - 0.25 * 0.4, 0.8, -0.4), atol=1e-6)
    assert info == {"impulse": 0.0, "contacts": 0, "ball_contacts": 0}


def test_damping_is_the_share_of_velocity_kept_over_a_second():
    env = table(discs=1, damping=0.7)
    place(env, (-0.3, 0.0, 0.5, 0.0))
    velocities = [env.step(STILL)[0][0, 2] for _ in range(4)]
    assert velocities[-1] == pytest.approx(0.5 * 0.7, rel=1e-5)


def test_an_action_pushes_the_cue_and_nothing_else():
    env = table(discs=2, impulse=0.3)
    place(env, (-0.5, 0.0, 0.1, 0.0), (0.5, 0.0, 0.0, 0.0))
    observation = env.step(np.array([1.0, -0.5], dtype=np.float32))[0]
    np.testing.assert_allclose(observation[:, 2:4], [(0.1 + 0.3, -0.15), (0.0, 0.0)], atol=1e-6)


def test_an_action_beyond_its_bounds_is_clipped():
    env = table(discs=1, impulse=0.3)
    place(env, (0.0, 0.0, 0.0, 0.0))
    assert env.step(np.array([9.0, 0.0], dtype=np.float32))[0][0, 2] == pytest.approx(0.3, rel=1e-6)


def test_a_wall_reverses_the_normal_velocity_and_takes_twice_the_momentum():
    env = table(discs=1)
    place(env, (0.7, 0.0, 1.0, 0.3))
    observation, _, _, _, info = env.step(STILL)
    np.testing.assert_allclose(observation[0, 2:4], (-1.0, 0.3), atol=1e-6)
    assert (info["contacts"], info["ball_contacts"]) == (1, 0)
    assert info["impulse"] == pytest.approx(2.0, rel=1e-6)


def test_equal_discs_exchange_velocities_head_on():
    env = table(discs=2)
    place(env, (-0.2, 0.0, 1.0, 0.0), (0.2, 0.0, -0.4, 0.0))
    observation, _, _, _, info = env.step(STILL)
    np.testing.assert_allclose(observation[:, 2:4], [(-0.4, 0.0), (1.0, 0.0)], atol=1e-6)
    assert (info["contacts"], info["ball_contacts"]) == (1, 1)
    assert info["impulse"] == pytest.approx(1.4, rel=1e-6)


def elastic_collision(state: np.ndarray, radius: float) -> np.ndarray:
    """Velocities (2, 2) after the collision that the straight lines of two equal discs (2, 4) lead to."""
    apart, closing = state[1, :2] - state[0, :2], state[1, 2:] - state[0, 2:]
    # |apart + t closing| = 2 radius, the earlier root.
    a, b, c = closing @ closing, 2 * apart @ closing, apart @ apart - (2 * radius) ** 2
    instant = (-b - np.sqrt(b * b - 4 * a * c)) / (2 * a)
    normal = (apart + instant * closing) / (2 * radius)
    exchanged = (closing @ normal) * normal
    return np.stack([state[0, 2:] + exchanged, state[1, 2:] - exchanged])


@pytest.mark.parametrize("offset", [0.0, 0.05, 0.12, 0.2])
def test_glancing_collisions_approach_the_analytic_ones_as_the_engine_step_shrinks(offset: float):
    state = np.array([(-0.25, 0.0, 1.0, 0.1), (0.15, offset, -0.5, 0.0)])
    expected = elastic_collision(state, radius=0.14)
    errors = []
    for substeps in (25, 4000):
        env = table(discs=2, substeps=substeps)
        place(env, *map(tuple, state))
        errors.append(np.abs(env.step(STILL)[0][:, 2:4] - expected).max())
    assert errors[0] < 0.15
    assert errors[1] < 2e-3


def test_energy_is_conserved_without_action_or_damping():
    env = table(max_steps=0)
    for seed in range(8):
        before = env.reset(seed=seed)[0]
        after = [env.step(STILL)[0] for _ in range(60)][-1]
        assert (after[:, 2:4] ** 2).sum() == pytest.approx((before[:, 2:4] ** 2).sum(), rel=1e-3)


def test_momentum_changes_only_at_walls():
    env = table(max_steps=0)
    ball_steps = wall_steps = 0
    for seed in range(10):
        before = env.reset(seed=seed)[0]
        for _ in range(40):
            after, _, _, _, info = env.step(STILL)
            change = np.abs((after - before)[:, 2:4].sum(axis=0)).max()
            if info["contacts"] == info["ball_contacts"]:
                ball_steps += info["ball_contacts"] > 0
                assert change < 1e-5
            else:
                wall_steps += change > 1e-3
            before = after
    assert min(ball_steps, wall_steps) > 10


def test_the_impulse_label_is_the_momentum_exchanged_even_when_discs_touch_again_at_once():
    # A disc squeezed between a wall and a fast neighbour bounces to and fro within a few engine steps.
    env = table(discs=2, dt=0.01, substeps=1)
    generator = np.random.default_rng(0)
    quick_returns = 0
    for _ in range(150):
        gap, space, speed = generator.uniform((0.0, 0.0, 1.0), (0.01, 0.02, 4.0))
        x = 0.86 - gap
        before = place(env, (x, 0.0, 0.0, 0.0), (x - 0.28 - space, 0.0, speed, 0.0))
        last_touch = -100
        for k in range(8):
            after, _, _, _, info = env.step(STILL)
            exchanged = np.abs((after - before)[:, 2:4]).sum()
            if info["contacts"] == 1:
                # A disc-disc contact changes both momenta by the impulse, a wall contact one.
                assert info["impulse"] == pytest.approx(exchanged / (1 + info["ball_contacts"]), abs=1e-4)
            if info["ball_contacts"]:
                quick_returns += 1 < k - last_touch <= 3
                last_touch = k
            before = after
    assert quick_returns > 10


def test_the_observation_is_the_whole_state(billiards_store: Path):
    env = Billiards()
    with Store.open(billiards_store) as store:
        for index in range(20):
            episode = store.episode(index)
            for k in range(0, episode.length, 3):
                env.set_state(episode.observations[k])
                observation, reward, terminated, _, info = env.step(episode.actions[k])
                np.testing.assert_allclose(observation, episode.observations[k + 1], atol=1e-3)
                assert reward == episode.rewards[k]
                assert terminated == (episode.continues[k] == 0)
                assert info["contacts"] == episode.labels["contacts"][k]
                assert info["impulse"] == pytest.approx(episode.labels["impulse"][k], abs=1e-2)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), order=st.permutations(range(1, 6)))
def test_the_order_of_the_other_discs_means_nothing(seed: int, order: list[int]):
    env = table()
    start, rows = env.reset(seed=seed)[0], [0, *order]
    action = np.random.default_rng(seed).uniform(-1, 1, 2)
    straight, _, _, _, info = env.step(action)
    env.set_state(start[rows])
    shuffled = env.step(action)[0]
    # Simultaneous contacts are solved in an order, so long chains of contacts may differ by more than rounding.
    assume(info["contacts"] <= 3)
    np.testing.assert_allclose(shuffled, straight[rows], atol=1e-4)


def test_reset_is_a_function_of_the_seed():
    env, other = Billiards(), Billiards()
    first = env.reset(seed=3)[0]
    env.step(STILL)
    np.testing.assert_array_equal(env.reset(seed=3)[0], first)
    np.testing.assert_array_equal(other.reset(seed=3)[0], first)
    assert not np.array_equal(other.reset(seed=4)[0], first)


def test_starts_are_free_of_overlap_and_outside_the_pockets():
    env = Billiards()
    for seed in range(50):
        positions = env.reset(seed=seed)[0][:, :2]
        gaps = np.linalg.norm(positions[:, None] - positions[None], axis=-1) + 9 * np.eye(6)
        assert gaps.min() > 2 * env.config.radius
        assert np.abs(positions).max() <= env.config.half_width - env.config.radius
        assert np.linalg.norm(1.0 - np.abs(positions[0])) > env.config.pocket_radius


def test_the_cue_in_a_pocket_ends_the_episode_with_reward():
    env = table(discs=2, pocket_radius=0.25)
    place(env, (0.6, 0.6, 1.0, 1.0), (-0.5, -0.5, 0.0, 0.0))
    assert env.step(STILL)[1:4] == (1.0, True, False)


def test_another_disc_in_a_pocket_changes_nothing():
    env = table(discs=2, pocket_radius=0.25)
    place(env, (-0.5, -0.5, 0.0, 0.0), (0.6, 0.6, 1.0, 1.0))
    assert env.step(STILL)[1:4] == (0.0, False, False)


@pytest.mark.parametrize(("max_steps", "truncated_at"), [(3, 3), (0, None)])
def test_max_steps_truncates_without_terminating(max_steps: int, truncated_at: int | None):
    env = table(discs=1, max_steps=max_steps)
    env.reset(seed=0)
    flags = [env.step(STILL)[2:4] for _ in range(5)]
    assert not any(terminated for terminated, _ in flags)
    assert [k for k, (_, truncated) in enumerate(flags, 1) if truncated] == (
        [] if truncated_at is None else list(range(truncated_at, 6))
    )


@pytest.mark.filterwarnings("ignore:.*env_checker|.*spec|.*Box|.*infinity:UserWarning")
def test_it_is_a_gymnasium_environment():
    check_env(Billiards(), skip_render_check=False)


def test_drawing_puts_each_disc_where_it_is_with_y_upwards():
    config = BilliardsConfig(radius=0.14, pixels=64)
    observation = np.zeros((6, 5), dtype=np.float32)
    observation[:, :2] = [(-0.5, 0.5), (0.5, 0.5), (0.5, -0.5), (-0.5, -0.5), (0.0, 0.0), (0.8, 0.0)]
    image = draw(observation, config)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    colours = {tuple(image[round((1 - y) * 32) - 1, round((1 + x) * 32) - 1]) for x, y in observation[:, :2]}
    assert len(colours) == 6
    assert tuple(image[15, 15]) == (245, 245, 240)  # the cue, up and left
    whole = (image[..., None, :] == np.array([*colours], dtype=np.uint8)).all(axis=-1).any(axis=-1)
    assert whole.mean() == pytest.approx(6 * np.pi * 0.14**2 / 4, rel=0.3)


def test_the_world_offers_easy_and_hard_transitions(billiards_store: Path):
    with Store.open(billiards_store) as store:
        episodes = [store.episode(i) for i in range(store.num_episodes)]
    contacts = np.concatenate([episode.labels["contacts"] for episode in episodes])
    impulse = np.concatenate([episode.labels["impulse"] for episode in episodes])
    assert (contacts == 0).mean() > 0.05
    assert (contacts >= 6).mean() > 0.02
    assert 1.5 < contacts.mean() < 4.0
    assert 0.05 < np.mean([episode.terminated for episode in episodes]) < 0.5
    np.testing.assert_array_equal(contacts == 0, impulse == 0)


def test_random_play_neither_heats_nor_cools_the_table():
    env = Billiards(BilliardsConfig(pocket_radius=0.0))
    energy = np.zeros((80, 61))
    for seed in range(80):
        actions = np.random.default_rng(seed).uniform(-1, 1, (60, 2))
        frames = [env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)]
        energy[seed] = [(frame[:, 2:4] ** 2).sum(axis=1).mean() for frame in frames]
    mean = energy.mean(axis=0)
    assert np.abs(mean / mean[0] - 1).max() < 0.15


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"discs": 0}, "at least 1"),
        ({"radius": -0.1}, "positive radius"),
        ({"damping": 1.5}, r"in \(0, 1\]; got 1.5"),
        ({"discs": 60}, "do not fit"),
    ],
)
def test_impossible_tables_are_refused(options: dict, reason: str):
    with pytest.raises(UserError, match=reason):
        BilliardsConfig(**options)


def test_misuse_is_explained():
    env = Billiards()
    with pytest.raises(UserError, match="call reset"):
        env.step(STILL)
    env.reset(seed=0)
    with pytest.raises(UserError, match="2 finite numbers"):
        env.step(np.array([np.nan, 0.0]))
    with pytest.raises(UserError, match=r"shape \(6, 5\), got \(5, 5\)"):
        env.set_state(np.zeros((5, 5)))
    with pytest.raises(UserError, match="cue = 1 for disc 0"):
        env.set_state(np.zeros((6, 5)))
