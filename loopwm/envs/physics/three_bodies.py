"""Three bodies under their mutual gravity, where one environment step may hold a close encounter.

Far from each other the bodies move almost as if alone, and when two pass close by, a small difference before becomes a
large one after. The adaptive integrator tells which was which: what it has to spend on a step is recorded with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from scipy.integrate import DOP853

from loopwm.errors import LoopwmError, UserError

FEATURES = ("x", "y", "vx", "vy", "mass", "controlled")
RATES = (("x", "vx"), ("y", "vy"))
LABELS = ("evaluations", "proximity")

Array = npt.NDArray[np.float64]

_BODIES = 3
_PAIRS = ((0, 1), (0, 2), (1, 2))
_SAMPLES = 16
"""Instants of an integrator step at which the distances are looked at."""
_ATTEMPTS = 10_000
# Keeps the label finite when two soft bodies pass through each other's centres.
_NEAREST = 1e-6


@dataclass(frozen=True)
class ThreeBodiesConfig:
    """The bodies and the task. The gravitational constant is 1; lengths, masses and times are in units to match.

    Attributes:
        mass_low, mass_high: masses are drawn between these, anew in every episode.
        size: bodies start uniformly in a disc of this radius around their centre of mass, which is at rest.
        kinetic_low, kinetic_high: kinetic energy over the size of the potential energy at the start; 0.5 would be the
            long-time average of a bound system, below it the bodies first fall together, and from 1 on nothing holds.
        turning: share of rotation about the centre of mass in the starting velocities, beside chance of size 1. With
            none, bodies soon meet.
        impulse: momentum that an action component of 1 gives to body 0.
        softening: bodies attract as Plummer's spheres of this radius do, which keeps even a head-on encounter finite;
            0 is Newton's law for points.
        collision: the episode terminates when two centres come this near; 0 never.
        reach: the episode terminates when a body is further than this from the centre of mass of the three; 0 never.
        fuel: reward that the largest impulse costs.
        max_steps: the episode is truncated after this many steps; 0 never truncates.
        dt: time per environment step.
        tolerance: relative error that the integrator allows itself in one of its steps; absolute, a tenth of that.
        pixels: side of the square image that `render` draws.
    """

    mass_low: float = 0.5
    mass_high: float = 1.5
    size: float = 1.0
    kinetic_low: float = 0.3
    kinetic_high: float = 0.6
    turning: float = 4.0
    impulse: float = 0.1
    softening: float = 0.15
    collision: float = 0.02
    reach: float = 3.0
    fuel: float = 0.2
    max_steps: int = 60
    dt: float = 0.2
    tolerance: float = 1e-9
    pixels: int = 64

    def __post_init__(self) -> None:
        if not 0 < self.mass_low <= self.mass_high or not 0 <= self.kinetic_low <= self.kinetic_high:
            raise UserError("Three bodies need 0 < mass_low <= mass_high and 0 <= kinetic_low <= kinetic_high.")
        if min(self.size, self.dt, self.pixels) <= 0 or self.max_steps < 0:
            raise UserError("Three bodies need a positive size, dt and pixels, and max_steps of at least 0.")
        if min(self.turning, self.impulse, self.softening, self.collision, self.reach, self.fuel) < 0:
            raise UserError("Three bodies need a turning, impulse, softening, collision, reach and fuel of at least 0.")
        if not 1e-13 <= self.tolerance <= 1e-3:
            raise UserError(f"The integrator's tolerance is between 1e-13 and 1e-3, got {self.tolerance}.")
        # Random placement by rejection stays quick only while there is room.
        if self.apart > 0.5 * self.size or 0 < self.reach < 2 * self.size:
            raise UserError(
                f"Softening {self.softening}, collision {self.collision} and reach {self.reach} leave no room for a "
                f"start of size {self.size}; use a softening of at most size / 2, a collision of at most size / 4, and "
                "a reach of at least 2 sizes, or 0."
            )

    @property
    def apart(self) -> float:
        """Bodies start further apart than this, so that no episode begins with its end."""
        return max(self.softening, 2 * self.collision)


class ThreeBodies(gymnasium.Env[np.ndarray, np.ndarray]):
    """Planar gravitation of three bodies; the action is an impulse on body 0.

    Observation: (3, 6) float32, an unordered set of bodies with features x, y, vx, vy, mass and controlled (1 for body
    0, else 0). Action: (2,) float32 in [-1, 1], clipped, times `impulse` added to the momentum of body 0. A step that
    all three survive together has reward 1 less the fuel, `fuel` |a|^2 / 2; one in which two collide or one escapes has
    none of the 1 and terminates the episode. Every step lasts `dt` whatever happens in it.

    `info` of a step holds the difficulty of that transition: `evaluations` of the right-hand side that the adaptive
    integrator needed, and `proximity`, 1 over the closest approach of any two bodies.
    """

    def __init__(self, config: ThreeBodiesConfig | None = None) -> None:
        self.config = config or ThreeBodiesConfig()
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": max(1, round(1 / self.config.dt))}
        self.render_mode = "rgb_array"
        high = np.full((_BODIES, len(FEATURES)), np.inf, dtype=np.float32)
        high[:, 5] = 1.0
        low = -high
        low[:, 4:] = 0.0
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._motion = np.empty(0)
        self._masses = np.empty(0)
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Masses, places and velocities at random; the centre of mass is at rest in the origin."""
        super().reset(seed=seed)
        config = self.config
        masses = self.np_random.uniform(config.mass_low, config.mass_high, _BODIES)
        positions = self._draw_positions(masses)
        # Turning about the centre of mass keeps them apart for a while; the rest is chance.
        turning = positions @ np.array(((0.0, 1.0), (-1.0, 0.0))) * self.np_random.choice((-1.0, 1.0))
        velocities = centred(config.turning * turning + self.np_random.normal(size=(_BODIES, 2)), masses)
        share = self.np_random.uniform(config.kinetic_low, config.kinetic_high)
        wanted = -share * potential_energy(positions, masses, config.softening)
        velocities *= np.sqrt(wanted / kinetic_energy(velocities, masses))
        state = np.column_stack([positions, velocities, masses, _CONTROLLED])
        # What is observed is exactly where it starts from, in single precision too.
        self.set_state(state.astype(np.float32))
        return self.observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Give body 0 its impulse, then let `dt` pass.

        Raises:
            UserError: `reset` was never called, or the action is not 2 finite numbers.
            LoopwmError: the integrator gave up, which takes a head-on encounter without softening.
        """
        if not len(self._masses):
            raise UserError("ThreeBodies.step was called before reset; call reset first.")
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (2,) or not np.isfinite(action).all():
            raise UserError(f"An action on three bodies is 2 finite numbers, got {action}.")
        config, thrust = self.config, np.clip(action, -1.0, 1.0)
        self._motion[6:8] += config.impulse * thrust / self._masses[0]
        self._motion, evaluations, approach = integrated(
            self._motion, self._masses, config.dt, config.softening, config.tolerance
        )
        self._steps += 1
        terminated = approach < config.collision or self._escaped()
        truncated = not terminated and 0 < config.max_steps <= self._steps
        reward = float(not terminated) - config.fuel * float(thrust @ thrust) / 2
        info = {"evaluations": evaluations, "proximity": 1.0 / max(approach, _NEAREST)}
        return self.observation(), reward, terminated, truncated, info

    def observation(self) -> np.ndarray:
        """The bodies now: (3, 6) float32."""
        return self.state().astype(np.float32)

    def state(self) -> np.ndarray:
        """The observation as the engine has it, in double precision: (3, 6) float64, for `set_state`."""
        positions, velocities = self._motion.reshape(2, _BODIES, 2)
        return np.column_stack([positions, velocities, self._masses, _CONTROLLED])

    def set_state(self, observation: np.ndarray) -> None:
        """Go on from `observation` (3, 6); the step counter starts again at 0.

        Raises:
            UserError: another shape, non-finite numbers, a mass that is not positive, or another body than body 0
                marked as controlled.
        """
        observation = np.asarray(observation, dtype=np.float64)
        shape = self.observation_space.shape
        if observation.shape != shape or not np.isfinite(observation).all():
            raise UserError(f"A state of three bodies is a finite array of shape {shape}, got {observation.shape}.")
        if (observation[:, 4] <= 0).any() or (observation[:, 5] != _CONTROLLED).any():
            raise UserError("A state of three bodies has positive masses, and controlled = 1 for body 0 alone.")
        self._motion = np.concatenate([observation[:, :2].ravel(), observation[:, 2:4].ravel()])
        self._masses, self._steps = observation[:, 4].copy(), 0

    def render(self) -> np.ndarray:
        """The bodies as (pixels, pixels, 3) uint8; see `draw`."""
        return draw(self.observation(), self.config)

    def _draw_positions(self, masses: Array) -> Array:
        config = self.config
        for _ in range(_ATTEMPTS):
            radius = config.size * np.sqrt(self.np_random.uniform(0.0, 1.0, _BODIES))
            angle = self.np_random.uniform(0.0, 2 * np.pi, _BODIES)
            positions = centred(np.column_stack([radius * np.cos(angle), radius * np.sin(angle)]), masses)
            if min(np.linalg.norm(positions[i] - positions[j]) for i, j in _PAIRS) > config.apart:
                return positions
        raise AssertionError("the config was supposed to leave room")

    def _escaped(self) -> bool:
        positions = centred(self._motion[:6].reshape(_BODIES, 2), self._masses)
        return self.config.reach > 0 and bool(np.linalg.norm(positions, axis=1).max() > self.config.reach)


_CONTROLLED = np.array((1.0, 0.0, 0.0))


def integrated(motion: Array, masses: Array, dt: float, softening: float, tolerance: float) -> tuple[Array, int, float]:
    """Positions and velocities (12,) after `dt`, the evaluations of the right-hand side, and the closest approach.

    An integrator is made anew for every step, so that what it needs depends on the state alone.
    """
    solver = DOP853(attraction(masses, softening), 0.0, motion, dt, rtol=tolerance, atol=tolerance / 10)
    before, closest = (solver.y, np.array(solver.f)), np.inf
    while solver.status == "running":
        begun = solver.t
        solver.step()
        if solver.status == "failed":
            raise LoopwmError("Two bodies met head-on and the integrator gave up; use a softening above 0.")
        after = solver.y, np.array(solver.f)
        closest = min(closest, closest_approach(before, after, solver.t - begun))
        before = after
    return np.array(solver.y), int(solver.nfev), closest


def attraction(masses: Array, softening: float) -> Callable[[float, Array], Sequence[float]]:
    """The right-hand side (t, y) -> dy/dt of the motion, y (12,) = positions, then velocities, body by body.

    Written out in plain numbers: for three bodies that is several times as fast as arrays.
    """
    m1, m2, m3 = masses.tolist()
    squared = softening**2

    def derivative(t: float, y: Array) -> Sequence[float]:
        x1, y1, x2, y2, x3, y3, *velocities = y.tolist()
        ax, ay, bx, by, cx, cy = x2 - x1, y2 - y1, x3 - x1, y3 - y1, x3 - x2, y3 - y2
        a = (ax * ax + ay * ay + squared) ** -1.5
        b = (bx * bx + by * by + squared) ** -1.5
        c = (cx * cx + cy * cy + squared) ** -1.5
        return (
            *velocities,
            m2 * a * ax + m3 * b * bx,
            m2 * a * ay + m3 * b * by,
            m3 * c * cx - m1 * a * ax,
            m3 * c * cy - m1 * a * ay,
            -m1 * b * bx - m2 * c * cx,
            -m1 * b * by - m2 * c * cy,
        )

    return derivative


def closest_approach(before: tuple[Array, Array], after: tuple[Array, Array], elapsed: float) -> float:
    """Smallest distance of any two bodies on the way from one (motion, its derivative) to another, each (12,).

    Between them the bodies follow the polynomials of degree 5 that have the positions, velocities and accelerations of
    both ends: as accurate as is needed here, and no further evaluation is spent.
    """
    ends = []
    for (motion, derivative), scale in ((before, elapsed), (after, elapsed)):
        ends += [motion[:6], scale * motion[6:], scale**2 * derivative[6:]]
    positions = (_HERMITE @ np.array(ends)).reshape(-1, _BODIES, 2)
    return min(float(np.linalg.norm(positions[:, i] - positions[:, j], axis=1).min()) for i, j in _PAIRS)


def _hermite(at: Array) -> Array:
    """(n, 6) weights of value, slope and curvature at 0 and at 1, of the quintic through them at n places."""
    powers = np.vander(at, 6, increasing=True)
    conditions = np.zeros((6, 6))
    for row, (place, order) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]):
        for power in range(order, 6):
            factor = np.prod(np.arange(power - order + 1, power + 1))
            conditions[row, power] = factor * float(place) ** (power - order)
    return powers @ np.linalg.inv(conditions)


_HERMITE = _hermite(np.linspace(0.0, 1.0, _SAMPLES + 1))


def centred(values: Array, masses: Array) -> Array:
    """Positions or velocities (3, 2) relative to those of the centre of mass."""
    return values - masses @ values / masses.sum()


def kinetic_energy(velocities: Array, masses: Array) -> float:
    """Of all bodies, velocities (3, 2)."""
    return float(0.5 * masses @ (velocities**2).sum(axis=1))


def potential_energy(positions: Array, masses: Array, softening: float) -> float:
    """Of all pairs, positions (3, 2); negative."""
    gaps = [np.sqrt(((positions[i] - positions[j]) ** 2).sum() + softening**2) for i, j in _PAIRS]
    return -float(sum(masses[i] * masses[j] / gap for (i, j), gap in zip(_PAIRS, gaps, strict=True)))


def draw(observation: np.ndarray, config: ThreeBodiesConfig) -> np.ndarray:
    """Rasterise bodies (3, 6) to (pixels, pixels, 3) uint8: white the controlled one, area by mass, y upwards.

    The picture follows the centre of mass. Works on any observation of this shape, an imagined one included.
    """
    side, half = config.pixels, config.reach or 3 * config.size
    bodies = np.asarray(observation, np.float64)
    masses = np.maximum(bodies[:, 4], 0.05)
    places = (np.arange(side) + 0.5) / side * 2 * half - half
    image = np.empty((side, side, 3), dtype=np.float64)
    image[:] = _SKY
    for colour, (px, py), mass in zip(_COLOURS, centred(bodies[:, :2], masses), masses, strict=True):
        distance = np.hypot(places[None, :] - px, -places[:, None] - py)
        cover = np.clip((half / 12 * np.sqrt(mass) - distance) / (2 * half / side) + 0.5, 0.0, 1.0)[..., None]
        image += cover * (colour - image)
    return image.round().astype(np.uint8)


_SKY = np.array((12, 14, 34), dtype=np.float64)
_COLOURS = np.array(((245, 245, 240), (230, 159, 0), (86, 180, 233)), dtype=np.float64)
