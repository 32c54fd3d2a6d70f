"""loopwm benchmark"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from loopwm.commands.arguments import parse
from loopwm.errors import UserError
from loopwm.text.benchmark.benchmark import BenchmarkConfig
from loopwm.text.benchmark.windows import WindowConfig


@dataclass(frozen=True)
class Benchmark:
    """Measure the rules that a model of a text world has to beat, and what cannot be known.

    On windows of held-out episodes of a recording; see docs/text-benchmark.md. How often the world itself answers
    otherwise is measured by loopwm benchmark replay, which has options of its own."""

    what: Annotated[Positional[Literal["rules"]], arg(metavar="rules")]
    """The systems measured."""
    data: Annotated[tuple[Path, ...], arg(metavar="FILE [FILE ...]")]
    """Text recordings of one world, training and held-out episodes together."""
    windows: Annotated[WindowConfig, arg(name="")] = field(default_factory=WindowConfig)
    resamples: int = BenchmarkConfig.resamples
    """Resamples of the episodes, from which the intervals are."""
    hold_out: float = 0.0
    """Share of the training games to hold out as validation; for recordings without validation episodes."""
    replay: Annotated[Path | None, arg(metavar="FILE")] = None
    """What `loopwm benchmark replay` wrote of one of the recordings: how often the world itself answers otherwise."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where to write every number, as JSON."""


def main(words: list[str]) -> None:
    """Parse, measure, print."""
    if words[:1] == ["replay"]:
        from loopwm.commands import benchmark_replay

        return benchmark_replay.main(words[1:])
    if words and words[0] != "rules" and not words[0].startswith("-"):
        raise UserError(f"There is nothing called '{words[0]}' to benchmark; choose rules or replay.")
    arguments = parse(Benchmark, words, "benchmark")
    from rich.console import Console

    from loopwm.files import refuse_existing, write_json
    from loopwm.text.benchmark.benchmark import run_benchmark
    from loopwm.text.benchmark.replaying import read_noise
    from loopwm.text.benchmark.sources import read_world
    from loopwm.text.benchmark.tables import reported_json, tables
    from loopwm.text.benchmark.windows import hold_out

    config = BenchmarkConfig(windows=arguments.windows, resamples=arguments.resamples, seed=arguments.windows.seed)
    if arguments.out is not None:
        refuse_existing(arguments.out, "choose another file or remove it")
    world, digests, episodes = read_world(arguments.data)
    noise = read_noise(arguments.replay, digests, arguments.windows.split) if arguments.replay is not None else None
    if arguments.hold_out:
        episodes = hold_out(episodes, arguments.hold_out)
    told = Console(stderr=True)
    result = run_benchmark(
        world, episodes, config=config, replay=noise, step=lambda name: told.print(f"measuring: {name}")
    )
    # Tables are wide; a terminal narrower than this would cut their figures.
    Console(width=max(180, Console().width)).print(tables(result))
    if arguments.out is not None:
        write_json(arguments.out, {**result.to_json(), "recordings": digests, "reported": reported_json(world)})
        print(f"every number: {arguments.out}")
