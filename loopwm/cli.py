"""The command line: parse, call, print.

Heavy modules are imported by the command that needs them, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import difflib
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import tyro
from tyro.conf import Positional, arg

from loopwm.errors import LoopwmError, UserError
from loopwm.overlay import overlay
from loopwm.presets import PRESETS, RunConfig, preset
from loopwm.progress import TerminalProgress, duration

if TYPE_CHECKING:
    from loopwm.train.trainer import TrainResult

Arguments = TypeVar("Arguments")

PRESET_LINES = "\n".join(f"  {name:<10} {one.intent}" for name, one in PRESETS.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 fine, 1 failed, 2 bad input, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return dispatch(words)
    except LoopwmError as error:
        return give_up(str(error), error.exit_code)
    except OSError as error:
        return give_up(f"The operating system refused: {error}.", LoopwmError.exit_code)
    except KeyboardInterrupt:
        return give_up("Stopped; nothing half-written was left behind.", 130)


def give_up(sentence: str, code: int) -> int:
    """Say why on standard error."""
    print(f"loopwm: {sentence}", file=sys.stderr)
    return code


def dispatch(words: list[str]) -> int:
    """Run the command that the words begin with."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"loopwm {version('loopwm')}")
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(COMMANDS)}."
        raise UserError(f"There is no command '{name}'; {hint}")
    COMMANDS[name].run(rest)
    return 0


def overview() -> str:
    """What `loopwm --help` shows."""
    commands = "\n".join(f"  {name:<10} {command.summary}" for name, command in COMMANDS.items())
    return f"""usage: loopwm COMMAND [options]        loopwm COMMAND --help lists the options

Looped world models: record a world, train a model that spends as many loops of one shared block on a transition as you
ask for, and measure what the loops buy.

commands:
{commands}

presets, the starting points of train and demo:
{PRESET_LINES}

to begin with:
  loopwm demo debug        does everything work here?
  loopwm demo              the same with numbers that mean something"""


def parse(form: type[Arguments], words: list[str], command: str, default: Arguments | None = None) -> Arguments:
    """Read `words` as the options in `form`; prints help, or what is wrong with a hint, and exits when asked or needed."""
    return tyro.cli(form, args=words, prog=f"loopwm {command}", default=default)


def leading(words: list[str], default: str) -> str:
    """The name that the words begin with. It decides the defaults of everything after it."""
    return words[0] if words and not words[0].startswith("-") else default


def value_of(option: str, words: list[str]) -> str | None:
    """The value of one option, looked up before the rest can be understood; None when absent."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument(option, nargs="?", dest="value")
    return reader.parse_known_args(words)[0].value


def collect(words: list[str]) -> None:
    """loopwm collect"""
    from loopwm.data.collect import CollectConfig
    from loopwm.data.collect import collect as record
    from loopwm.data.store import Store

    @dataclass(frozen=True)
    class Collect(CollectConfig):
        """Record episodes of a world under random actions into one HDF5 file.

        The file appears when it is complete. It depends on the seed, and not on the number of workers."""

        world: Annotated[Positional[str], arg(metavar="[WORLD]")] = "billiards"
        """Name of the world."""
        out: Annotated[Path | None, arg(metavar="FILE")] = None
        """The new file; data/WORLD.h5 when left out."""

    arguments = parse(Collect, words, "collect")
    # Workers receive the configuration, and a class that exists only inside a function cannot travel to them.
    config = CollectConfig(**{field.name: getattr(arguments, field.name) for field in fields(CollectConfig)})
    out = arguments.out or Path("data") / f"{config.world}.h5"
    with TerminalProgress("recording", "episode") as progress:
        record(config, out, progress.advance)
    with Store.open(out) as store:
        print(f"Recorded {store.num_episodes} episodes, {store.num_transitions} transitions, of {config.world}: {out}")
    print(f"next: loopwm train {config.world if config.world in PRESETS else ''} --data {shlex.quote(str(out))}")


@dataclass(frozen=True)
class Train:
    """Train a world model on recorded episodes and keep everything about it in one folder.

    A preset is the starting point, a --config file changes it, and the options below change both."""

    preset: Annotated[Positional[str], arg(metavar="[PRESET]", help=f"One of {', '.join(PRESETS)}.")]
    settings: Annotated[RunConfig, arg(name="")]
    run: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """The new run folder; runs/PRESET when left out."""
    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """YAML file with some or all options, such as the config.yaml of another run."""
    resume: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Continue this interrupted run instead, with its own configuration."""


@dataclass(frozen=True)
class Resume:
    """Continue an interrupted run from its last checkpoint, with its own configuration."""

    resume: Annotated[Path, arg(metavar="FOLDER")]
    """The run folder."""


def train(words: list[str]) -> None:
    """loopwm train"""
    if "--help" not in words and "-h" not in words and any(word.split("=")[0] == "--resume" for word in words):
        folder = parse(Resume, words, "train").resume
        from loopwm.train.trainer import resume

        with TerminalProgress("training", "update") as progress:
            return print_trained(resume(folder, progress))
    name = leading(words, "billiards")
    settings = preset(name).config
    file = value_of("--config", words)
    if file is not None:
        settings = overlay(settings, Path(file))
    arguments = parse(Train, words, "train", Train(name, settings))
    if arguments.preset != name:
        raise UserError(f"Write the preset right after the command: loopwm train {arguments.preset} ...")
    run = arguments.run or Path("runs") / name
    from loopwm.train.trainer import train as fit

    with TerminalProgress("training", "update") as progress:
        print_trained(fit(arguments.settings, run, progress))


def print_trained(result: TrainResult) -> None:
    """What came out of training, and what to do with it."""
    errors = ", ".join(f"{name.replace('_', '-')} error {value:.4f}" for name, value in result.validation.items())
    print(f"Trained {result.run}: {result.updates} updates in {duration(result.seconds)}; on validation {errors}")
    if result.skipped:
        print(f"{result.skipped} updates were skipped because their loss or gradient was not finite.")
    print(f"next: loopwm evaluate {shlex.quote(str(result.run))}")


@dataclass(frozen=True)
class Command:
    """A command of the command line."""

    summary: str
    run: Callable[[list[str]], None]


COMMANDS = {
    "collect": Command("record episodes of a world into an HDF5 file", collect),
    "train": Command("train a model on recorded episodes", train),
}
