"""loopwm collect, of a text world"""

from __future__ import annotations

import shlex
import sys
from dataclasses import MISSING, dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from loopwm.commands.arguments import parse
from loopwm.progress import TerminalProgress
from loopwm.text.collect import TextCollectConfig, collect_text, journal_of, told
from loopwm.text.worlds.registry import TEXT_WORLDS, actors_of, maker


@dataclass(frozen=True)
class CollectText(TextCollectConfig):
    """Options that all text worlds have."""

    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """The new file; data/WORLD.parquet when left out."""


def main(name: str, words: list[str]) -> None:
    """Parse, record, print; `words` are those after the name of the world."""
    arguments: Any = parse(form(name), words, f"collect {name}")
    config = TextCollectConfig(**{one.name: getattr(arguments, one.name) for one in fields(TextCollectConfig)})
    config = replace(config, actors=actors_of(name, config.actors))
    out = arguments.out or Path("data") / f"{name}.parquet"
    # Not the number of workers, on which the recording does not depend: another one may go on with it.
    options = chosen(replace(config, workers=TextCollectConfig.workers)) + chosen(arguments.world)
    command = " ".join([f"loopwm collect {name} --out {shlex.quote(out.name)}", *options])
    with TerminalProgress("recording", "episode") as progress:
        try:
            done = collect_text(maker(name, arguments.world), config, out, command, progress.advance)
        except KeyboardInterrupt:
            if (journal := journal_of(out)).exists():
                print(f"Finished episodes are in {journal}; the same command goes on from there.", file=sys.stderr)
            raise
    print(f"Recorded {done.episodes} episodes of {name} with {done.transitions} transitions: {out}")
    if done.left_out:
        games = "; ".join(map(told, done.left_out[:5]))
        more = f"; and {len(done.left_out) - 5} more" if len(done.left_out) > 5 else ""
        print(f"{len(done.left_out)} episodes failed twice and were left out: {games}{more}.", file=sys.stderr)
    print(f"next: loopwm train text --data {shlex.quote(str(out))}")


def form(name: str) -> type[CollectText]:
    """The options of one world: those of every text world, and its own configuration's."""
    entry = TEXT_WORLDS[name]
    own = ("world", Annotated[entry.config, arg(name="")], field(default_factory=entry.config))
    made = make_dataclass("CollectWorld", [own], bases=(CollectText,), frozen=True)
    made.__module__ = __name__
    made.__doc__ = (
        f"Record {entry.summary}.\n\nInto one Parquet file, which appears when it is complete. Stopped, or killed, the "
        f"same command goes on where it was. Actors: {', '.join(entry.actors)}. See docs/text-worlds.md."
    )
    return made


def chosen(config: Any) -> list[str]:
    """A configuration as words of the command line, without what is as it is by default."""
    words = []
    for one in fields(config):
        value = getattr(config, one.name)
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        option = one.name.replace("_", "-")
        if value == default:
            continue
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, tuple):
            words.append(shlex.join([f"--{option}", *map(str, value)]))
        else:
            words.append(f"--{option} {shlex.quote(str(value))}")
    return words
