"""loopwm data: recordings in any format that loopwm reads."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from loopwm.commands.arguments import parse
from loopwm.errors import LoopwmError, UserError

SOURCE = arg(
    metavar="SOURCE", help="An HDF5 store, a folder of .npz files, Parquet, minari:ID, or a URL of the first three."
)


@dataclass(frozen=True)
class Inspect:
    """Say what a recording holds: spaces, counts, lengths, ranges, labels."""

    source: Annotated[Positional[Path], SOURCE]
    plot: Annotated[Path | None, arg(metavar="FILE")] = None
    """Draw lengths, observations, actions and labels into this PNG or SVG."""


@dataclass(frozen=True)
class Validate:
    """Say all that is wrong with a recording. Exit code 1 if anything is."""

    source: Annotated[Positional[Path], SOURCE]


@dataclass(frozen=True)
class Convert:
    """Write a recording in another format."""

    source: Annotated[Positional[Path], SOURCE]
    out: Annotated[Positional[Path], arg(metavar="OUT", help="NAME.h5, NAME.parquet, minari:ID, or a new folder.")]
    to: Literal["", "store", "npz", "parquet", "minari"] = ""
    """The format, where OUT does not say."""


@dataclass(frozen=True)
class Split:
    """Write train, validation and test episodes as recordings of their own, for other programs.

    loopwm itself needs no such files: it splits every recording by what its episodes contain, in the same way."""

    source: Annotated[Positional[Path], SOURCE]
    out: Annotated[Positional[Path], arg(metavar="FOLDER")]
    to: Literal["store", "npz", "parquet"] = "store"
    """The format."""


@dataclass(frozen=True)
class Mix:
    """Put several worlds into one recording, padded to the same shapes, and each of them into one of that form."""

    sources: Annotated[Positional[tuple[Path, ...]], arg(metavar="STORE")]
    out: Annotated[Path, arg(metavar="FOLDER")] = field(default=Path("data/mixed"))
    """The new folder."""
    steps: int = 0
    """Transitions of each; 0 takes as many as the shortest has."""


@dataclass(frozen=True)
class Join:
    """Put recordings of one text world into one, such as of experts and of actors that err."""

    sources: Annotated[Positional[tuple[Path, ...]], arg(metavar="RECORDING")]
    out: Annotated[Path, arg(metavar="FILE")]
    """The new recording."""


COMMANDS = {"inspect": Inspect, "validate": Validate, "convert": Convert, "split": Split, "mix": Mix, "join": Join}


def main(words: list[str]) -> None:
    """Parse and call."""
    name = words[0] if words else ""
    if not words or words[0] in ("-h", "--help"):
        lines = [f"  {one:<10}{(what.__doc__ or '').splitlines()[0]}" for one, what in COMMANDS.items()]
        print(
            "usage: loopwm data COMMAND [options]\n\nRecordings in any format.\n\noptions: -h, --help, of each as "
            "well\n\ncommands:\n" + "\n".join(lines)
        )
        return
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(COMMANDS)}."
        raise UserError(f"There is no command 'data {name}'; {hint}")
    rest = words[1:]
    if name == "inspect":
        show(parse(Inspect, rest, "data inspect"))
    elif name == "validate":
        validate(parse(Validate, rest, "data validate"))
    elif name == "convert":
        convert(parse(Convert, rest, "data convert"))
    elif name == "split":
        split(parse(Split, rest, "data split"))
    elif name == "join":
        joined(parse(Join, rest, "data join"))
    else:
        mixed(parse(Mix, rest, "data mix"))


def show(arguments: Inspect) -> None:
    """Print tables."""
    from rich.console import Console

    from loopwm.data.formats.registry import open_source
    from loopwm.data.inspection import draw, inspect, tables
    from loopwm.text.recording import is_recording, read_recording

    # In a pipe or a file nothing says how wide it is, and eighty columns would cut the tables.
    console = Console() if sys.stdout.isatty() else Console(width=130)
    if is_recording(arguments.source):
        from loopwm.text import inspection

        if arguments.plot is not None:
            raise UserError(f"{arguments.source} is a text recording, of which there is no drawing; leave out --plot.")
        for table in inspection.tables(arguments.source, *read_recording(arguments.source)):
            console.print(table)
        return
    found = inspect(open_source(arguments.source))
    for table in tables(found):
        console.print(table)
    if arguments.plot is not None:
        draw(found, arguments.plot)
        print(f"Written: {arguments.plot}")


def validate(arguments: Validate) -> None:
    """Print problems.

    Raises:
        LoopwmError: there are some.
    """
    from loopwm.data.checks import check
    from loopwm.data.formats.registry import open_source
    from loopwm.text.recording import is_recording

    if is_recording(arguments.source):
        _validate_text(arguments.source)
        return
    report = check(open_source(arguments.source))
    for problem in report.problems:
        print(problem, file=sys.stderr)
    shares = ", ".join(f"{count} {name}" for name, count in report.splits.items())
    if report.problems:
        raise LoopwmError(
            f"{arguments.source} has {len(report.problems)} problem(s); {report.sound} episodes are fine."
        )
    print(f"{arguments.source} is fine: {report.episodes} episodes ({shares}), {report.transitions} transitions.")


def _validate_text(source: Path) -> None:
    from collections import Counter

    from loopwm.text.inspection import problems
    from loopwm.text.recording import SPLITS, read_recording

    _, episodes = read_recording(source)
    found = problems(episodes)
    for problem in found:
        print(problem, file=sys.stderr)
    if found:
        raise LoopwmError(f"{source} has {len(found)} problem(s) in {len(episodes)} episodes.")
    splits = Counter(one.split for one in episodes)
    shares = ", ".join(f"{splits[name]} {name}" for name in SPLITS if splits[name])
    transitions = sum(one.length for one in episodes)
    print(f"{source} is fine: {len(episodes)} episodes ({shares}), {transitions} transitions.")


def _refuse_text(source: Path, what: str) -> None:
    from loopwm.text.recording import is_recording

    if is_recording(source):
        raise UserError(
            f"{source} is a text recording, which is not {what}: it is Parquet already, and says of every episode "
            "which split it is."
        )


def convert(arguments: Convert) -> None:
    """Write."""
    _refuse_text(arguments.source, "converted")
    from loopwm.data.formats.registry import open_source, write_source
    from loopwm.progress import TerminalProgress

    source = open_source(arguments.source)
    with TerminalProgress("converting", "episode") as progress:
        write_source(arguments.out, source.meta, source.episodes(progress), arguments.to)
    print(f"Written: {arguments.out}")


def split(arguments: Split) -> None:
    """Write three recordings."""
    _refuse_text(arguments.source, "split")
    from loopwm.data.checks import SPLITS
    from loopwm.data.episode import identity
    from loopwm.data.formats.registry import format_called, open_source, refuse_address
    from loopwm.data.split import assign
    from loopwm.files import atomic_folder, refuse_existing

    refuse_address(arguments.out)
    refuse_existing(arguments.out, "choose another folder or remove it")
    source = open_source(arguments.source)
    kind = format_called(arguments.to)
    ending = {"store": ".h5", "parquet": ".parquet", "npz": ""}[arguments.to]
    spec = source.meta.observation
    which = [int(assign([identity(episode, spec)])[0]) for episode in source.episodes()]
    with atomic_folder(arguments.out) as aside:
        for number, name in enumerate(SPLITS):
            chosen = (episode for episode, index in zip(source.episodes(), which, strict=True) if index == number)
            if number in which:
                kind.write(aside / f"{name}{ending}", source.meta, chosen)
    for number, name in enumerate(SPLITS):
        print(f"{name}: {which.count(number)} episodes")


def mixed(arguments: Mix) -> None:
    """Write the mixture."""
    from loopwm.data.mix import MixConfig, mix
    from loopwm.progress import TerminalProgress

    with TerminalProgress("mixing", "store") as progress:
        out = mix(MixConfig(arguments.sources, arguments.out, arguments.steps), progress.advance)
    print(f"Written: {out}")


def joined(arguments: Join) -> None:
    """Write all episodes into one recording."""
    from loopwm.text.joining import join

    if not arguments.sources:
        raise UserError("There is nothing to join; name two or more text recordings.")
    manifest = join(arguments.sources, arguments.out)
    print(f"Written: {arguments.out} (digest {manifest.digest})")
