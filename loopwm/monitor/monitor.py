"""`loopwm monitor RUN`: does the loop behave as in the reference, on this recording, with these weights."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from loopwm.data.cache import open_memmap
from loopwm.data.store import Store
from loopwm.errors import LoopwmError, UserError
from loopwm.evaluate.evaluation import plain
from loopwm.files import refuse_existing, write_json
from loopwm.monitor.checks import Check, compare
from loopwm.monitor.config import MonitorConfig, ProfileConfig
from loopwm.monitor.profile import LoopProfile
from loopwm.monitor.reference import (
    FILE,
    Reference,
    check_loopable,
    difference,
    measure,
    read_reference,
    store,
)
from loopwm.train.checkpoint import NAME, read_checkpoint
from loopwm.train.hardware import resolve_device
from loopwm.train.journal import read_config, versions

RESULT = "monitor.json"


class Changed(LoopwmError):
    """A property of the loop is beyond its limit."""

    exit_code = 1


@dataclass(frozen=True)
class Side:
    """One of two models compared.

    Attributes:
        run: name of its folder. sha256: of its weights. data_digest: of the recording it was measured on.
        mu: its mean loops. grid, error, residual, turning, halting: as in `LoopProfile`.
        n: transitions. episodes: they come from.
        versions: of the software that measured it.
    """

    run: str
    sha256: str
    data_digest: str
    mu: int
    grid: tuple[int, ...]
    error: tuple[float, ...]
    residual: tuple[float, ...]
    turning: tuple[float, ...]
    halting: tuple[float, ...]
    n: int
    episodes: int
    versions: dict[str, str]

    @classmethod
    def of(cls, measured: Reference) -> Side:
        """What the report shows of a measured model."""
        found: LoopProfile = measured.profile
        return cls(
            run=measured.run,
            sha256=measured.sha256,
            data_digest=measured.data_digest,
            mu=found.mu,
            grid=found.grid,
            error=found.error,
            residual=found.residual,
            turning=found.turning,
            halting=found.halting,
            n=found.n,
            episodes=len(found.sums.episode),
            versions=measured.versions,
        )


@dataclass(frozen=True)
class Monitoring:
    """A comparison.

    Attributes:
        reference, now: what was compared.
        paired: both were measured on the same transitions.
        checks: one per property.
        sample: how both were measured. limits: what counts as a change.
        versions: of the software that compared. config: the whole configuration of the run.
    """

    reference: Side
    now: Side
    paired: bool
    checks: tuple[Check, ...]
    sample: ProfileConfig
    limits: MonitorConfig
    versions: dict[str, str]
    config: dict[str, Any]

    @property
    def changed(self) -> tuple[Check, ...]:
        """The properties beyond their limits."""
        return tuple(check for check in self.checks if check.verdict == "changed")

    def require_unchanged(self) -> None:
        """Raise Changed, with every reason, if anything is beyond its limit."""
        if self.changed:
            reasons = "; ".join(check.reason for check in self.changed)
            raise Changed(
                f"{self.now.run} does not loop as its reference does, {len(self.changed)} of {len(self.checks)} "
                f"properties are beyond their limits: {reasons}."
            )


def monitor(
    run: Path,
    data: Path | None = None,
    reference: Path | None = None,
    config: MonitorConfig | None = None,
    *,
    device: str = "auto",
) -> Monitoring:
    """Compare a run with a reference and write RUN/monitor.json, replacing the one from before.

    Args:
        data: recording to measure on; the one the run was trained on when None.
        reference: a run folder or a reference.json; the run's own when None.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        UserError: no run there, no reference, a damaged one or one of another architecture, a stack, a recording of
            another world, or too few episodes.
    """
    run = Path(run)
    check_looped(run)
    before = read_reference(run if reference is None else reference)
    blueprint = read_checkpoint(run / NAME, ()).blueprint
    if (blueprint.observation, blueprint.action) != (before.blueprint.observation, before.blueprint.action):
        raise UserError(f"The reference of {before.run} is of another world than {run}; give a reference of its own.")
    fault = difference(before.blueprint, blueprint)
    if fault:
        raise UserError(
            f"The reference of {before.run} is of another architecture than {run} ({fault}), whose loop cannot be "
            f"compared with it; store one of its own: {shlex.join(['loopwm', 'monitor', str(run), '--store'])}"
        )
    now = _measured(run, data, before.sample, device, before)
    paired = now.data_digest == before.data_digest and now.profile.sums.episode == before.profile.sums.episode
    limits = config or MonitorConfig()
    result = Monitoring(
        reference=Side.of(before),
        now=Side.of(now),
        paired=paired,
        checks=compare(before.profile, now.profile, paired, limits),
        sample=before.sample,
        limits=limits,
        versions=versions(),
        config=now.config,
    )
    write_json(run / RESULT, plain(result))
    return result


def keep_reference(
    run: Path,
    data: Path | None = None,
    sample: ProfileConfig | None = None,
    *,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Measure a run and store the result as its reference, RUN/reference.json.

    Raises:
        UserError: no run there, a stack, a recording of another world, or a reference that exists.
    """
    run = Path(run)
    check_looped(run)
    if not overwrite:
        refuse_existing(run / FILE, "compare with it by leaving --store out, or replace it with --store --overwrite")
    return store(_measured(run, data, sample or ProfileConfig(), device), run)


def check_looped(run: Path) -> None:
    """Raise UserError unless there is a looped run."""
    check_loopable(read_checkpoint(run / NAME, ()).blueprint.build(), run)


def _measured(
    run: Path, data: Path | None, sample: ProfileConfig, device: str, against: Reference | None = None
) -> Reference:
    place: torch.device = resolve_device(device)
    path = data or read_config(run / "config.yaml").data
    with Store.open(path) as recording:
        columns, episodes = open_memmap(recording), recording.split(sample.split)
    if against is not None and columns.meta.world != against.world:
        raise UserError(
            f"{path} is a recording of '{columns.meta.world}', and the reference of {against.run} was measured on "
            f"'{against.world}'; give a recording of that world."
        )
    if not len(episodes):
        raise UserError(f"{path} has no {sample.split} episodes to measure on; record more episodes.")
    bins = None if against is None else against.profile.bins
    return measure(run, columns, episodes, sample, bins=bins, device=place)


def read_monitoring(run: Path) -> Monitoring | None:
    """The comparison stored in a run folder; None if there is none.

    Raises:
        UserError: it cannot be read.
    """
    path = Path(run) / RESULT
    if not path.is_file():
        return None
    try:
        return TypeAdapter(Monitoring).validate_python(json.loads(path.read_text()))
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        again = shlex.join(["loopwm", "monitor", str(run)])
        raise UserError(f"{path} is not a comparison this loopwm reads; make it again with: {again}") from error
