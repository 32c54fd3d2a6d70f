"""World names, what is recorded of each, and how to build it.

Engines are imported when a world is made, so listing the worlds costs nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np

from loopwm.errors import UserError
from loopwm.extras import installed
from loopwm.spaces import channel_names

Policy = Callable[[Any, np.random.Generator], Any]
"""(o_k as the environment gives it, a generator that is seeded per episode) -> a_k."""


@dataclass(frozen=True)
class World:
    """A recordable world.

    Attributes:
        name: as on the command line.
        summary: one line for people.
        make: `max_steps` -> a new environment that truncates its episodes there; 0 leaves its own limit.
        features: names of the observation's last axis.
        rates: pairs (feature, its time derivative).
        dt: seconds per environment step; 0 when unknown.
        labels: keys of `info` recorded as per-transition difficulty labels.
        max_steps: transitions after which an episode is truncated unless something else is asked for; 0 for never.
        packages: distributions whose versions belong into a recording's metadata.
        scripted: somebody who acts with intent, for recordings that random actions would leave empty.
    """

    name: str
    summary: str
    make: Callable[[int], gymnasium.Env]
    features: tuple[str, ...]
    rates: tuple[tuple[str, str], ...] = ()
    dt: float = 0.0
    labels: tuple[str, ...] = ()
    max_steps: int = 0
    packages: tuple[str, ...] = ()
    scripted: Policy | None = None


def _billiards() -> World:
    from loopwm.envs.physics import billiards

    return World(
        name="billiards",
        summary="six elastic discs in a box (pymunk); the action pushes one of them towards a corner pocket",
        make=lambda max_steps: billiards.Billiards(billiards.BilliardsConfig(max_steps=max_steps)),
        features=billiards.FEATURES,
        rates=billiards.RATES,
        dt=billiards.BilliardsConfig.dt,
        labels=billiards.LABELS,
        max_steps=billiards.BilliardsConfig.max_steps,
        packages=("pymunk",),
        scripted=billiards.aim,
    )


def _three_bodies() -> World:
    with installed("three-bodies", "physics"):
        from loopwm.envs.physics import three_bodies

    return World(
        name="three-bodies",
        summary="three bodies under their own gravity (scipy's DOP853); the action pushes one to keep them together",
        make=lambda max_steps: three_bodies.ThreeBodies(three_bodies.ThreeBodiesConfig(max_steps=max_steps)),
        features=three_bodies.FEATURES,
        rates=three_bodies.RATES,
        dt=three_bodies.ThreeBodiesConfig.dt,
        labels=three_bodies.LABELS,
        max_steps=three_bodies.ThreeBodiesConfig.max_steps,
        packages=("scipy",),
    )


def _fluid() -> World:
    with installed("fluid", "physics"):
        from loopwm.envs.physics import fluid

    return World(
        name="fluid",
        summary="a stirred plane fluid (torch-cfd), seen as 64 patches of vorticity; the action pushes with a paddle",
        make=lambda max_steps: fluid.Fluid(fluid.FluidConfig(max_steps=max_steps)),
        features=fluid.FEATURES,
        dt=fluid.FluidConfig.dt,
        labels=fluid.LABELS,
        max_steps=fluid.FluidConfig.max_steps,
        packages=("torch", "torch-cfd"),
    )


def _cloth() -> World:
    from loopwm.envs.physics import cloth

    return World(
        name="cloth",
        summary="a cloth of 9 x 9 points falls over a ball (MuJoCo); the action pulls two of its corners",
        make=lambda max_steps: cloth.Cloth(cloth.ClothConfig(max_steps=max_steps)),
        features=cloth.FEATURES,
        rates=cloth.RATES,
        dt=cloth.ClothConfig.dt,
        labels=cloth.LABELS,
        max_steps=cloth.ClothConfig.max_steps,
        packages=("mujoco",),
    )


def _soft_cube() -> World:
    from loopwm.envs.physics import soft_cube

    return World(
        name="soft-cube",
        summary="an elastic cube is thrown into a box (MuJoCo); the action pushes one of its corners",
        make=lambda max_steps: soft_cube.SoftCube(soft_cube.SoftCubeConfig(max_steps=max_steps)),
        features=soft_cube.FEATURES,
        rates=soft_cube.RATES,
        dt=soft_cube.SoftCubeConfig.dt,
        labels=soft_cube.LABELS,
        max_steps=soft_cube.SoftCubeConfig.max_steps,
        packages=("mujoco",),
    )


def _billiards_pixels() -> World:
    from loopwm.envs.physics.billiards import BilliardsConfig
    from loopwm.envs.physics.billiards_pixels import BilliardsPixels

    return replace(
        _billiards(),
        name="billiards-pixels",
        summary="the same seen from above, as images of 64 by 64 pixels; a single one does not show speeds",
        make=lambda max_steps: BilliardsPixels(BilliardsConfig(max_steps=max_steps)),
        features=channel_names(3),
        rates=(),
        # That of billiards looks at discs.
        scripted=None,
    )


_WORLDS: dict[str, Callable[[], World]] = {
    "billiards": _billiards,
    "billiards-pixels": _billiards_pixels,
    "three-bodies": _three_bodies,
    "fluid": _fluid,
    "cloth": _cloth,
    "soft-cube": _soft_cube,
}


def world_names() -> tuple[str, ...]:
    """The names `find_world` accepts."""
    return tuple(_WORLDS)


def find_world(name: str) -> World:
    """The world called `name`: one of `world_names`, `gym:ID` for a registered Gymnasium environment, or
    `dmc:DOMAIN-TASK` for a task of the dm_control suite.

    Raises:
        UserError: no such world, with the closest ones named, or one that cannot be recorded.
    """
    if name.startswith("gym:"):
        from loopwm.envs.gymnasium_worlds import gymnasium_world

        return gymnasium_world(name)
    if name.startswith("dmc:"):
        from loopwm.envs.dm_control_worlds import dm_control_world

        return dm_control_world(name)
    if name not in _WORLDS:
        close = difflib.get_close_matches(name, _WORLDS, n=1)
        known = (
            f"choose one of: {', '.join(_WORLDS)}, gym:ID for a Gymnasium environment, dmc:DOMAIN-TASK for dm_control."
        )
        hint = f"did you mean '{close[0]}'?" if close else known
        raise UserError(f"There is no world called '{name}'; {hint}")
    return _WORLDS[name]()
