"""loopwm train"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from loopwm.commands.arguments import leading, parse, value_of, wants_help
from loopwm.errors import UserError
from loopwm.model.config import SIZES, sized
from loopwm.overlay import overlay
from loopwm.presets import PRESETS, RunConfig, preset
from loopwm.progress import TerminalProgress, duration

if TYPE_CHECKING:
    from loopwm.train.trainer import TrainResult

SIZES_IN_WORDS = ", ".join(f"{name} (width {size.width})" for name, size in SIZES.items())


@dataclass(frozen=True)
class Train:
    """Train a world model on recorded episodes and keep everything about it in one folder.

    The preset is the starting point. A size given with --size changes how large its model is, the file given with
    --config changes both, and the options below change all of it."""

    preset: Annotated[Positional[str], arg(metavar="[PRESET]", help=f"One of {', '.join(PRESETS)}.")]
    settings: Annotated[RunConfig, arg(name="")]
    run: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """The new run folder; runs/PRESET when left out."""
    size: Annotated[
        str | None, arg(metavar="NAME", help=f"Size of the model: {SIZES_IN_WORDS}; the preset's own when left out.")
    ] = None
    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """YAML file with some or all of the options, such as the config.yaml of another run."""
    resume: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Continue this interrupted run instead, with its own configuration; goes without any other option."""


@dataclass(frozen=True)
class Resume:
    """Continue an interrupted run from its last checkpoint, with its own configuration."""

    resume: Annotated[Path, arg(metavar="FOLDER")]
    """The run folder."""


def main(words: list[str]) -> None:
    """Parse, train, print."""
    if not wants_help(words) and any(word.split("=")[0] == "--resume" for word in words):
        result = continued(parse(Resume, words, "train").resume)
    else:
        result = trained(parse_train(words))
    found = ", ".join(told(name, value, result.validation) for name, value in result.validation.items())
    print(f"Trained {result.run}: {result.updates} updates in {duration(result.seconds)}; on validation {found}")
    if result.skipped:
        print(f"{result.skipped} updates were skipped because their loss or gradient was not finite.")
    print(f"next: {following(result.run)}")


def told(name: str, value: float, validation: dict[str, float]) -> str:
    """A number of the last validation, with what it is of."""
    label = name.replace("_", "-")
    if name.endswith("_sure"):
        return f"{label.removesuffix('-sure')} texts surely right {100 * value:.1f}%"
    what = "" if name.endswith("loops") else " loss of a word" if f"{name}_sure" in validation else " error"
    return f"{label}{what} {value:.4f}"


def following(run: Path) -> str:
    """The command that shows what a finished run has learned."""
    from loopwm.text.recording import read_manifest
    from loopwm.train.journal import read_config

    manifest, quoted = read_manifest(read_config(run / "config.yaml").data), shlex.quote(str(run))
    if manifest is None:
        return f"loopwm evaluate {quoted}"
    from loopwm.text.benchmark.lexicon import WORLDS

    known = manifest.world in WORLDS
    return f"loopwm evaluate {quoted} --benchmark {manifest.world}" if known else f"loopwm imagine {quoted}"


def parse_train(words: list[str]) -> Train:
    """Preset < model that is started from < size < file < command line."""
    name = leading(words, "billiards")
    settings = preset(name).config
    size, file, start = (value_of(option, words) for option in ("--size", "--config", "--start"))
    if start is not None:
        from loopwm.train.start import Start

        settings = replace(settings, model=Start.read(Path(start)).blueprint.model)
    if size is not None:
        settings = replace(settings, model=sized(size, settings.model))
    if file is not None:
        settings = overlay(settings, Path(file))
    arguments = parse(Train, words, "train", Train(name, settings))
    if arguments.preset != name:
        raise UserError(f"Write the preset right after the command: loopwm train {arguments.preset} ...")
    return arguments


def trained(arguments: Train) -> TrainResult:
    """A new run."""
    # Imported here and below because torch takes seconds, and mistakes in the options are answered before.
    from loopwm.data.formats.recording import as_store
    from loopwm.train.runs import train

    run = arguments.run or Path("runs") / arguments.preset
    from loopwm.text.recording import is_recording

    settings = arguments.settings
    if not is_recording(settings.data):
        with TerminalProgress("converting", "episode") as progress:
            settings = replace(settings, data=as_store(settings.data, print, progress=progress))
    with TerminalProgress("training", "update") as progress:
        return train(settings, run, progress)


def continued(run: Path) -> TrainResult:
    """The rest of an interrupted run."""
    if not (run / "config.yaml").is_file():
        start = shlex.join(["loopwm", "train", "billiards", "--run", str(run)])
        raise UserError(f"There is no interrupted run at {run}; start one with: {start}")
    from loopwm.train.runs import resume

    with TerminalProgress("training", "update") as progress:
        return resume(run, progress)
