"""Cloth: a square of 9 x 9 points falls over a ball, and two of its corners are pulled.

Every edge is a constraint that the engine's solver has to meet, all of them together. A cloth that is pulled taut,
folds or touches takes many iterations of it, one that falls freely none, and the engine says how many there were.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loopwm.envs.mujoco_labels import LABELS as LABELS
from loopwm.envs.physics.soft_body import POSITION, RATES, VELOCITY, Points, SoftBody, rotation, thrown
from loopwm.errors import UserError

__all__ = ["FEATURES", "LABELS", "RATES", "Cloth", "ClothConfig"]
FEATURES = (*POSITION, *VELOCITY, "u", "v", "held")


@dataclass(frozen=True)
class ClothConfig:
    """The cloth, the ball and the task; metres, kilograms, seconds.

    Attributes:
        side: points along each side; the cloth has side * side of them.
        spacing: between neighbours.
        mass: of the whole cloth.
        thickness: radius of what collides around each point and triangle.
        edge_damping: N s/m along every edge, so that a cloth comes to rest.
        ball_radius: of the ball that lies on the floor in the middle; 0 for none.
        gravity: m/s^2, downwards.
        pinned: points fixed where they start, by index, row after row; the corners are 0, side - 1, ...
        force: newtons on a held corner for an action component of 1.
        max_steps: the episode is truncated after this many steps; 0 never truncates.
        dt: seconds per environment step.
        substeps: engine steps per environment step.
    """

    side: int = 9
    spacing: float = 0.1
    mass: float = 0.2
    thickness: float = 0.015
    edge_damping: float = 0.02
    ball_radius: float = 0.25
    gravity: float = 9.81
    pinned: tuple[int, ...] = ()
    force: float = 0.15
    max_steps: int = 60
    dt: float = 0.04
    substeps: int = 8

    def __post_init__(self) -> None:
        if self.side < 2 or self.substeps < 1 or self.max_steps < 0:
            raise UserError("Cloth needs a side of at least 2, substeps of at least 1 and max_steps of at least 0.")
        if min(self.spacing, self.mass, self.thickness, self.dt) <= 0:
            raise UserError("Cloth needs a positive spacing, mass, thickness and dt.")
        if min(self.edge_damping, self.ball_radius, self.gravity, self.force) < 0:
            raise UserError("Cloth needs no negative edge_damping, ball_radius, gravity or force.")
        corners = set(self.held)
        if any(point in corners or not 0 <= point < self.side**2 for point in self.pinned):
            raise UserError(f"Pinned points are indices below {self.side**2} other than the held {self.held}.")

    @property
    def held(self) -> tuple[int, ...]:
        """The two ends of the first row."""
        return (0, self.side - 1)


class Cloth(SoftBody):
    """Cloth over a ball; the action is a force on each of two corners.

    Observation: (81, 9) float32: x, y, z, vx, vy, vz, the place in the cloth u, v in [-1, 1], and held. The episode
    terminates with reward 1 once the cloth is off the ball: no point is as high as half the ball.
    """

    def __init__(self, config: ClothConfig | None = None) -> None:
        self.config = config = config or ClothConfig()
        ticks = np.linspace(-1.0, 1.0, config.side)
        material = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2)
        super().__init__(model_xml(config), material, config.held, config.force, config.dt, config.max_steps)

    def draw_start(self) -> tuple[Points, Points]:
        """In the air above the ball, tilted, turning and moving."""
        config, random = self.config, self.np_random
        if config.pinned:
            return self.rest.copy(), np.zeros_like(self.rest)
        tilt = rotation(np.array([*random.normal(size=2), 0.0]), random.uniform(0.0, 0.6))
        turn = tilt @ rotation(np.array([0.0, 0.0, 1.0]), random.uniform(0.0, 2 * np.pi))
        shape = self.rest - self.rest.mean(axis=0)
        drop = (shape @ turn.T)[:, 2].min()
        height = 2 * config.ball_radius + random.uniform(0.05, 0.35) - drop
        centre = np.array([*random.uniform(-0.3, 0.3, 2), height])
        return thrown(shape, centre, turn, random.normal(0.0, 0.5, 3), random.normal(0.0, 1.0, 3))

    def reached(self) -> bool:
        """The cloth is off the ball."""
        return bool(self.positions[:, 2].max() < self.config.ball_radius)


def model_xml(config: ClothConfig) -> str:
    """The MuJoCo model.

    Conjugate gradients, because their count of iterations tells more than Newton's few. Edges are as stiff as the time
    step allows (`solref`); a tighter tolerance costs iterations and moves the points by less than they stretch anyway.
    """
    pins = f'<pin id="{" ".join(map(str, config.pinned))}"/>' if config.pinned else ""
    ball = (
        f'<geom type="sphere" size="{config.ball_radius}" pos="0 0 {config.ball_radius}"/>'
        if config.ball_radius
        else ""
    )
    return f"""
    <mujoco>
      <option integrator="discrete" solver="CG" timestep="{config.dt / config.substeps}" iterations="200"
              tolerance="1e-4" gravity="0 0 {-config.gravity}"/>
      <worldbody>
        <geom type="plane" size="5 5 .1"/>
        {ball}
        <flexcomp name="cloth" type="grid" dim="2" count="{config.side} {config.side} 1" mass="{config.mass}"
                  spacing="{config.spacing} {config.spacing} 1" radius="{config.thickness}"
                  pos="0 0 {2 * config.ball_radius + config.side * config.spacing}">
          <edge equality="true" solref="{2.0 * config.dt / config.substeps} 1" damping="{config.edge_damping}"/>
          <contact selfcollide="none"/>
          {pins}
        </flexcomp>
      </worldbody>
    </mujoco>"""
