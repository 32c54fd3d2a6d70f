"""What cloth and soft-cube have in common: points of a MuJoCo flex that move freely, some of which the action pulls.

Every point is an entity. It has three sliding joints and no rotation, so positions and velocities of all points are the
engine's whole state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from loopwm.envs.mujoco_labels import Difficulty, engine
from loopwm.errors import UserError

POSITION, VELOCITY = ("x", "y", "z"), ("vx", "vy", "vz")
RATES = tuple(zip(POSITION, VELOCITY, strict=True))
Points = npt.NDArray[np.float64]


class SoftBody(gymnasium.Env[np.ndarray, np.ndarray], ABC):
    """Points of one flex; the action is a force on each held point.

    Observation: (M, 6 + C + 1) float32, a set of points with position (m), velocity (m/s), C material coordinates in
    [-1, 1] that say where in the body a point sits, and `held`, 1 where the action pulls. Action: (3 H,) float32 in
    [-1, 1], clipped: x, y, z of the force on each held point, constant during the step, in units of `force`. `info` of
    a step holds the labels of `mujoco_labels`.

    Subclasses say how an episode starts and when it ends.

    Args:
        xml: MuJoCo model whose only moving parts are the points of one flex, gravity along z.
        material: (M, C) material coordinates.
        held: indices of the points that the action pulls.
        force: newtons for an action component of 1.
        dt: seconds per environment step, a multiple of the model's time step.
        max_steps: the episode is truncated after this many; 0 never truncates.
    """

    def __init__(
        self, xml: str, material: Points, held: tuple[int, ...], force: float, dt: float, max_steps: int
    ) -> None:
        mujoco = engine()
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)
        self._engine_step, self._restart = mujoco.mj_step, mujoco.mj_resetData
        # A point that is pinned is part of the world and has no joints.
        owner = self.model.flex_nodebodyid if self.model.nflexnode else self.model.flex_vertbodyid
        self.free = np.flatnonzero(self.model.body_dofnum[owner] == 3)
        if len(owner) != len(material) or 3 * len(self.free) != self.model.nv:
            raise UserError(f"A soft body of {len(material)} points got a model with {len(owner)}.")
        mujoco.mj_kinematics(self.model, self.data)
        # A pinned point of a grid shares the world's body: where it is, only the flex knows.
        mujoco.mj_flex(self.model, self.data)
        self.rest = np.array(self.data.xpos[owner] if self.model.nflexnode else self.data.flexvert_xpos)
        self.masses = np.zeros(len(owner))
        self.masses[self.free] = self.model.body_mass[owner[self.free]]
        self._material, self._held, self._force, self.max_steps = material, held, force, max_steps
        self.dt, self._substeps = dt, round(dt / self.model.opt.timestep)
        self._pulled = np.concatenate([self.model.body_dofadr[owner[point]] + np.arange(3) for point in held])
        self._difficulty = Difficulty(self.model)
        flags = np.zeros((len(owner), 1))
        flags[list(held)] = 1.0
        self._marks = np.concatenate([material, flags], axis=1)
        high = np.full((len(owner), 6 + self._marks.shape[1]), np.inf, np.float32)
        high[:, 6:] = 1.0
        low = -high
        low[:, -1] = 0.0
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (3 * len(held),), np.float32)
        self._steps = -1

    @abstractmethod
    def draw_start(self) -> tuple[Points, Points]:
        """Positions (M, 3) and velocities (M, 3) of a new episode, drawn with `self.np_random`."""

    @abstractmethod
    def reached(self) -> bool:
        """Whether the task is done, which ends the episode with reward 1."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """A new start, drawn at random."""
        super().reset(seed=seed)
        self._place(*self.draw_start())
        return self.observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Pull for `dt` seconds.

        Raises:
            UserError: `reset` was never called, or the action is not 3 finite numbers per held point.
        """
        if self._steps < 0:
            raise UserError(f"{type(self).__name__}.step was called before reset; call reset first.")
        action = np.asarray(action, np.float64)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise UserError(f"An action is {3 * len(self._held)} finite numbers here, got {action}.")
        model, data, step, read = self.model, self.data, self._engine_step, self._difficulty.read
        self._difficulty.clear()
        data.qfrc_applied[self._pulled] = np.clip(action, -1.0, 1.0) * self._force
        # The solver starts from the last accelerations, which nobody observes. Without them a transition depends on
        # nothing but the observation and the action.
        data.qacc_warmstart[:] = 0.0
        for _ in range(self._substeps):
            step(model, data)
            read(data)
        self._steps += 1
        terminated = self.reached()
        truncated = not terminated and 0 < self.max_steps <= self._steps
        return self.observation(), float(terminated), terminated, truncated, self._difficulty.labels()

    @property
    def positions(self) -> Points:
        """(M, 3), metres."""
        positions = self.rest.copy()
        positions[self.free] += self.data.qpos.reshape(-1, 3)
        return positions

    @property
    def velocities(self) -> Points:
        """(M, 3), metres per second."""
        velocities = np.zeros_like(self.rest)
        velocities[self.free] = self.data.qvel.reshape(-1, 3)
        return velocities

    @property
    def centre(self) -> Points:
        """Centre of mass of what moves: (3,)."""
        return self.masses @ self.positions / self.masses.sum()

    @property
    def momentum(self) -> Points:
        """(3,), N s."""
        return self.masses @ self.velocities

    def state(self) -> Points:
        """The observation as the engine has it, in double precision, for `set_state`."""
        return np.concatenate([self.positions, self.velocities, self._marks], axis=1)

    def observation(self) -> np.ndarray:
        """The points now: (M, 6 + C + 1) float32."""
        return self.state().astype(np.float32)

    def set_state(self, observation: np.ndarray) -> None:
        """Put the points where `observation` shows them; the step counter starts again at 0.

        Raises:
            UserError: another shape, non-finite numbers, or other marks than this body has.
        """
        observation = np.asarray(observation, np.float64)
        shape = self.observation_space.shape
        if observation.shape != shape or not np.isfinite(observation).all():
            raise UserError(f"A state is a finite array of shape {shape} here, got {observation.shape}.")
        if np.abs(observation[:, 6:] - self._marks).max() > 1e-6:
            raise UserError("Material coordinates and held points belong to the body; a state cannot change them.")
        self._place(observation[:, :3], observation[:, 3:6])

    def _place(self, positions: Points, velocities: Points) -> None:
        self._restart(self.model, self.data)
        self.data.qpos[:] = (positions - self.rest)[self.free].ravel()
        self.data.qvel[:] = velocities[self.free].ravel()
        self._steps = 0


def thrown(shape: Points, centre: Points, turn: Points, velocity: Points, spin: Points) -> tuple[Points, Points]:
    """Positions and velocities (M, 3) of a rigid body in flight.

    Args:
        shape: (M, 3) around its own centre.
        turn: (3, 3) rotation.
        velocity, spin: (3,) of the centre, in m/s, and around it, in rad/s.
    """
    arms = shape @ turn.T
    return centre + arms, velocity + np.cross(spin, arms)


def rotation(axis: Points, angle: float) -> Points:
    """(3, 3) rotation around `axis` (3,) by `angle` radians (Rodrigues)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
