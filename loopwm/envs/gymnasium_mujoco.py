"""How hard each transition was, for the environments that Gymnasium builds on MuJoCo: HalfCheetah-v5, Hopper-v5, ..."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from loopwm.envs.mujoco_labels import Difficulty, engine, joint_rates, named_rates


def runs_on_mujoco(env: gymnasium.Env) -> bool:
    """Whether Gymnasium's own MuJoCo base class steps it."""
    # Whoever made such an environment has imported the module; asking others must not import the engine.
    module = sys.modules.get("gymnasium.envs.mujoco.mujoco_env")
    return module is not None and isinstance(env.unwrapped, module.MujocoEnv)


def seconds_per_step(env: gymnasium.Env) -> float:
    """Of an environment that runs on MuJoCo."""
    base: Any = env.unwrapped
    return float(base.dt)


def measured(env: gymnasium.Env) -> gymnasium.Env:
    """The same environment, with the labels of `mujoco_labels` in the `info` of every step."""
    return _Measured(env)


class _Measured(gymnasium.Wrapper):
    """Takes the engine steps one by one instead of all at once, and reads the engine after each."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._engine_step = engine().mj_step
        base: Any = env.unwrapped
        self._model, self._data = base.model, base.data
        self._difficulty = Difficulty(base.model)
        self._simulate = base.do_simulation
        base.do_simulation = self._read_between

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment does, with LABELS in `info`."""
        self._difficulty.clear()
        observation, reward, terminated, truncated, info = self.env.step(action)
        info.update(self._difficulty.labels())
        return observation, reward, terminated, truncated, info

    def _read_between(self, ctrl: Any, n_frames: int) -> None:
        model, data, step, read = self._model, self._data, self._engine_step, self._difficulty.read
        # What follows the last engine step is the environment's own business.
        data.ctrl[:] = ctrl
        for _ in range(n_frames - 1):
            step(model, data)
            read(data)
        self._simulate(ctrl, 1)
        read(data)


def observed_rates(env: gymnasium.Env, features: Sequence[str], steps: int = 60) -> tuple[tuple[str, str], ...]:
    """Pairs (feature, its time derivative), found by watching random steps.

    Args:
        env: it observes a vector with as many numbers as `features`.
    """
    base: Any = env.unwrapped
    env.action_space.seed(0)
    seen, qpos, qvel = [env.reset(seed=0)[0]], [base.data.qpos.copy()], [base.data.qvel.copy()]
    for _ in range(steps):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        seen.append(observation)
        qpos.append(base.data.qpos.copy())
        qvel.append(base.data.qvel.copy())
        if terminated or truncated:
            seen[-1] = env.reset()[0]
            qpos[-1], qvel[-1] = base.data.qpos.copy(), base.data.qvel.copy()
    return named_rates(features, joint_rates(np.array(seen), np.array(qpos), np.array(qvel), base.model))
