"""Trained runs as systems of the text benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from loopwm.errors import UserError
from loopwm.files import file_digest
from loopwm.text.benchmark.lexicon import WORLDS
from loopwm.text.benchmark.sources import read_world
from loopwm.text.benchmark.windows import Window, refuse_overlap
from loopwm.text.config import SimulatorConfig
from loopwm.text.recording import TextEpisode, read_recording
from loopwm.text.simulator import TextSimulator
from loopwm.train.checkpoint import NAME, read_checkpoint
from loopwm.train.hardware import resolve_device
from loopwm.train.journal import read_config


def of_runs(
    runs: Sequence[Path], config: SimulatorConfig | None = None, device: str = "auto"
) -> dict[str, TextSimulator]:
    """A simulator for every run, by the names of their folders.

    Raises:
        UserError: a run cannot be loaded or has not learned a text world, or two have one name.
    """
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"Two of the runs are called '{twice[0]}'; rename a folder, so that they can be told apart.")
    return {run.name: TextSimulator.from_run(run, config, str(resolve_device(device))) for run in runs}


def recorded(world: str, runs: Sequence[Path], data: Sequence[Path] = ()) -> tuple[dict[str, str], list[TextEpisode]]:
    """The recordings' digests and episodes.

    Args:
        data: files to ask about; the recording that all runs were trained on when empty.

    Raises:
        UserError: another world was recorded, or nothing says which recording is meant.
    """
    files = list(data)
    if not files:
        found = {read_config(run / "config.yaml").data for run in runs}
        if len(found) > 1:
            named = " and ".join(sorted(map(str, found)))
            raise UserError(f"The runs were trained on different recordings, {named}; say which with --data.")
        files = list(found)
    seen, digests, episodes = read_world(files)
    if seen not in WORLDS:
        raise UserError(
            f"{files[0]} was recorded in {seen}, for which there are no rules; the benchmark "
            f"knows {' and '.join(WORLDS)}."
        )
    if seen != world:
        raise UserError(f"{files[0]} was recorded in {seen}, not in {world}; give --benchmark {seen}.")
    return digests, episodes


def refuse_trained_on(run: Path, digests: Mapping[str, str], windows: Sequence[Window]) -> None:
    """Refuse windows of games that `run` learned from, when it was trained on another recording than these.

    Raises:
        UserError: there are such windows, or the recording that the run was trained on cannot be looked at.
    """
    trained_on = read_checkpoint(run / NAME, ()).state["data_digest"]
    if trained_on in digests.values():
        # Of its own recording, the benchmark itself refuses games of the training episodes.
        return
    path = read_config(run / "config.yaml").data
    if not path.is_file():
        raise UserError(
            f"{run} was trained on {path}, which is not here, so that nobody can say which games are new to it; give "
            "that recording with --data. How those of published models are made is in recordings/README.md."
        )
    manifest, episodes = read_recording(path)
    if manifest.digest != trained_on:
        raise UserError(f"{path} is not the recording that {run} was trained on; put that one there again.")
    refuse_overlap(windows, [one for one in episodes if one.split == "train"])


def measured(runs: Sequence[Path]) -> dict[str, dict[str, str | int]]:
    """Of every run, by the names of their folders, what stays the same as long as its weights do."""
    return {
        run.name: {
            "checkpoint": file_digest(run / NAME),
            "updates": read_checkpoint(run / NAME, ()).state["update"],
        }
        for run in runs
    }
