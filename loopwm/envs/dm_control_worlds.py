"""Any task of the dm_control suite as a world: `dmc:walker-walk`, or `dmc:walker-walk@2` with every action twice.

A thin environment of its own instead of shimmy's, because how hard a transition was has to be read between the engine
steps that it is made of, and an episode has to be a function of its seed.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from loopwm.envs.mujoco_labels import LABELS, Difficulty, engine, joint_rates, named_rates
from loopwm.envs.registry import World
from loopwm.errors import UserError

PREFIX = "dmc:"


@dataclass(frozen=True)
class Task:
    """A task of the suite.

    Attributes:
        domain, name: such as `walker` and `walk`.
        repeat: control steps per transition; published results often use 2.
    """

    domain: str
    name: str
    repeat: int = 1


def dm_control_world(name: str) -> World:
    """The world called `dmc:DOMAIN-TASK` or `dmc:DOMAIN-TASK@REPEAT`.

    Raises:
        UserError: no such task, or dm_control is missing.
    """
    task = task_called(name)
    env = DmControl(task)
    world = World(
        name=name,
        summary=f"{task.domain}-{task.name} of the dm_control suite (MuJoCo)",
        make=lambda max_steps: DmControl(task, max_steps),
        features=env.features,
        rates=env.rates(),
        dt=env.dt,
        labels=LABELS,
        max_steps=env.max_steps,
        packages=("dm_control", "mujoco"),
    )
    env.close()
    return world


def task_called(name: str) -> Task:
    """The task that a world's name asks for.

    Raises:
        UserError: no such task, with the nearest ones; a repeat that is no count; or dm_control is missing.
    """
    wanted, _, repeat = name.removeprefix(PREFIX).partition("@")
    if repeat and not (repeat.isdecimal() and int(repeat) > 0):
        raise UserError(f"{name}: what follows @ is how often an action is repeated, 1 or more, not '{repeat}'.")
    known = {f"{domain}-{task}": (domain, task) for domain, task in suite().ALL_TASKS}
    if wanted not in known:
        close = difflib.get_close_matches(wanted, known, n=3) or [one for one in known if wanted and wanted in one][:3]
        domains = ", ".join(sorted({domain for domain, _ in known.values()}))
        hint = f"did you mean {' or '.join(close)}?" if close else f"write domain-task, with a domain of: {domains}."
        raise UserError(f"There is no task '{wanted}' in the dm_control suite; {hint}")
    return Task(*known[wanted], int(repeat or 1))


def suite() -> ModuleType:
    """`dm_control.suite`.

    Raises:
        UserError: it is not installed, or with an engine that its tasks fail with.
    """
    try:
        mujoco = engine("dmc")
        if int(mujoco.__version__.split(".")[0]) > 3:
            raise UserError(f'dm_control tasks fail with mujoco {mujoco.__version__}: pip install "loopwm[dmc]"')
        with _without_renderer():
            return importlib.import_module("dm_control.suite")
    except ImportError as error:
        raise UserError(
            f'dm_control tasks need packages that are not installed ({error}): pip install "loopwm[dmc]"'
        ) from error


@contextlib.contextmanager
def _without_renderer() -> Iterator[None]:
    """dm_control looks for OpenGL when it is imported, and stops where a library is half installed.

    Nothing is drawn here, so it is told not to look, unless the user chose a renderer. The variable is gone again
    afterwards: mujoco's own renderer, imported first, keeps the choice it made, and child processes make theirs.
    """
    if "MUJOCO_GL" in os.environ:
        yield
        return
    os.environ["MUJOCO_GL"] = "disable"
    try:
        yield
    finally:
        os.environ.pop("MUJOCO_GL", None)


class DmControl(gymnasium.Env[np.ndarray, np.ndarray]):
    """A task of the suite with Gymnasium's interface.

    Observation: (S,) float32, the task's observations one after the other; `features` says which is which. Action:
    (A,) float32 within the task's bounds. An episode terminates where the task ends it with discount 0 and is
    truncated at its time limit. `info` of a step holds LABELS.

    Args:
        max_steps: transitions after which an episode is truncated; 0 takes the task's own limit.
    """

    def __init__(self, task: Task, max_steps: int = 0) -> None:
        module = importlib.import_module(f"{suite().__name__}.{task.domain}")
        build = module.SUITE[task.name]
        # Some models are themselves drawn at random: the same one every time. Episodes are counted here, because the
        # suite would not say that a task ended at the very step at which time is up.
        self._env = build(time_limit=math.inf, random=0)
        self.physics = self._env.physics
        self._repeat = task.repeat
        self.dt = self._env.control_timestep() * task.repeat
        limit = inspect.signature(build).parameters["time_limit"].default
        self.max_steps = max_steps or (0 if math.isinf(limit) else math.ceil(round(limit / self.dt, 6)))
        seen = self._env.observation_spec()
        self.features = tuple(
            name if math.prod(part.shape) == 1 else f"{name}{i}"
            for name, part in seen.items()
            for i in range(math.prod(part.shape))
        )
        act = self._env.action_spec()
        self.observation_space = spaces.Box(-np.inf, np.inf, (len(self.features),), np.float32)
        low, high = (np.broadcast_to(bound, act.shape).astype(np.float32) for bound in (act.minimum, act.maximum))
        self.action_space = spaces.Box(low, high, dtype=np.float32)
        self._model, self._data = self.physics.model.ptr, self.physics.data.ptr
        self._difficulty = Difficulty(self._model)
        mujoco = engine()
        halved = self._model.opt.integrator != mujoco.mjtIntegrator.mjINT_RK4
        self._half, self._whole = mujoco.mj_step1, mujoco.mj_step
        self._first = mujoco.mj_step2 if halved else mujoco.mj_step
        # The environment calls this; the engine advances as it would, and is read on the way.
        self.physics.step = self._advance
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """A new episode; with a seed, it is a function of the seed."""
        super().reset(seed=seed)
        self._env.task.random.seed(self.np_random.integers(0, 2**32, 4, dtype=np.uint32))
        self._steps = 0
        return self._flat(self._env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """`repeat` control steps with one action; the reward is their sum.

        Raises:
            UserError: the action has another shape than the task takes.
        """
        # Numbers that are not finite are refused by the engine.
        if np.shape(action) != self.action_space.shape:
            raise UserError(f"An action of this task has shape {self.action_space.shape}, got {np.shape(action)}.")
        self._difficulty.clear()
        reward, outcome = 0.0, None
        for _ in range(self._repeat):
            outcome = self._env.step(action)
            reward += outcome.reward
            if outcome.last():
                break
        assert outcome is not None
        self._steps += 1
        # Without a time limit, only the task itself can end an episode.
        terminated = outcome.last() and outcome.discount == 0
        truncated = not terminated and (outcome.last() or 0 < self.max_steps <= self._steps)
        return self._flat(outcome.observation), reward, terminated, truncated, self._difficulty.labels()

    def rates(self, steps: int = 60) -> tuple[tuple[str, str], ...]:
        """Which observed number is the rate of change of which, found by watching random steps."""
        self.action_space.seed(0)
        seen = [self.reset(seed=0)[0]]
        state = [(self.physics.data.qpos.copy(), self.physics.data.qvel.copy())]
        for _ in range(steps):
            seen.append(self.step(self.action_space.sample())[0])
            state.append((self.physics.data.qpos.copy(), self.physics.data.qvel.copy()))
        qpos, qvel = (np.array(part) for part in zip(*state, strict=True))
        pairs = joint_rates(np.array(seen), qpos, qvel, self._model)
        return named_rates(self.features, pairs)

    def close(self) -> None:
        """Free the engine."""
        self._env.close()

    def _flat(self, observation: dict[str, Any]) -> np.ndarray:
        return np.concatenate(list(observation.values()), axis=None, dtype=np.float32, casting="same_kind")

    def _advance(self, nstep: int = 1) -> None:
        """dm_control's `Physics.step`, one engine step at a time.

        Between control steps everything that depends on positions and velocities is already up to date, so the first
        engine step only has its second half to do (RK4 cannot be halved); at the end the next first half is done.
        """
        model, data, read = self._model, self._data, self._difficulty.read
        with self.physics.check_invalid_state():
            for step in range(nstep):
                (self._first if step == 0 else self._whole)(model, data)
                read(data)
            self._half(model, data)
