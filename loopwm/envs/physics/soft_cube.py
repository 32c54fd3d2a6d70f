"""Soft cube: an elastic cube is thrown into a box, and one of its corners is pushed.

In flight it swings and turns, which is smooth. On the floor it squashes, slides and tumbles, and how many of its faces'
points touch changes within a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loopwm.envs.mujoco_labels import LABELS as LABELS
from loopwm.envs.physics.soft_body import POSITION, RATES, VELOCITY, Points, SoftBody, rotation, thrown
from loopwm.errors import UserError

__all__ = ["FEATURES", "LABELS", "RATES", "SoftCube", "SoftCubeConfig"]
FEATURES = (*POSITION, *VELOCITY, "u", "v", "w", "held")


@dataclass(frozen=True)
class SoftCubeConfig:
    """The cube, the box and the task; metres, kilograms, seconds.

    Attributes:
        side: of the cube.
        mass: of the whole cube.
        young: Young's modulus, Pa; how stiff it is.
        poisson: how much it bulges when squashed, in [0, 0.5).
        damping: seconds; how fast it stops to swing.
        half_width: walls stand at +-half_width in x and y; 0 for none.
        gravity: m/s^2, downwards.
        force: newtons on the held corner for an action component of 1.
        goal: (x, y) on the floor.
        goal_radius: the episode terminates with reward 1 when the centre of the cube, on the floor, is as near as
            this; 0 for no goal.
        max_steps: the episode is truncated after this many steps; 0 never truncates.
        dt: seconds per environment step.
        substeps: engine steps per environment step.
    """

    side: float = 0.3
    mass: float = 1.0
    young: float = 5e3
    poisson: float = 0.2
    damping: float = 0.01
    half_width: float = 0.8
    gravity: float = 9.81
    force: float = 8.0
    goal: tuple[float, float] = (0.5, 0.5)
    goal_radius: float = 0.2
    max_steps: int = 60
    dt: float = 0.05
    substeps: int = 10

    def __post_init__(self) -> None:
        if self.substeps < 1 or self.max_steps < 0:
            raise UserError("A soft cube needs substeps of at least 1 and max_steps of at least 0.")
        if min(self.side, self.mass, self.young, self.dt) <= 0 or not 0 <= self.poisson < 0.5:
            raise UserError("A soft cube needs a positive side, mass, young and dt, and a poisson in [0, 0.5).")
        if min(self.damping, self.half_width, self.gravity, self.force, self.goal_radius) < 0:
            raise UserError("A soft cube needs no negative damping, half_width, gravity, force or goal_radius.")
        if 0 < self.half_width < 1.5 * self.side:
            raise UserError(f"A soft cube of side {self.side} needs a half_width of at least {1.5 * self.side}, or 0.")


class SoftCube(SoftBody):
    """A soft cube in a box; the action is a force on one of its corners.

    Observation: (8, 10) float32: x, y, z, vx, vy, vz of each corner, the place in the cube u, v, w = +-1, and held. A
    trilinear flex: what lies between the corners follows them. The episode terminates with reward 1 once the cube is
    on the goal.
    """

    def __init__(self, config: SoftCubeConfig | None = None) -> None:
        self.config = config = config or SoftCubeConfig()
        ends = (-1.0, 1.0)
        material = np.array([(u, v, w) for u in ends for v in ends for w in ends])
        super().__init__(model_xml(config), material, (7,), config.force, config.dt, config.max_steps)

    def draw_start(self) -> tuple[Points, Points]:
        """In the air, turned any way, moving and spinning."""
        config, random = self.config, self.np_random
        turn = rotation(random.normal(size=3), random.uniform(0.0, np.pi))
        # The diagonal is the farthest that a corner reaches, whichever way the cube is turned.
        reach = 0.9 * config.side
        room = config.half_width - reach if config.half_width else 0.5
        centre = np.array([*random.uniform(-room, room, 2), reach + random.uniform(0.0, 0.5)])
        velocity = random.normal(0.0, 1.0, 3) * (1.5, 1.5, 0.7)
        return thrown(self.rest - self.rest.mean(axis=0), centre, turn, velocity, random.normal(0.0, 4.0, 3))

    def reached(self) -> bool:
        """The cube is on the goal."""
        x, y, z = self.centre
        return bool(np.hypot(x - self.config.goal[0], y - self.config.goal[1]) < self.config.goal_radius) and bool(
            z < 0.8 * self.config.side
        )


def model_xml(config: SoftCubeConfig) -> str:
    """The MuJoCo model. The implicit integrators no longer take elastic flexes; `discrete` is the one that does."""
    edge, spacing = config.half_width, config.side / 3
    walls = "".join(
        f'<geom type="plane" size="{edge} 2 .1" pos="{x * edge} {y * edge} 0" zaxis="{-x} {-y} 0"/>'
        for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1))
        if edge
    )
    return f"""
    <mujoco>
      <option integrator="discrete" solver="CG" timestep="{config.dt / config.substeps}" iterations="100"
              tolerance="1e-8" gravity="0 0 {-config.gravity}"/>
      <worldbody>
        <geom type="plane" size="5 5 .1"/>
        {walls}
        <flexcomp name="cube" type="grid" dim="3" count="4 4 4" spacing="{spacing} {spacing} {spacing}"
                  mass="{config.mass}" radius="0.005" pos="0 0 1" dof="trilinear">
          <contact selfcollide="none"/>
          <elasticity young="{config.young}" poisson="{config.poisson}" damping="{config.damping}"/>
        </flexcomp>
      </worldbody>
    </mujoco>"""
