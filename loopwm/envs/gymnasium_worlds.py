"""Any registered Gymnasium environment as a world: `gym:CartPole-v1`.

What it observes is flattened to one vector, and what it does becomes numbers or indices; see `AsVector`, `Indexed`.
Images stay images, and `gym:HalfCheetah-v5@64` is seen as images of that size instead; see `gymnasium_pixels.py`.
"""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from gymnasium.error import Error as GymnasiumError

from loopwm.envs import gymnasium_pixels as pixels
from loopwm.envs.gymnasium_mujoco import measured, observed_rates, runs_on_mujoco, seconds_per_step
from loopwm.envs.mujoco_labels import LABELS
from loopwm.envs.registry import World
from loopwm.errors import UserError
from loopwm.spaces import channel_names

PREFIX = "gym:"
# What the MuJoCo environments of Gymnasium import besides.
MUJOCO_NEEDS = ("mujoco", "imageio", "packaging")


def gymnasium_world(name: str) -> World:
    """The world called `gym:ID`.

    Raises:
        UserError: no such environment, a missing package, or spaces that cannot be recorded.
    """
    env_id, side = pixels.split_size(name.removeprefix(PREFIX))
    env = made(env_id, 0, side)
    seen = env.observation_space
    image = len(seen.shape or ()) == 3
    features = channel_names(seen.shape[-1]) if image and seen.shape else feature_names(env.unwrapped.observation_space)
    limit = env.spec.max_episode_steps if env.spec is not None else None
    on_mujoco = runs_on_mujoco(env)
    rates = observed_rates(env, features) if on_mujoco and not image else ()
    env.close()
    return World(
        name=name,
        summary=f"{env_id}, registered with Gymnasium" + (f", as images of {side} by {side} pixels" if side else ""),
        make=lambda max_steps: made(env_id, max_steps, side),
        features=features,
        rates=rates,
        dt=seconds_per_step(env) if on_mujoco else 0.0,
        labels=LABELS if on_mujoco else (),
        max_steps=limit or 0,
        packages=(*packages(env), *(("pillow",) if image else ())),
    )


def own_world(
    make: Callable[[], gymnasium.Env],
    labels: tuple[str, ...] = (),
    max_steps: int = 0,
    rates: tuple[tuple[str, str], ...] = (),
    dt: float = 0.0,
) -> World:
    """An environment of one's own as a world; it need not be registered.

    Args:
        make: a new environment: its class will do. Recording with several processes needs it at the top of a module.
        labels: keys of `info` that say how hard a transition was.
        max_steps: transitions after which its episodes are cut short, if it does not do so itself.
        rates, dt: as of `World`.

    Raises:
        UserError: spaces that cannot be recorded.
    """
    env = make()
    adapted(env).close()
    limit = env.spec.max_episode_steps if env.spec is not None else None
    return World(
        name=f"own:{type(env.unwrapped).__name__}",
        summary=(type(env.unwrapped).__doc__ or "").strip().split("\n")[0],
        make=partial(_own, make),
        features=feature_names(env.observation_space),
        rates=rates,
        dt=dt,
        labels=labels,
        max_steps=max_steps or limit or 0,
    )


def _own(make: Callable[[], gymnasium.Env], max_steps: int) -> gymnasium.Env:
    env = adapted(make())
    return gymnasium.wrappers.TimeLimit(env, max_steps) if max_steps else env


def made(env_id: str, max_steps: int, side: int = 0) -> gymnasium.Env:
    """A new environment that observes a vector, or images.

    Args:
        max_steps: it truncates its episodes there; 0 leaves the limit it was registered with.
        side: pixels on each side of the images it observes; 0 leaves the choice between a vector and images of 64 by
            64 to the environment.
    """
    # Whether it shows images by itself is known when it is there; that it should be able to draw, it must be told.
    drawing: dict[str, Any] = {"render_mode": "rgb_array"} if side else {}
    try:
        # What is recorded is checked when it is stored; Gymnasium's checker would look at every step again.
        env = gymnasium.make(env_id, max_episode_steps=max_steps or None, disable_env_checker=True, **drawing)
    except DependencyNotInstalled as error:
        extra = "mujoco" in str(error).lower()
        fix = 'pip install "loopwm[mujoco]"' if extra else str(error)
        raise UserError(f"{env_id} needs a package that is not installed: {fix}") from error
    except GymnasiumError as error:
        raise UserError(f"There is no Gymnasium environment '{env_id}'; {suggestion(env_id)}") from error
    except ModuleNotFoundError as error:
        if error.name in MUJOCO_NEEDS:
            fix = f'pip install "loopwm[mujoco]" ({error})'
            raise UserError(f"{env_id} needs a package that is not installed: {fix}") from error
        raise UserError(f"{env_id} cannot be imported ({error}); install the package that registers it.") from error
    except ImportError as error:
        raise UserError(f"{env_id} cannot be imported ({error}); install the package that registers it.") from error
    except TypeError as error:
        if not side:
            raise
        raise UserError(f"{env_id} cannot be drawn ({error}); record it without @{side}.") from error
    # Measured inside, so that the wrappers around see an ordinary environment.
    env = measured(env) if runs_on_mujoco(env) else env
    if side and not pixels.is_image(env.observation_space):
        env = pixels.drawn(env, side)
    return adapted(env, side)


def suggestion(env_id: str) -> str:
    """What may have been meant."""
    close = difflib.get_close_matches(env_id, gymnasium.registry, n=3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return "import the package that registers it as part of the name, as in gym:my_package:MyEnv-v0."


def adapted(env: gymnasium.Env, side: int = 0) -> gymnasium.Env:
    """The same environment with spaces that can be stored.

    Args:
        side: pixels on each side of the images it observes, if it does; 0 for 64.

    Raises:
        UserError: a space that cannot, and what to wrap it with.
    """
    seen, act = env.observation_space, env.action_space
    if not seen.is_np_flattenable:
        raise UserError(
            f"{named(env)} observes a space of varying size ({type(seen).__name__}): wrap it so that it shows a "
            "vector, with gymnasium.wrappers.TransformObservation."
        )
    # A vector already is left alone, so that what is stored is what the environment said.
    if pixels.is_image(seen):
        env = pixels.Resized(env, side or pixels.SIDE)
    elif not (isinstance(seen, spaces.Box) and len(seen.shape) == 1):
        env = AsVector(env)
    if isinstance(act, spaces.Discrete) and act.start == 0:
        return env
    if isinstance(act, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return Indexed(env)
    if isinstance(act, spaces.Box) and np.issubdtype(act.dtype, np.floating):
        return env if len(act.shape) == 1 else FlatAction(env)
    raise UserError(
        f"{named(env)} takes actions from {act}, and only Box, Discrete, MultiDiscrete and MultiBinary can be "
        "recorded: wrap it with gymnasium.wrappers.TransformAction."
    )


class AsVector(gymnasium.ObservationWrapper):
    """Dictionaries, tuples, tables and indices as one vector; an index becomes a one-hot part of it."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.observation_space = spaces.flatten_space(env.observation_space)

    def observation(self, observation: Any) -> np.ndarray:
        """One vector (S,)."""
        return np.asarray(spaces.flatten(self.env.observation_space, observation), np.float32)


class Indexed(gymnasium.ActionWrapper):
    """Choices numbered from 0, however the environment numbers them; a tuple of choices is one vector of numbers."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        act = env.action_space
        self.start: int | np.ndarray
        if isinstance(act, spaces.Discrete):
            self.action_space, self.start = spaces.Discrete(int(act.n)), int(act.start)
        else:
            assert isinstance(act, spaces.MultiDiscrete | spaces.MultiBinary)
            several = isinstance(act, spaces.MultiDiscrete)
            counts = act.nvec if several else np.full(act.shape, 2)
            self.start = np.asarray(act.start if several else np.zeros(act.shape, np.int64))
            self.action_space = spaces.MultiDiscrete(counts.flatten())

    def action(self, action: Any) -> Any:
        """What the environment understands."""
        if isinstance(self.start, int):
            return int(action) + self.start
        return (np.reshape(action, self.start.shape) + self.start).astype(self.env.action_space.dtype)


class FlatAction(gymnasium.ActionWrapper):
    """A table of numbers as one vector."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.action_space = spaces.flatten_space(env.action_space)

    def action(self, action: Any) -> np.ndarray:
        """What the environment understands."""
        return np.asarray(spaces.unflatten(self.env.action_space, action))


def feature_names(space: spaces.Space, prefix: str = "") -> tuple[str, ...]:
    """A name for every number of a flattened observation, saying which part of the space it comes from."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        return tuple(
            name for key, part in parts for name in feature_names(part, f"{prefix}.{key}" if prefix else str(key))
        )
    size = spaces.flatdim(space)
    if prefix and size == 1:
        return (prefix,)
    return tuple(f"{prefix or 'feature'}{i}" for i in range(size))


def packages(env: gymnasium.Env) -> tuple[str, ...]:
    """The distribution that holds the environment's code, if it is not Gymnasium itself."""
    module = type(env.unwrapped).__module__.split(".")[0]
    holders = importlib.metadata.packages_distributions().get(module, [])
    engines = ("mujoco",) if ".mujoco" in type(env.unwrapped).__module__ else ()
    return tuple(name for name in (*holders, *engines) if name != "gymnasium")


def named(env: gymnasium.Env) -> str:
    """The environment in words."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
