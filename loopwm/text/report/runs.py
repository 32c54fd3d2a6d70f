"""What a text run is: its model, its training, and the recording it learned from."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwm.errors import UserError
from loopwm.evaluate.findings import SYSTEM_NAMES
from loopwm.files import file_digest
from loopwm.text.recording import TextManifest, read_manifest
from loopwm.train.checkpoint import NAME, load, read_checkpoint
from loopwm.train.journal import config_as_dict, read_config, read_log


@dataclass(frozen=True)
class TextRun:
    """One run.

    Attributes:
        label: what it is called on the page. name, folder: of the run. system: what kind of core.
        updates: made, of `planned`. hours: they took, over all resumptions.
        loops: T used where nothing else is said: mu, or 1 for a stack.
        words: size of the vocabulary, letters and marks included.
        flops: operations of one step of the latent, by which stacks are matched.
        checkpoint: digest of the checkpoint. data, data_digest: what was learned from.
        recording: its manifest; None where it is gone, or another one is there.
        trained_with: a command that makes the same run again.
        versions, precision, device: as the run noted them; empty where it did not.
        config: the whole configuration. log: the journal.
    """

    label: str
    name: str
    folder: str
    system: str
    seed: int
    updates: int
    planned: int
    hours: float
    learning_rate: float
    loops: int
    parameters: int
    flops: int
    words: int
    checkpoint: str
    data: str
    data_digest: str
    recording: TextManifest | None
    trained_with: str
    versions: dict[str, str]
    precision: str
    device: str
    config: dict[str, Any]
    log: list[dict[str, Any]]


def learned_text(run: Path) -> bool:
    """Whether a run observes text; False also where there is no run."""
    path = Path(run) / NAME
    return path.is_file() and read_checkpoint(path, ()).blueprint.observation.kind == "text"


def describe(runs: Sequence[Path]) -> list[TextRun]:
    """The runs, the earliest looped one at the head.

    Raises:
        UserError: none is given, or two have one name, or one cannot be loaded.
    """
    folders = [Path(run) for run in runs]
    if not folders:
        raise UserError("A report needs at least one run; give its folder.")
    names = [run.resolve().name for run in folders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"Two of the runs are called '{twice[0]}'; rename a folder, so that they can be told apart.")
    systems = [read_config(run / "config.yaml").model.system for run in folders]
    labels = [
        SYSTEM_NAMES.get(system, system) + (f" ({name})" if systems.count(system) > 1 else "")
        for system, name in zip(systems, names, strict=True)
    ]
    found = [_described(run, label) for run, label in zip(folders, labels, strict=True)]
    head = next((one for one in found if one.system == "looped"), found[0])
    return [head, *(one for one in found if one is not head)]


def _described(run: Path, label: str) -> TextRun:
    state, settings = read_checkpoint(run / NAME, ()).state, read_config(run / "config.yaml")
    model = load(run)
    info = json.loads((run / "info.json").read_text()) if (run / "info.json").is_file() else {}
    manifest = read_manifest(settings.data)
    again = ["loopwm", "train", "text", "--config", str(run / "config.yaml"), "--run", f"{run}-again"]
    return TextRun(
        label=label,
        name=run.resolve().name,
        folder=str(run),
        system=settings.model.system,
        seed=settings.train.seed,
        updates=state["update"],
        planned=settings.train.updates,
        hours=state["seconds"] / 3600,
        learning_rate=settings.optim.lr,
        loops=model.default_loops,
        parameters=model.num_parameters(),
        flops=model.flops().step,
        words=len(model.observation.names),
        checkpoint=file_digest(run / NAME),
        data=str(settings.data),
        data_digest=state["data_digest"],
        recording=manifest if manifest is not None and manifest.digest == state["data_digest"] else None,
        trained_with=shlex.join(again),
        versions=info.get("versions", {}),
        precision=info.get("precision", ""),
        device=info.get("device", ""),
        config=config_as_dict(settings),
        log=read_log(run),
    )
