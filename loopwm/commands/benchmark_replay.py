"""loopwm benchmark replay"""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from loopwm.commands.arguments import parse
from loopwm.errors import UserError
from loopwm.progress import TerminalProgress


@dataclass(frozen=True)
class BenchmarkReplay:
    """Play recorded episodes once more in the real world, and count how often it answers otherwise.

    A model that knows everything could do no better; see docs/text-benchmark.md."""

    data: Annotated[Path, arg(metavar="FILE")]
    """A text recording; its world has to be installed."""
    out: Annotated[Path, arg(metavar="FILE")]
    """Where to write every number, as JSON; `loopwm benchmark rules --replay` shows it beside the ceiling."""
    split: Literal["train", "validation", "test"] = "validation"
    """Which episodes."""
    actors: tuple[str, ...] = ("gold", "expert")
    """Whose episodes; everybody's when empty."""
    games: Annotated[Path | None, arg(metavar="PATH")] = None
    """Where the games of ALFWorld are, as in `loopwm collect alfworld --games`."""
    workers: int = 1
    """Processes, each with a world of its own."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"workers must be at least 1, got {self.workers}.")


def main(words: list[str]) -> None:
    """Parse, play, count, print; `words` are those after `replay`."""
    arguments = parse(BenchmarkReplay, words, "benchmark replay")
    from loopwm.files import refuse_existing, write_json
    from loopwm.text.benchmark.aggregate import REPORT_MIX
    from loopwm.text.benchmark.replaying import Replaying, replay_noise, replayed
    from loopwm.text.collect import told
    from loopwm.text.recording import read_recording
    from loopwm.text.worlds.registry import maker, where
    from loopwm.train.journal import versions

    refuse_existing(arguments.out, "choose another file or remove it")
    manifest, episodes = read_recording(arguments.data)
    chosen = [
        one
        for one in episodes
        if one.split == arguments.split and (not arguments.actors or one.actor in arguments.actors)
    ]
    if not chosen:
        raise UserError(
            f"{arguments.data} has no {arguments.split} episode of {' or '.join(arguments.actors) or 'anyone'}."
        )
    make = partial(Replaying, maker(manifest.world, where(manifest.world, arguments.games)), chosen)
    with TerminalProgress("playing again", "episode") as progress:
        again, left_out = replayed(make, chosen, arguments.workers, progress.advance)
    noise = replay_noise(chosen, again, REPORT_MIX.get(manifest.world, {}))
    written = {
        "command": shlex.join(["loopwm", "benchmark", "replay", *words]),
        "versions": versions() | manifest.versions,
        "recordings": {arguments.data.name: manifest.digest},
        "world": manifest.world,
        "split": arguments.split,
        "left_out": [told(one) for one in left_out],
        "noise": asdict(noise),
    }
    write_json(arguments.out, written)
    micro = noise.differs.micro
    print(f"Played {len(again)} episodes again; answered otherwise, in percent of all steps:")
    for name, one in {"all": micro, "all, lists sorted": noise.unordered.micro, **noise.differs.by_type}.items():
        print(f"  {name:<18} {100 * one.mean:5.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}] of {one.n:,} steps")
    if left_out:
        print(f"{len(left_out)} episodes could not be played again, such as {told(left_out[0])}.", file=sys.stderr)
    print(f"every number: {arguments.out}")
