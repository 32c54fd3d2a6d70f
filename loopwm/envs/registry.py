"""World names, what is recorded of each, and how to build it.

Engines are imported when a world is made, so listing the worlds costs nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace

import gymnasium

from loopwm.errors import UserError
from loopwm.spaces import channel_names


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
    )


_WORLDS: dict[str, Callable[[], World]] = {"billiards": _billiards, "billiards-pixels": _billiards_pixels}


def world_names() -> tuple[str, ...]:
    """The names `find_world` accepts."""
    return tuple(_WORLDS)


def find_world(name: str) -> World:
    """The world called `name`: one of `world_names`, or `gym:ID` for a registered Gymnasium environment.

    Raises:
        UserError: no such world, with the closest ones named, or one that cannot be recorded.
    """
    if name.startswith("gym:"):
        from loopwm.envs.gymnasium_worlds import gymnasium_world

        return gymnasium_world(name)
    if name not in _WORLDS:
        close = difflib.get_close_matches(name, _WORLDS, n=1)
        known = f"choose one of: {', '.join(_WORLDS)}, or gym:ID for a Gymnasium environment."
        hint = f"did you mean '{close[0]}'?" if close else known
        raise UserError(f"There is no world called '{name}'; {hint}")
    return _WORLDS[name]()
