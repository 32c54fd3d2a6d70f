"""Any registered Gymnasium environment as a world: `gym:CartPole-v1`.

What it observes is flattened to one vector, and what it does becomes numbers or indices; see `AsVector`, `Indexed`.
Images stay images, and `gym:HalfCheetah-v5@64` is seen as images of that size instead; see `gymnasium_pixels.py`.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from gymnasium.error import Error as GymnasiumError

from loopwm.envs import gymnasium_pixels as pixels
from loopwm.envs.gymnasium_mujoco import measured, observed_rates, runs_on_mujoco, seconds_per_step
from loopwm.envs.mujoco_labels import LABELS, engine
from loopwm.envs.registry import World
from loopwm.errors import UserError
from loopwm.spaces import channel_names

PREFIX = "gym:"
# What the MuJoCo environments of Gymnasium import besides.
MUJOCO_NEEDS = ("imageio", "packaging")


def gymnasium_world(name: str) -> World:
    """The world called `gym:ID`.

    Raises:
        UserError: no such environment, a missing package, or spaces that cannot be recorded.
    """
    env_id, side = pixels.split_size(name.removeprefix(PREFIX))
    env = made(env_id, 0, side)
    image, features = pixels.is_image(env.observation_space), features_of(env)
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
    with contextlib.closing(adapted(env)) as seen:
        features = features_of(seen)
    limit = env.spec.max_episode_steps if env.spec is not None else None
    return World(
        name=f"own:{type(env.unwrapped).__name__}",
        summary=(type(env.unwrapped).__doc__ or "").strip().split("\n")[0],
        make=partial(_own, make),
        features=features,
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
    if "mujoco" in str(getattr(gymnasium.registry.get(env_id), "entry_point", "")):
        engine()
    # Whether it shows images by itself is known when it is there; that it should be able to draw, it must be told.
    drawing: dict[str, Any] = {"render_mode": "rgb_array"} if side else {}
    try:
        # What is recorded is checked when it is stored; Gymnasium's checker would look at every step again.
        env = gymnasium.make(env_id, max_episode_steps=max_steps or None, disable_env_checker=True, **drawing)
    except DependencyNotInstalled as error:
        raise UserError(f"{env_id} needs a package that is not installed: {error}") from error
    except GymnasiumError as error:
        raise UserError(f"There is no Gymnasium environment '{env_id}'; {suggestion(env_id)}") from error
    except ModuleNotFoundError as error:
        if error.name in MUJOCO_NEEDS:
            fix = f'pip install "loopwm[mujoco]" ({error})'
            raise UserError(f"{env_id} needs a package that is not installed: {fix}") from error
        fix = "install it, or the package that registers the environment"
        raise UserError(f"{env_id} cannot be imported ({error}); {fix}.") from error
    except ImportError as error:
        raise UserError(f"{env_id} cannot be imported ({error}); install the package that registers it.") from error
    except Exception as error:
        # Whatever the environment's own code, or the module that registers it, raises.
        if side and isinstance(error, TypeError):
            raise UserError(f"{env_id} cannot be drawn ({error}); record it without @{side}.") from error
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{env_id} cannot be made ({reason}); repair it, or register it with what it needs.") from error
    # Measured inside, so that the wrappers around see an ordinary environment.
    env = measured(env) if runs_on_mujoco(env) else env
    if side and not pixels.is_image(env.observation_space):
        env = pixels.drawn(env, side)
    return adapted(env, side)


def suggestion(env_id: str) -> str:
    """What may have been meant."""
    close = difflib.get_close_matches(env_id.rpartition(":")[2], gymnasium.registry, n=3)
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
    refused = varying(seen)
    if refused or not spaces.flatdim(seen):
        what = f"a space of varying size ({refused})" if refused else "an empty space"
        raise UserError(
            f"{named(env)} observes {what}: wrap it so that it shows a vector, with "
            "gymnasium.wrappers.TransformObservation."
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
    if isinstance(act, spaces.Box) and np.issubdtype(act.dtype, np.floating) and 0 not in act.shape:
        return env if len(act.shape) == 1 else FlatAction(env)
    raise UserError(
        f"{named(env)} takes actions from {act}, and only Box, Discrete, MultiDiscrete and MultiBinary can be "
        "recorded, a Box if it has numbers with fractions: wrap it with gymnasium.wrappers.TransformAction."
    )


def varying(space: spaces.Space, name: str = "") -> str:
    """The first part of a space that is not the same numbers every time, such as a Text; empty if there is none."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        found = (varying(part, inside(name, key)) for key, part in parts_of(space))
        return next((one for one in found if one), "")
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return ""
    return type(space).__name__ + (f" '{name}'" if name else "")


def parts_of(space: spaces.Dict | spaces.Tuple) -> Iterable[tuple[Any, spaces.Space]]:
    """(key or number, part) of each part."""
    return space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)


def inside(name: str, key: Any) -> str:
    """A part's name, in a space called `name`."""
    return f"{name}.{key}" if name else str(key)


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


def features_of(env: gymnasium.Env) -> tuple[str, ...]:
    """Names of what an adapted environment observes: channels of images, or the parts of a flattened space."""
    seen = env.observation_space
    if pixels.is_image(seen) and seen.shape:
        return channel_names(seen.shape[-1])
    if isinstance(env, Indexed | FlatAction):
        env = env.env
    return feature_names(env.env.observation_space if isinstance(env, AsVector) else seen)


def feature_names(space: spaces.Space, prefix: str = "") -> tuple[str, ...]:
    """A name for every number of a flattened observation, saying which part of the space it comes from."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return tuple(name for key, part in parts_of(space) for name in feature_names(part, inside(prefix, key)))
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
