"""RUN/reference.json: how a model looped when its training ended, bound to its weights and its recording."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from loopwm.certify.certificate import WEIGHTS
from loopwm.data.cache import Columns
from loopwm.errors import UserError
from loopwm.evaluate.evaluation import plain
from loopwm.evaluate.segments import tile
from loopwm.files import write_json
from loopwm.model.world_model import WorldModel
from loopwm.monitor.config import ProfileConfig
from loopwm.monitor.profile import Bins, LoopProfile, profile
from loopwm.train.checkpoint import NAME, Blueprint, read_checkpoint, weights_digest
from loopwm.train.journal import config_as_dict, read_config, versions

FORMAT = 1
FILE = "reference.json"

ARCHITECTURE = (
    "system",
    "width",
    "heads",
    "mlp_ratio",
    "tokens",
    "entity_tokens",
    "image_encoder",
    "prelude",
    "shared",
    "coda",
)
LOOP = ("mu", "retention", "phases", "normalise_input", "start", "certified")
"""Options in which two models must agree to be comparable. The others may change; the monitor says what came of it."""


@dataclass(frozen=True)
class Reference:
    """A measured model.

    Attributes:
        format: version of this file.
        run: name of the run folder. sha256: of its averaged weights and its architecture, as in a certificate.
        blueprint: of the model. updates: made when it was measured.
        world, data_digest: the recording measured on.
        sample: how it was measured. profile: what was found.
        versions: of the software. config: the run's whole configuration, its seed included.
    """

    format: int
    run: str
    sha256: str
    blueprint: Blueprint
    updates: int
    world: str
    data_digest: str
    sample: ProfileConfig
    profile: LoopProfile
    versions: dict[str, str]
    config: dict[str, Any]


def measure(
    run: Path,
    columns: Columns,
    episodes: np.ndarray,
    sample: ProfileConfig,
    *,
    bins: tuple[Bins, ...] | None = None,
    device: str | torch.device = "cpu",
) -> Reference:
    """Measure the averaged weights of a run.

    Args:
        episodes: indices of the episodes of `sample.split`.
        bins: difficulty bins of the reference to be compared with; new ones when None.

    Raises:
        UserError: no run there, a stack, no episodes, or the recording of another world.
    """
    checkpoint = read_checkpoint(run / NAME, (WEIGHTS + ".",))
    model = checkpoint.restore(checkpoint.blueprint.build(), WEIGHTS).eval().to(device)
    check_loopable(model, run)
    meta = columns.meta
    if (model.observation, model.action) != (meta.observation, meta.action):
        raise UserError(
            f"{run} was trained on another world than '{meta.world}' (observations of shape {model.observation.shape} "
            f"against {meta.observation.shape}); give a recording of its own world."
        )
    missing = [one.label for one in bins or () if one.label not in meta.label_names]
    if missing:
        raise UserError(
            f"The recording lacks the difficulty label '{missing[0]}' that the reference counts loops by; record the "
            "world again with this version of loopwm."
        )
    segments = tile(columns, episodes, 1, transitions=sample.transitions, seed=sample.seed)
    settings = read_config(run / "config.yaml")
    return Reference(
        format=FORMAT,
        run=run.name,
        sha256=weights_digest(checkpoint.blueprint, checkpoint.part(WEIGHTS)),
        blueprint=checkpoint.blueprint,
        updates=checkpoint.state["update"],
        world=meta.world,
        data_digest=columns.digest,
        sample=sample,
        profile=profile(model, segments, sample, bins),
        versions=versions(),
        config=config_as_dict(settings),
    )


def check_loopable(model: WorldModel, run: Path) -> None:
    """Raise UserError for a stack."""
    if not model.core.loopable:
        raise UserError(f"{run} is a {model.config.system}: it has no loop to monitor; give a looped run.")


def store(reference: Reference, run: Path) -> Path:
    """Write RUN/reference.json, atomically."""
    write_json(Path(run) / FILE, plain(reference))
    return Path(run) / FILE


def read_reference(path: Path) -> Reference:
    """A stored reference.

    Args:
        path: a run folder, or the file itself, NAME.json.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = Path(path)
    file = path if path.suffix == ".json" else path / FILE
    again = shlex.join(["loopwm", "monitor", str(file.parent), "--store"])
    if not file.is_file():
        raise UserError(f"There is no reference at {file}; a run trained before there were any gets one with: {again}")
    try:
        content = json.loads(file.read_text())
        if isinstance(content, dict) and content.get("format") != FORMAT:
            raise UserError(
                f"{file} has reference format {content.get('format')}, this loopwm reads format {FORMAT}; measure it "
                f"again with: {again} --overwrite"
            )
        found = TypeAdapter(Reference).validate_python(content)
        check_sums(found.profile)
    except (ValidationError, ValueError) as error:
        raise UserError(f"{file} is damaged or not a reference; measure it again with: {again} --overwrite") from error
    return found


def check_sums(found: LoopProfile) -> None:
    """Raise ValueError unless all tables of a profile have the shapes they are read with."""
    episodes, sums = len(found.sums.episode), found.sums
    widths = [
        (sums.error, len(found.grid)),
        (sums.residual, len(found.grid)),
        (sums.turning, 2),
        (sums.halting, 4 * found.mu),
        *((rows, len(bins.names)) for rows, bins in zip(sums.counts, found.bins, strict=True)),
        *((rows, len(bins.names)) for rows, bins in zip(sums.loops, found.bins, strict=True)),
    ]
    shapes = [len(rows) == episodes and all(len(row) == width for row in rows) for rows, width in widths]
    if not episodes or len(sums.transitions) != episodes or not all(shapes):
        raise ValueError("table shapes")


def difference(before: Blueprint, after: Blueprint) -> str:
    """The option that makes two models incomparable, in words; empty if there is none."""
    pairs = [(f"model.{name}", getattr(before.model, name), getattr(after.model, name)) for name in ARCHITECTURE]
    pairs += [
        (f"model.loop.{name}", getattr(before.model.loop, name), getattr(after.model.loop, name)) for name in LOOP
    ]
    return next((f"{name} {was} instead of {now}" for name, was, now in pairs if was != now), "")
