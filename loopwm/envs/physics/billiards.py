"""Billiards: elastic discs in a box, where one environment step may hold a chain of contacts.

Free flight is easy to predict and a chain of collisions is not, and the engine tells which was which: every
transition comes with the total contact impulse and the number of contacts, so difficulty is measured, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Any

import gymnasium
import numpy as np
import pymunk

from loopwm.errors import UserError

FEATURES = ("x", "y", "vx", "vy", "cue")
RATES = (("x", "vx"), ("y", "vy"))
LABELS = ("impulse", "contacts", "ball_contacts")

_DISC, _WALL = 1, 2
# Rounding leaves about 1e-16; the gentlest real contact of a recording is far above.
_SMALLEST_IMPULSE = 1e-6


@dataclass(frozen=True)
class BilliardsConfig:
    """The table, the discs and the task. Lengths are in box units, times in seconds, every disc has mass 1.

    Attributes:
        discs: number of discs M; disc 0 is the cue, the only one the action pushes.
        radius: of every disc.
        half_width: walls stand at +-half_width in x and y.
        speed: root mean square speed per disc, over starts; with the default impulse and damping, random play keeps it.
        impulse: velocity change of the cue for an action component of 1.
        damping: share of its velocity a disc keeps over one second; 1 conserves energy between actions.
        pocket_radius: the episode terminates with reward 1 when the cue's centre ends a step this near a corner; a
            centre gets no nearer than sqrt(2) radii, so 0 closes the pockets.
        max_steps: the episode is truncated after this many steps; 0 never truncates.
        dt: seconds per environment step.
        substeps: engine steps per environment step.
        pixels: side of the square image that `render` draws.
    """

    discs: int = 6
    radius: float = 0.16
    half_width: float = 1.0
    speed: float = 1.6
    impulse: float = 0.4
    damping: float = 0.985
    pocket_radius: float = 0.28
    max_steps: int = 60
    dt: float = 0.25
    substeps: int = 25
    pixels: int = 64

    def __post_init__(self) -> None:
        if self.discs < 1 or self.substeps < 1 or self.pixels < 1 or self.max_steps < 0:
            raise UserError("Billiards needs discs, substeps and pixels of at least 1 and max_steps of at least 0.")
        if min(self.radius, self.half_width, self.dt) <= 0 or min(self.speed, self.impulse) < 0:
            raise UserError("Billiards needs a positive radius, half_width and dt, and no negative speed or impulse.")
        if not 0 < self.damping <= 1:
            raise UserError(f"Damping is the share of velocity kept over a second, in (0, 1]; got {self.damping}.")
        # Random placement by rejection stays quick only while the discs leave most of the table free.
        if self.radius >= self.half_width or self.discs * pi * self.radius**2 > 0.4 * (2 * self.half_width) ** 2:
            raise UserError(
                f"{self.discs} discs of radius {self.radius} do not fit loosely in a box of side "
                f"{2 * self.half_width}; use fewer or smaller discs."
            )


class Billiards(gymnasium.Env[np.ndarray, np.ndarray]):
    """Elastic discs in a box; the action is an impulse on disc 0.

    Observation: (M, 5) float32, an unordered set of discs with features x, y (box units), vx, vy (box units per
    second) and cue (1 for disc 0, else 0). Action: (2,) float32 in [-1, 1], clipped. `info` of a step holds the
    difficulty of that transition: `impulse` (summed contact impulse), `contacts` (impulses exchanged, disc-disc
    and disc-wall) and `ball_contacts` (disc-disc only).
    """

    def __init__(self, config: BilliardsConfig | None = None) -> None:
        self.config = config or BilliardsConfig()
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / self.config.dt)}
        self.render_mode = "rgb_array"
        # Positions are bounded by the walls, velocities by nothing.
        high = np.full((self.config.discs, len(FEATURES)), np.inf, dtype=np.float32)
        high[:, :2], high[:, 4] = self.config.half_width, 1.0
        low = -high
        low[:, 4] = 0.0
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._space: pymunk.Space | None = None
        self._bodies: list[pymunk.Body] = []
        self._impulse, self._contacts, self._ball_contacts = 0.0, 0, 0
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Place the discs at random without overlap, the cue outside the pockets, with random velocities."""
        super().reset(seed=seed)
        positions = self._draw_positions()
        # Energies differ between episodes on purpose: slow tables give easy transitions, fast ones hard.
        speed = 2.0 * self.config.speed * self.np_random.uniform(0.0, 1.0) ** 1.5
        velocities = self.np_random.normal(0.0, speed / np.sqrt(2.0), positions.shape)
        self._build(positions.astype(np.float32), velocities.astype(np.float32))
        return self.observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Push the cue, then let `dt` seconds pass.

        Raises:
            UserError: `reset` was never called, or the action is not 2 finite numbers.
        """
        if self._space is None:
            raise UserError("Billiards.step was called before reset; call reset first.")
        config = self.config
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (2,) or not np.isfinite(action).all():
            raise UserError(f"A billiards action is 2 finite numbers, got {action}.")
        push = np.clip(action, -1.0, 1.0) * config.impulse
        cue = self._bodies[0]
        cue.velocity = cue.velocity + pymunk.Vec2d(*push.tolist())
        self._impulse, self._contacts, self._ball_contacts = 0.0, 0, 0
        for _ in range(config.substeps):
            self._space.step(config.dt / config.substeps)
        self._steps += 1
        terminated = self._in_pocket(np.array(cue.position))
        truncated = not terminated and 0 < config.max_steps <= self._steps
        info = {"impulse": self._impulse, "contacts": self._contacts, "ball_contacts": self._ball_contacts}
        return self.observation(), float(terminated), terminated, truncated, info

    def observation(self) -> np.ndarray:
        """The discs now: (M, 5) float32."""
        return self.state().astype(np.float32)

    def state(self) -> np.ndarray:
        """The observation as the engine has it, in double precision: (M, 5) float64, for `set_state`."""
        return np.array([(*body.position, *body.velocity, float(i == 0)) for i, body in enumerate(self._bodies)])

    def set_state(self, observation: np.ndarray) -> None:
        """Rebuild the engine so that `observation` (M, 5) is what it shows; the step counter starts again at 0.

        Raises:
            UserError: another shape, non-finite numbers, or another disc than disc 0 marked as the cue.
        """
        observation = np.asarray(observation, dtype=np.float64)
        space = self.observation_space
        if observation.shape != space.shape or not np.isfinite(observation).all():
            raise UserError(f"A billiards state is a finite array of shape {space.shape}, got {observation.shape}.")
        if observation[0, 4] != 1 or observation[1:, 4].any():
            raise UserError("A billiards state has cue = 1 for disc 0 and 0 for every other disc.")
        self._build(observation[:, :2], observation[:, 2:4])

    def render(self) -> np.ndarray:
        """The table as (pixels, pixels, 3) uint8; see `draw`."""
        return draw(self.observation(), self.config)

    def _draw_positions(self) -> np.ndarray:
        config, reach = self.config, self.config.half_width - self.config.radius
        placed: list[np.ndarray] = []
        while len(placed) < config.discs:
            spot = self.np_random.uniform(-reach, reach, 2)
            free = all(np.linalg.norm(spot - other) > 2.05 * config.radius for other in placed)
            if free and not (not placed and self._in_pocket(spot)):
                placed.append(spot)
        return np.stack(placed)

    def _in_pocket(self, centre: np.ndarray) -> bool:
        return bool(np.linalg.norm(self.config.half_width - np.abs(centre)) < self.config.pocket_radius)

    def _build(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """A new engine each time: a reused one would carry shape ids and cached contacts into the next episode."""
        config = self.config
        space = pymunk.Space()
        space.damping = config.damping
        # The observation is the whole state only if the engine hides nothing between steps. By default it pushes
        # overlapping discs apart through a second, invisible velocity, and discs that touch again within three steps
        # start from the impulse they exchanged before (which would also be reported again). Elastic discs need neither.
        space.collision_bias = 1.0
        space.collision_persistence = 1
        self._add_walls(space)
        self._bodies = []
        for position, velocity in zip(positions.tolist(), velocities.tolist(), strict=True):
            # Without friction nothing spins, so the moment of inertia is irrelevant.
            body = pymunk.Body(mass=1.0, moment=float("inf"))
            body.position, body.velocity = tuple(position), tuple(velocity)
            disc = pymunk.Circle(body, config.radius)
            disc.elasticity, disc.friction, disc.collision_type = 1.0, 0.0, _DISC
            space.add(body, disc)
            self._bodies.append(body)
        space.on_collision(_DISC, _DISC, post_solve=self._touch_disc)
        space.on_collision(_DISC, _WALL, post_solve=self._touch_wall)
        self._space, self._steps = space, 0

    def _add_walls(self, space: pymunk.Space) -> None:
        thickness = self.config.half_width
        edge, end = self.config.half_width + thickness, self.config.half_width + 2 * thickness
        for a, b in (
            ((-edge, -end), (-edge, end)),
            ((edge, -end), (edge, end)),
            ((-end, -edge), (end, -edge)),
            ((-end, edge), (end, edge)),
        ):
            wall = pymunk.Segment(space.static_body, a, b, thickness)
            wall.elasticity, wall.friction, wall.collision_type = 1.0, 0.0, _WALL
            space.add(wall)

    def _touch_disc(self, arbiter: pymunk.Arbiter, space: pymunk.Space, data: Any) -> None:
        self._ball_contacts += self._touch(arbiter)

    def _touch_wall(self, arbiter: pymunk.Arbiter, space: pymunk.Space, data: Any) -> None:
        self._touch(arbiter)

    def _touch(self, arbiter: pymunk.Arbiter) -> bool:
        """Count a contact. Discs that still overlap while moving apart exchange nothing and are not in contact."""
        impulse = arbiter.total_impulse.length
        touching = impulse > _SMALLEST_IMPULSE
        self._impulse += impulse
        self._contacts += touching
        return touching


def aim(observation: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An action (2,) that pushes the cue of `observation` (M, 5) towards the corner it will be nearest to, roughly."""
    config = BilliardsConfig()
    x, y, vx, vy, _ = observation[observation[:, 4].argmax()]
    later = np.array([x, y]) + config.dt * np.array([vx, vy])
    way = np.copysign(config.half_width, later) - later
    push = way / np.linalg.norm(way) + generator.normal(0.0, 0.3, 2)
    return push.clip(-1.0, 1.0).astype(np.float32)


def draw(observation: np.ndarray, config: BilliardsConfig) -> np.ndarray:
    """Rasterise discs (M, 5) to (pixels, pixels, 3) uint8: white cue, coloured discs, y upwards.

    Works on any observation of this shape, an imagined one included; no graphics library is involved.
    """
    side = config.pixels
    centres = (np.arange(side) + 0.5) / side * 2 * config.half_width - config.half_width
    x, y = centres, -centres
    image = np.empty((side, side, 3), dtype=np.float32)
    image[:] = _TABLE
    # One pixel of ramp at the rim keeps sub-pixel motion visible.
    pixel = 2 * config.half_width / side
    for i, (px, py) in enumerate(np.asarray(observation)[:, :2].tolist()):
        # Only the pixels that the disc can reach, a twentieth of them.
        reach = config.radius + pixel
        columns, rows = (np.flatnonzero(np.abs(axis - at) <= reach) for axis, at in ((x, px), (y, py)))
        if not len(columns) or not len(rows):
            continue
        box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        distance = np.sqrt((x[columns] - px) ** 2 + (y[rows, None] - py) ** 2)
        cover = ((config.radius - distance) / pixel + 0.5).clip(0.0, 1.0)[..., None]
        box += cover * (_COLOURS[i % len(_COLOURS)] - box)
    return image.round().astype(np.uint8)


_TABLE = np.array((24, 60, 48), dtype=np.float32)
_COLOURS = np.array(
    ((245, 245, 240), (230, 159, 0), (86, 180, 233), (240, 228, 66), (213, 94, 0), (204, 121, 167)), dtype=np.float32
)
