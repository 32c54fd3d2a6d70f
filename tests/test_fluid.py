"""The fluid obeys the Navier-Stokes equations, its observation is its whole state, and its label is an error."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwm.errors import LoopwmError, UserError

pytest.importorskip("torch_cfd", reason='needs pip install "loopwm[physics]"')

import torch
from torch_cfd.spectral import NavierStokes2DSpectral

from loopwm.envs.physics.flow import Stirred, relative_error
from loopwm.envs.physics.fluid import Fluid, FluidConfig, assembled, draw, paddle_curl, patches

STILL = np.zeros(4, dtype=np.float32)
CELLS = np.arange(32) * 2 * np.pi / 32
X, Y = np.meshgrid(CELLS, CELLS, indexing="ij")


def filled(field: np.ndarray, **options) -> Fluid:
    """A fluid with this vorticity (32, 32)."""
    env = Fluid(FluidConfig(**options))
    env.set_state(patches(field))
    return env


def started(seed: int, **options) -> Fluid:
    """A fluid as `reset` leaves it."""
    env = Fluid(FluidConfig(**options))
    env.reset(seed=seed)
    return env


def derivatives(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Along x and y, by Fourier series, independently of the engine."""
    wave = 1j * np.fft.fftfreq(32, 1 / 32)
    wave[16] = 0.0
    spectrum = np.fft.fft2(field)
    return np.fft.ifft2(wave[:, None] * spectrum).real, np.fft.ifft2(wave[None, :] * spectrum).real


@pytest.mark.parametrize(("viscosity", "drag"), [(0.01, 0.0), (0.05, 0.0), (0.02, 0.3)])
def test_taylor_green_vortices_fade_at_their_exact_rate(viscosity: float, drag: float):
    env = filled(2 * np.cos(X) * np.cos(Y), viscosity=viscosity, drag=drag)
    for k in range(1, 11):
        env.step(STILL)
        # The wave number squared is 2, and advection cancels.
        expected = np.exp(-(2 * viscosity + drag) * 0.4 * k) * 2 * np.cos(X) * np.cos(Y)
        np.testing.assert_allclose(env.vorticity(), expected, atol=1e-5)


def test_a_shear_flow_fades_by_viscosity_alone():
    env = filled(3 * np.cos(3 * Y), viscosity=0.03, drag=0.0)
    env.step(STILL)
    np.testing.assert_allclose(env.vorticity(), 3 * np.exp(-0.03 * 9 * 0.4) * np.cos(3 * Y), atol=1e-5)


@settings(max_examples=8)
@given(seed=st.integers(0, 2**31))
def test_stirring_and_flowing_leave_the_mean_vorticity_and_make_no_divergence(seed: int):
    env = started(seed, drag=0.0)
    mean = env.vorticity().mean()
    env.action_space.seed(seed)
    for _ in range(4):
        env.step(env.action_space.sample())
        assert env.vorticity().mean() == pytest.approx(mean, abs=1e-12)
    u, v = env.velocity()
    # A start in single precision leaves rounding in the shortest waves, whose slope a grid cannot show.
    assert np.abs(derivatives(u)[0] + derivatives(v)[1]).max() < 1e-6
    np.testing.assert_allclose(derivatives(v)[0] - derivatives(u)[1], env.vorticity() - mean, atol=1e-5)


@settings(max_examples=8)
@given(seed=st.integers(0, 2**31))
def test_energy_and_enstrophy_decrease_without_stirring(seed: int):
    env = started(seed)
    infos = [env.step(STILL)[4] for _ in range(6)]
    for name in ("energy", "enstrophy"):
        assert all(later[name] < earlier[name] for earlier, later in pairwise(infos))


def test_its_terms_are_those_of_torch_cfd():
    equation = Stirred(0.01, 0.1)
    fields = torch.from_numpy(np.stack([started(seed).vorticity() for seed in range(2)]))
    spectrum = torch.fft.rfft2(fields)
    reference = NavierStokes2DSpectral(0.01, equation.grid, drag=0.1).double()
    for name in ("explicit_terms", "implicit_terms"):
        ours, theirs = (torch.fft.irfft2(getattr(one, name)(spectrum)) for one in (equation, reference))
        # torch-cfd keeps its wave numbers in single precision.
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_without_friction_or_viscosity_energy_and_enstrophy_are_conserved():
    env = started(3, viscosity=0.0, drag=0.0, vorticity_high=1.0, wave_high=3.0)
    infos = [env.step(STILL)[4] for _ in range(5)]
    for name in ("energy", "enstrophy"):
        assert infos[-1][name] == pytest.approx(infos[0][name], rel=1e-4)


def test_energy_and_enstrophy_are_those_of_the_velocity_and_the_vorticity():
    # u = (cos x sin y, -sin x cos y): mean square 1/4 each; vorticity -2 cos x cos y: mean square 1.
    info = filled(-2 * np.cos(X) * np.cos(Y), viscosity=0.0, drag=0.0).step(STILL)[4]
    assert (info["energy"], info["enstrophy"]) == pytest.approx((0.25, 0.5), rel=1e-6)


def test_the_paddle_pushes_the_fluid_along_with_it():
    # From rest, for a moment: the velocity is the part of the force that has neither divergence nor mean, times dt.
    dt, push = 1e-4, np.array((0.25, -0.5, 0.6, -0.3))
    env = filled(np.zeros((32, 32)), dt=dt, force=2.0, paddle=0.7)
    env.step(push)
    bump = np.exp((np.cos(X - np.pi / 4) + np.cos(Y + np.pi / 2) - 2) / 0.7**2)
    force = np.fft.fft2(np.stack([1.2 * bump, -0.6 * bump]))
    wave = np.fft.fftfreq(32, 1 / 32)
    waves = np.stack(np.meshgrid(wave, wave, indexing="ij"))
    squared = np.where((waves**2).sum(0) > 0, (waves**2).sum(0), 1.0)
    force -= waves * (waves * force).sum(0) / squared
    force[:, 0, 0] = 0.0
    np.testing.assert_allclose(env.velocity(), dt * np.fft.ifft2(force).real, atol=1e-8)
    u, v = env.velocity()[:, 4, 24]
    assert u > 0 > v


def test_what_a_paddle_adds_is_the_curl_of_its_force_wherever_it_is():
    bump = np.exp((np.cos(X - 3.0) + np.cos(Y + 2.9) - 2) / 0.6**2)
    curl = -0.7 * derivatives(bump)[0] - 0.4 * derivatives(bump)[1]
    np.testing.assert_allclose(paddle_curl(np.array((3.0, -2.9)), np.array((0.4, -0.7)), 0.6), curl, atol=1e-9)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), shift=st.tuples(*[st.integers(-16, 15)] * 2))
def test_the_box_has_no_edges(seed: int, shift: tuple[int, int]):
    action = np.random.default_rng(seed).uniform(-0.5, 0.5, 4)
    env = started(seed)
    start = env.vorticity()
    env.step(action)
    straight = env.vorticity()
    env.set_state(patches(np.roll(start, shift, (0, 1))))
    moved = action + np.array((shift[0] / 16, shift[1] / 16, 0, 0))
    moved[:2] -= 2 * np.round(moved[:2] / 2)
    env.step(moved)
    np.testing.assert_allclose(env.vorticity(), np.roll(straight, shift, (0, 1)), atol=1e-9)


def doubling(field: np.ndarray, **options) -> float:
    return filled(field, **options).step(STILL)[4]["doubling"]


def test_the_label_grows_with_the_amplitude_and_with_the_engine_step():
    field = started(5, vorticity_low=1.0, vorticity_high=1.0).vorticity()
    # Slow flow only fades, and how well that is followed does not depend on its strength; fast flow stretches itself.
    amplitude = [doubling(scale * field) for scale in (0.5, 1.0, 2.0, 4.0)]
    assert all(later > earlier for earlier, later in pairwise(amplitude))
    assert amplitude[3] > 20 * amplitude[2] > 100 * amplitude[1]
    length = [doubling(2 * field, dt=dt) for dt in (0.1, 0.2, 0.4)]
    assert all(later > 4 * earlier for earlier, later in pairwise(length))


def test_the_label_is_the_error_of_the_coarse_steps():
    field = started(5, vorticity_low=2.0, vorticity_high=2.0).vorticity()
    exact = filled(field, substeps=48)
    exact.step(STILL)
    env = filled(field)
    label = env.step(STILL)[4]["doubling"]
    # The coarse steps make the world's own where these are half as many.
    assert env.config.substeps % 2 == 1
    coarse = filled(field, substeps=6)
    tried = coarse._flow.advanced(field, np.zeros((32, 32)))[1]
    np.testing.assert_allclose(tried, env.vorticity(), atol=1e-12)
    assert relative_error(env.vorticity(), exact.vorticity()) < label / 3


def test_a_flow_too_fast_for_the_engine_steps_is_followed_in_more_of_them():
    field = started(5, vorticity_low=30.0, vorticity_high=30.0).vorticity()
    env, exact = filled(field), filled(field, substeps=300)
    info = env.step(STILL)[4]
    exact.step(STILL)
    assert info["doubling"] == 1.0
    assert np.isfinite(env.vorticity()).all()
    assert relative_error(env.vorticity(), exact.vorticity()) < 0.1
    with pytest.raises(LoopwmError, match="became too fast to follow"):
        filled(1e4 * field).step(STILL)


def test_a_push_that_never_stops_cannot_break_the_engine():
    env = started(1)
    infos = [env.step(np.array((0.0, 0.0, 1.0, 1.0)))[4] for _ in range(25)]
    assert np.isfinite([list(info.values()) for info in infos]).all()
    assert infos[-1]["energy"] > 2 * infos[0]["energy"]


@pytest.mark.parametrize(
    ("tried", "true", "error"),
    [(1.1, 1.0, 0.1), (0.0, 0.0, 0.0), (1.0, 0.0, 1.0), (np.nan, 1.0, 1.0), (np.inf, 1.0, 1.0), (1e200, 1.0, 1.0)],
)
def test_an_error_is_relative_and_at_most_one(tried: float, true: float, error: float):
    assert relative_error(np.full((2, 2), tried), np.full((2, 2), true)) == pytest.approx(error)


def test_patches_are_where_they_say():
    observation = patches(np.cos(X) + 2 * np.sin(Y))
    assert observation.shape == (64, 20)
    np.testing.assert_array_equal(assembled(observation), np.cos(X) + 2 * np.sin(Y))
    # The mean over a patch of a wave is that wave at its middle, up to one factor.
    means = observation[:, :16].mean(axis=1)
    middle = observation[:, 16] + 2 * observation[:, 19]
    np.testing.assert_allclose(means, middle * (means @ middle / (middle @ middle)), atol=1e-12)
    np.testing.assert_allclose(observation[:, 16::2] ** 2 + observation[:, 17::2] ** 2, 1.0)


def test_the_observation_is_the_whole_state():
    env = started(2)
    env.action_space.seed(2)
    observation = env.observation()
    for _ in range(5):
        action = env.action_space.sample()
        env.set_state(observation)
        again = env.step(action)
        env.set_state(observation)
        observation, reward, *_, info = env.step(action)
        np.testing.assert_array_equal(again[0], observation)
        assert (again[1], again[4]) == (reward, info)


def test_reset_is_a_function_of_the_seed_and_starts_differ_in_strength():
    env, other = Fluid(), Fluid()
    first = env.reset(seed=3)[0]
    env.step(STILL)
    np.testing.assert_array_equal(env.reset(seed=3)[0], first)
    np.testing.assert_array_equal(other.reset(seed=3)[0], first)
    strengths = [np.sqrt((started(seed).vorticity() ** 2).mean()) for seed in range(30)]
    assert 0.3 <= min(strengths) < 0.8 and 2.0 < max(strengths) <= 4.0 + 1e-5


def test_enstrophy_is_rewarded_and_effort_costs():
    env = started(0, effort=0.5)
    _, reward, terminated, truncated, info = env.step(np.array((0.0, 0.0, 1.0, -0.5)))
    assert reward == pytest.approx(info["enstrophy"] - 0.5 * 1.25 / 2)
    assert (terminated, truncated) == (False, False)


@pytest.mark.parametrize(("max_steps", "truncated_at"), [(3, 3), (0, None)])
def test_max_steps_truncates_without_terminating(max_steps: int, truncated_at: int | None):
    env = started(0, max_steps=max_steps)
    flags = [env.step(STILL)[2:4] for _ in range(5)]
    assert not any(terminated for terminated, _ in flags)
    assert [k for k, (_, truncated) in enumerate(flags, 1) if truncated] == (
        [] if truncated_at is None else list(range(truncated_at, 6))
    )


def test_random_play_offers_easy_and_hard_transitions_and_keeps_the_fluid_moving():
    labels = []
    for seed in range(6):
        env = started(seed)
        env.action_space.seed(seed)
        labels.append([tuple(env.step(env.action_space.sample())[4].values()) for _ in range(40)])
    error, energy, enstrophy = np.array(labels).transpose(2, 0, 1)
    easy, hard = np.quantile(error, (0.1, 0.9))
    assert hard > 5 * easy > 0
    assert error.max() < 0.1
    assert 0.1 < energy[:, -10:].mean() < 1.0
    assert 0.5 < enstrophy[:, -10:].mean() < 2.0


@pytest.mark.filterwarnings("ignore:.*env_checker|.*spec|.*Box|.*infinity:UserWarning")
def test_it_is_a_gymnasium_environment():
    check_env(Fluid(), skip_render_check=False)


def test_drawing_shows_left_turns_red_right_turns_blue_and_y_upwards():
    field = np.zeros((32, 32))
    field[4:8, 24:28], field[20:24, 4:8] = 9.0, -9.0
    image = draw(patches(field), FluidConfig(pixels=64))
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    red, blue, calm = image[10, 12].astype(int), image[52, 44].astype(int), image[32, 32]
    assert red[0] > 2 * red[2] and blue[2] > 2 * blue[0]
    assert calm.tolist() == [245, 245, 245]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"viscosity": -1.0}, "viscosity, drag"),
        ({"dt": 0.0}, "positive dt"),
        ({"wave_high": 12.0}, "finer vortices do not fit"),
        ({"substeps": 0}, "at least 1 substep, got 0"),
    ],
)
def test_impossible_fluids_are_refused(options: dict, reason: str):
    with pytest.raises(UserError, match=reason):
        FluidConfig(**options)


def test_misuse_is_explained():
    env = Fluid()
    with pytest.raises(UserError, match="call reset"):
        env.step(STILL)
    env.reset(seed=0)
    with pytest.raises(UserError, match="4 finite numbers"):
        env.step(np.full(4, np.nan))
    with pytest.raises(UserError, match=r"shape \(64, 20\), got \(64, 16\)"):
        env.set_state(np.zeros((64, 16)))
    with pytest.raises(UserError, match="patches in the order"):
        env.set_state(env.state()[::-1])
