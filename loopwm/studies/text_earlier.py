"""What an earlier study of a text world measured, for a later one that adds systems to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from loopwm.errors import UserError
from loopwm.model.config import System
from loopwm.presets import RunConfig
from loopwm.train.journal import config_as_dict, flat

PRICES = ("params", "flops_step", "hours")
"""Figures of every system that do not follow from its answers."""
SAME = ("seeds", "updates", "beam", "decode", "head", "split")
"""What both studies must have been told. Threads change the last digits alone, and how long training takes."""


@dataclass(frozen=True)
class Earlier:
    """The content of its result; nothing where there is none, as where nothing was measured before."""

    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path | None, told: Mapping[str, Any], base: RunConfig, digests: Mapping[str, str]) -> Earlier:
        """A result, if it was made as the study is that it will be part of.

        Args:
            told: name of SAME -> what this study was told. base: of every run. digests: of the recordings.

        Raises:
            UserError: there is no such file, or something is not the same.
        """
        if path is None:
            return cls({})
        try:
            found = json.loads(path.read_text())
            # What came later than that result had its default.
            settings = config_as_dict(TypeAdapter(RunConfig).validate_python(found["config"]))
            stored = {name: found[name] for name in SAME} | flat(settings)
            recorded = sorted(found["recordings"].values())
        except FileNotFoundError:
            raise UserError(f"There is no result at {path}; give one of `loopwm study text` by --beside.") from None
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise UserError(f"{path} is not a result of `loopwm study text` of this version ({error!r}).") from error
        if recorded != sorted(digests.values()):
            raise UserError(f"{path} was measured on another recording; only results of one recording can be compared.")
        wanted = {name: told[name] for name in SAME} | flat(config_as_dict(base))
        for name in (*wanted, *stored):
            one, other = stored.get(name), wanted.get(name)
            # Where the recording lies does not matter, as its digest is the same.
            if one != other and name != "data":
                raise UserError(f"{path} was made with {name} = {one}, not {other}; systems compare only alike.")
        return cls(found)

    @property
    def systems(self) -> tuple[System, ...]:
        """Those that it measured."""
        return tuple(self.content.get("systems", ()))

    def track(self, name: str) -> dict[str, Any]:
        """The benchmark's result on a track."""
        return self.content["tracks"][name] if self.content else {}

    @property
    def evidence(self) -> dict[str, Any] | None:
        """What looping buys, if it measured the looped model."""
        return self.content["looping"] if self.content else None

    def prices(self, keys: Sequence[str]) -> dict[str, float]:
        """PRICES of its systems, which `figures` names with these `keys` at the end; and memory."""
        if not self.content:
            return {}
        names = [f"{price}{key}" for price in PRICES for key in keys]
        return {name: self.content["figures"][name] for name in (*names, "peak_memory_gib")}

    @property
    def threads(self) -> Mapping[str, int]:
        """System -> of its training."""
        return threads_of(self.content) if self.content else {}

    def made(self) -> list[dict[str, Any]]:
        """How it came about, itself and what it was added to."""
        if not self.content:
            return []
        own = {name: self.content[name] for name in ("command", "versions", "processor")}
        before = self.content.get("earlier", [])
        known = {system for one in before for system in one["systems"]}
        return [*before, own | {"systems": [one for one in self.systems if one not in known]}]


def threads_of(result: Mapping[str, Any]) -> Mapping[str, int]:
    """System -> threads of its training: once all of a result had the same number, at the very first one."""
    stored: int | dict[str, int] = result.get("threads", 1)
    return {system: stored for system in result["systems"]} if isinstance(stored, int) else stored
