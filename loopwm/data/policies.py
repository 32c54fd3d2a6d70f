"""Who acts while a world is recorded."""

from __future__ import annotations

import importlib
from copy import copy
from typing import Any

import gymnasium
import numpy as np

from loopwm.data.config import CollectConfig
from loopwm.envs.registry import Policy, World
from loopwm.errors import LoopwmError, UserError


def policy_for(config: CollectConfig, world: World) -> Policy | None:
    """The policy that `config` names; None for uniformly random actions.

    Raises:
        UserError: the world has no script, or a function of one's own cannot be found.
    """
    if config.policy == "random":
        return None
    if config.policy == "scripted":
        if world.scripted is None:
            raise UserError(
                f"{world.name} has no scripted policy; take random actions, or name a function of your own: "
                "--policy module:function"
            )
        return world.scripted
    return imported(config.policy)


def imported(name: str) -> Policy:
    """The function called `module:function`.

    Raises:
        UserError: there is no such policy, module or function.
    """
    module, colon, function = name.partition(":")
    if not colon:
        raise UserError(
            f"There is no policy called '{name}'; choose random or scripted, or name a function of your own as "
            "module:function."
        )
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"The policy {name} cannot be imported: {error}.") from error
    if not callable(found):
        raise UserError(f"The policy {name} is no function but a {type(found).__name__}.")
    return found


class Actor:
    """Chooses the actions of one episode.

    Args:
        policy: asked for every action; None draws from the action space.
        hold: steps that each action is kept for.
        seed: all that is random about the actions is a function of it.
    """

    def __init__(self, env: gymnasium.Env, policy: Policy | None, hold: int, seed: int) -> None:
        env.action_space.seed(seed)
        self._space, self._policy, self._hold, self._seed = env.action_space, policy, hold, seed
        self._generator: np.random.Generator | None = None
        self._kept: Any = None
        self._age = 0

    def act(self, observation: Any) -> Any:
        """a_k after seeing o_k.

        Raises:
            LoopwmError: the policy gave something that is no action of this world.
        """
        if self._age % self._hold == 0:
            self._kept = self._space.sample() if self._policy is None else self._asked(self._policy, observation)
        self._age += 1
        return self._kept

    def _asked(self, policy: Policy, observation: Any) -> Any:
        if self._generator is None:
            # A stream of its own: the one of the action space is seeded alike.
            self._generator = np.random.default_rng([self._seed, 1])
        # A copy: what a policy hands out may be what it goes on writing to.
        action = copy(policy(observation, self._generator))
        if isinstance(self._space, gymnasium.spaces.Box):
            action = np.asarray(action, self._space.dtype)
        if not self._space.contains(action):
            raise LoopwmError(f"the policy gave {action!r}, which is not in the action space {self._space}.")
        return action
