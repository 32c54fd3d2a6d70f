"""A stirred fluid: plane incompressible flow, periodic in both directions, on a grid of vorticities.

Slow, smooth vorticity only fades, and fast flow rolls it up into ever finer threads. How much a step is of the second
kind is measured: the engine takes it twice, with long and with short time steps, and the difference is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from loopwm.envs.physics.flow import GRID, SIDE, Flow, relative_error
from loopwm.errors import UserError

PATCH = 4
"""Cells along a side of a patch."""
ROWS = GRID // PATCH
FEATURES = (
    *(f"w{row}{column}" for row in range(PATCH) for column in range(PATCH)),
    *("cos_x", "sin_x", "cos_y", "sin_y"),
)
LABELS = ("doubling", "energy", "enstrophy")

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FluidConfig:
    """The fluid, the paddle and the task. The box has side 2 pi, the density is 1, and so are the units.

    Attributes:
        viscosity: kinematic; a wave of wave number k fades at the rate viscosity k^2.
        drag: rate at which friction with the ground slows everything down.
        vorticity_low, vorticity_high: root mean square vorticity of a start; its logarithm is drawn between theirs.
        wave_low, wave_high: wave number around which a start has its vortices, drawn between these.
        force: acceleration in the middle of the paddle, for an action component of 1.
        paddle: radius of the paddle.
        effort: reward that the strongest push costs.
        max_steps: the episode is truncated after this many steps; 0 never truncates.
        dt: time per environment step.
        substeps: coarse engine steps per environment step, which the label judges. The world itself makes twice as
            many, and more where the flow is too fast for that.
        pixels: side of the square image that `render` draws.
    """

    viscosity: float = 0.004
    drag: float = 0.02
    vorticity_low: float = 0.3
    vorticity_high: float = 4.0
    wave_low: float = 1.5
    wave_high: float = 5.0
    force: float = 6.0
    paddle: float = 0.4
    effort: float = 0.5
    max_steps: int = 60
    dt: float = 0.4
    substeps: int = 3
    pixels: int = 64

    def __post_init__(self) -> None:
        if min(self.viscosity, self.drag, self.force, self.effort) < 0 or self.max_steps < 0:
            raise UserError("A fluid needs a viscosity, drag, force, effort and max_steps of at least 0.")
        if min(self.dt, self.paddle) <= 0 or self.pixels < 1:
            raise UserError("A fluid needs a positive dt, paddle and pixels.")
        if not 0 < self.vorticity_low <= self.vorticity_high or not 1 <= self.wave_low <= self.wave_high <= GRID // 4:
            raise UserError(
                "A fluid needs 0 < vorticity_low <= vorticity_high and 1 <= wave_low <= wave_high <= "
                f"{GRID // 4}, finer vortices do not fit its grid of {GRID} x {GRID}."
            )
        if self.substeps < 1:
            raise UserError(f"A fluid needs at least 1 substep, got {self.substeps}.")


class Fluid(gymnasium.Env[np.ndarray, np.ndarray]):
    """A stirred fluid; the action puts a paddle somewhere and pushes.

    Observation: (64, 20) float32, a set of patches in no order. Patch (i, j) covers cells 4i..4i+3 along x and
    4j..4j+3 along y: its 16 vorticities w00..w33, x before y, and where its middle is, as cosine and sine of x and y
    because the box has no edges. Action: (4,) float32 in [-1, 1], clipped: the paddle's x and y in units of pi, and
    the acceleration along x and y in units of `force`, constant over the step. The reward is the enstrophy after the
    step, half the mean square vorticity, less the effort, `effort` |push|^2 / 2. Nothing terminates an episode.

    `info` of a step holds the difficulty of that transition: `doubling`, the error of taking it in `substeps` engine
    steps, by comparison with twice as many, relative to the vorticity and at most 1; and `energy` and `enstrophy` per
    area at its end.
    """

    def __init__(self, config: FluidConfig | None = None) -> None:
        self.config = config or FluidConfig()
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": max(1, round(1 / self.config.dt))}
        self.render_mode = "rgb_array"
        high = np.full((ROWS**2, len(FEATURES)), np.inf, dtype=np.float32)
        high[:, PATCH**2 :] = 1.0
        self.observation_space = gymnasium.spaces.Box(-high, high, dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self._flow = Flow(self.config.viscosity, self.config.drag, self.config.dt, self.config.substeps)
        self._vorticity = np.empty((0, 0))
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Vortices of random size, strength and place."""
        super().reset(seed=seed)
        config = self.config
        strength = np.exp(self.np_random.uniform(np.log(config.vorticity_low), np.log(config.vorticity_high)))
        wave = self.np_random.uniform(config.wave_low, config.wave_high)
        kx, ky = np.meshgrid(np.fft.fftfreq(GRID, 1 / GRID), np.fft.rfftfreq(GRID, 1 / GRID), indexing="ij")
        spectrum = np.fft.rfft2(self.np_random.normal(size=(GRID, GRID)))
        spectrum *= np.exp(-((np.hypot(kx, ky) - wave) ** 2) / 2)
        spectrum[0, 0] = 0.0
        field = np.fft.irfft2(spectrum, s=(GRID, GRID))
        field *= strength / np.sqrt((field**2).mean())
        # What is observed is exactly where it starts from, in single precision too.
        self.set_state(patches(field).astype(np.float32))
        return self.observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Push with the paddle for `dt`.

        Raises:
            UserError: `reset` was never called, or the action is not 4 finite numbers.
            LoopwmError: the flow became too fast for any reasonable number of engine steps.
        """
        if not self._vorticity.size:
            raise UserError("Fluid.step was called before reset; call reset first.")
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (4,) or not np.isfinite(action).all():
            raise UserError(f"An action on the fluid is 4 finite numbers, got {action}.")
        config, action = self.config, np.clip(action, -1.0, 1.0)
        stirring = paddle_curl(pi * action[:2], config.force * action[2:], config.paddle)
        fine, coarse = self._flow.advanced(self._vorticity, stirring)
        self._vorticity = fine
        self._steps += 1
        truncated = 0 < config.max_steps <= self._steps
        enstrophy = float((fine**2).mean()) / 2
        info = {
            "doubling": relative_error(coarse, fine),
            "energy": self._flow.energy(fine),
            "enstrophy": enstrophy,
        }
        return (
            self.observation(),
            enstrophy - config.effort * float(action[2:] @ action[2:]) / 2,
            False,
            truncated,
            info,
        )

    def vorticity(self) -> Array:
        """The field (32, 32) now, x before y."""
        return self._vorticity.copy()

    def velocity(self) -> Array:
        """The flow (2, 32, 32) now, along x and y."""
        return self._flow.velocity(self._vorticity)

    def observation(self) -> np.ndarray:
        """The patches now: (64, 20) float32."""
        return self.state().astype(np.float32)

    def state(self) -> np.ndarray:
        """The observation as the engine has it, in double precision: (64, 20) float64, for `set_state`."""
        return patches(self._vorticity)

    def set_state(self, observation: np.ndarray) -> None:
        """Go on from `observation` (64, 20); the step counter starts again at 0.

        Raises:
            UserError: another shape, non-finite numbers, or patches that are not where patches are.
        """
        observation = np.asarray(observation, dtype=np.float64)
        shape = self.observation_space.shape
        if observation.shape != shape or not np.isfinite(observation).all():
            raise UserError(f"A state of the fluid is a finite array of shape {shape}, got {observation.shape}.")
        if np.abs(observation[:, PATCH**2 :] - _PLACES).max() > 1e-5:
            raise UserError(
                "A state of the fluid has its patches in the order of `reset`, with their places unchanged."
            )
        self._vorticity, self._steps = assembled(observation), 0

    def render(self) -> np.ndarray:
        """The vorticity as (pixels, pixels, 3) uint8; see `draw`."""
        return draw(self.observation(), self.config)


_CELLS = np.arange(GRID) * (SIDE / GRID)
_MIDDLES = (np.arange(ROWS) + 0.5) * (SIDE / ROWS) - 0.5 * (SIDE / GRID)
_X, _Y = (axis.ravel() for axis in np.meshgrid(_MIDDLES, _MIDDLES, indexing="ij"))
_PLACES = np.column_stack([np.cos(_X), np.sin(_X), np.cos(_Y), np.sin(_Y)])


def patches(field: Array) -> Array:
    """A field (32, 32) as the observation (64, 20) float64."""
    cut = field.reshape(ROWS, PATCH, ROWS, PATCH).transpose(0, 2, 1, 3).reshape(ROWS**2, PATCH**2)
    return np.concatenate([cut, _PLACES], axis=1)


def assembled(observation: np.ndarray) -> Array:
    """The field (32, 32) of an observation (64, 20); the inverse of `patches`."""
    cut = np.asarray(observation, np.float64)[:, : PATCH**2].reshape(ROWS, ROWS, PATCH, PATCH)
    return cut.transpose(0, 2, 1, 3).reshape(GRID, GRID)


def paddle_curl(middle: Array, force: Array, radius: float) -> Array:
    """The vorticity (32, 32) that a paddle adds per time.

    The force is `force` (2,) times a bump around `middle` (2,), which is Gaussian near by and periodic: its logarithm
    is (cos(x - x0) + cos(y - y0) - 2) / radius^2.
    """
    x, y = _CELLS[:, None] - middle[0], _CELLS[None, :] - middle[1]
    bump = np.exp((np.cos(x) + np.cos(y) - 2) / radius**2)
    return (force[0] * np.sin(y) - force[1] * np.sin(x)) * bump / radius**2


def draw(observation: np.ndarray, config: FluidConfig) -> np.ndarray:
    """Vorticity (64, 20) as (pixels, pixels, 3) uint8: red turns to the left, blue to the right, y upwards.

    Works on any observation of this shape, an imagined one included.
    """
    cell = np.arange(config.pixels) * GRID // config.pixels
    field = assembled(observation)[cell][:, cell[::-1]].T / config.vorticity_high
    share = np.clip(np.abs(field), 0.0, 1.0)[..., None]
    colour = np.where(field[..., None] > 0, _LEFT, _RIGHT)
    return (_CALM + share * (colour - _CALM)).round().astype(np.uint8)


_CALM = np.array((245, 245, 245), dtype=np.float64)
_LEFT, _RIGHT = np.array((178, 24, 43), dtype=np.float64), np.array((33, 102, 172), dtype=np.float64)
