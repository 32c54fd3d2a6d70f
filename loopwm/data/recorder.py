"""One episode after the other of one world, in one process."""

from __future__ import annotations

from copy import copy
from typing import Any

import gymnasium
import numpy as np

from loopwm.data.config import CollectConfig
from loopwm.data.episode import Episode
from loopwm.data.policies import Actor, policy_for
from loopwm.envs.registry import Policy, World
from loopwm.errors import LoopwmError, UserError


class Recorder:
    """A world that is ready to be recorded. Making one may take long, an episode should not.

    Raises:
        UserError: the world cannot be made, or the policy not be found.
    """

    def __init__(self, config: CollectConfig, world: World) -> None:
        self.config, self.world = config, world
        self.policy = policy_for(config, world)
        self.env = world.make(config.max_steps)

    def record(self, index: int) -> Episode:
        """Episode number `index` of the recording: a function of it and of the configuration alone.

        Raises:
            LoopwmError: it failed; with the seed that reproduces it.
        """
        seed = episode_seed(self.config.seed, index)
        try:
            return record_episode(self.env, self.world, seed, self.config.max_steps, self.policy, self.config.hold)
        except Exception as error:
            # An engine's exceptions may not survive the trip between processes; the seed is what reproduces them.
            reason = str(error) if isinstance(error, LoopwmError) else f"{type(error).__name__}: {error}"
            reason = " ".join(reason.split())
            kind = UserError if isinstance(error, UserError) else LoopwmError
            raise kind(f"Recording episode {index} of {self.world.name} (seed {seed}) failed: {reason}") from None


def record_episode(
    env: gymnasium.Env, world: World, seed: int, max_steps: int, policy: Policy | None = None, hold: int = 1
) -> Episode:
    """One episode of `env`, reset with `seed`, of at most `max_steps` transitions.

    Args:
        policy: who acts; uniformly random when left out.
        hold: steps that each action is kept for.
    """
    actor = Actor(env, policy, hold, seed)
    observation, _ = env.reset(seed=seed)
    # Copied at once, as an environment may hand out the same array every time, with other numbers in it.
    shape = env.observation_space.shape or ()
    image = len(shape) == 3 and env.observation_space.dtype == np.uint8
    observations = np.empty((max_steps + 1, *shape), np.uint8 if image else np.float32)
    observations[0] = _shaped(observation, shape)
    actions, rewards, labels = [], [], []
    terminated = truncated = False
    while not (terminated or truncated) and len(actions) < max_steps:
        action = actor.act(observation)
        # A copy, as an environment may scale or clip in place what it is given.
        observation, reward, terminated, truncated, info = env.step(copy(action))
        actions.append(action)
        rewards.append(reward)
        observations[len(actions)] = _shaped(observation, shape)
        if world.labels:
            labels.append([_label(info, name) for name in world.labels])
    taken = len(actions)
    columns = np.array(labels, np.float32).reshape(taken, len(world.labels))
    return Episode(
        # Without the rows that were not needed, and which a view would keep in memory.
        observations=observations[: taken + 1].copy(),
        actions=np.array(actions, np.float32).reshape(taken, -1),
        rewards=np.array(rewards, np.float32),
        terminated=bool(terminated),
        labels={name: columns[:, i] for i, name in enumerate(world.labels)},
        seed=seed,
    )


def _shaped(observation: Any, shape: tuple[int, ...]) -> Any:
    # NumPy would repeat what is too small.
    if np.shape(observation) != shape:
        raise UserError(
            f"an observation has shape {np.shape(observation)}, and the observation space says {shape}; repair the "
            "environment."
        )
    return observation


def _label(info: dict[str, Any], name: str) -> Any:
    if name not in info:
        raise UserError(f"info has no label '{name}' after a step, only {', '.join(map(str, info)) or 'nothing'}.")
    return info[name]


def episode_seed(seed: int, index: int) -> int:
    """The seed of episode `index`: a 63-bit integer that no other (seed, index) is likely to share."""
    state = np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)
    return int(state[0] >> 1)
