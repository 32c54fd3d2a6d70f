"""loopwm evaluate RUN --benchmark WORLD"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from loopwm.commands.arguments import parse
from loopwm.text.benchmark.benchmark import BenchmarkConfig
from loopwm.text.benchmark.windows import WindowConfig


@dataclass(frozen=True)
class EvaluateText:
    """Measure a model of a text world next to rules, on the same held-out windows; see docs/text-benchmark.md."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder, or the name of a model that comes with loopwm."""
    benchmark: Literal["scienceworld", "alfworld"]
    """The world; decides how answers are compared and averaged."""
    windows: Annotated[WindowConfig, arg(name="")] = field(default_factory=WindowConfig)
    against: Annotated[tuple[Path, ...], arg(metavar="RUN [RUN ...]")] = ()
    """Further runs to measure on the same windows, such as the stacks."""
    data: Annotated[tuple[Path, ...], arg(metavar="FILE [FILE ...]")] = ()
    """Text recordings, training and held-out episodes together; what the run was trained on when left out."""
    rules: bool = True
    """Measure the rules as well."""
    looping: Annotated[bool, FlagCreatePairsOff] = False
    """Also measure what looping buys: EM at T, loops by task type, latents against words, time."""
    beam: int = 1
    """Texts kept while writing; 1 takes the likeliest word every time."""
    decode: Annotated[bool, FlagCreatePairsOff] = False
    """Read every predicted observation as if it had happened, instead of going on in the latent."""
    resamples: int = BenchmarkConfig.resamples
    """Resamples of the episodes, from which the intervals are."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where to write every number, as JSON; when left out RUN/benchmark-TRACK-SPLIT.json, here where RUN is a name."""
    overwrite: Annotated[bool, FlagCreatePairsOff] = False
    """Replace that file."""


def main(words: list[str]) -> None:
    """Parse, measure, print."""
    arguments = parse(EvaluateText, words, "evaluate")
    from rich.console import Console

    from loopwm.files import refuse_existing, write_json
    from loopwm.model.config import ExitConfig
    from loopwm.text.benchmark.benchmark import prepare, run_benchmark
    from loopwm.text.benchmark.examples import ExamplesConfig, Remembering, draw
    from loopwm.text.benchmark.looping import LoopingConfig, lines, looping, refuse_without_loop
    from loopwm.text.benchmark.tables import reported_json, tables
    from loopwm.text.config import SimulatorConfig
    from loopwm.text.evaluation import measured, of_runs, recorded, refuse_trained_on
    from loopwm.text.simulator import TextSimulator
    from loopwm.train.journal import versions
    from loopwm.train.published import folders

    chosen, published = arguments.windows, folders()
    file = f"benchmark-{chosen.track}-{chosen.split}.json"
    out = arguments.out or (Path(file) if str(arguments.run) in published else arguments.run / file)
    if not arguments.overwrite:
        refuse_existing(out, "add --overwrite, or give another file with --out")
    runs = tuple(published.get(str(run), run) for run in (arguments.run, *arguments.against))
    simulators = of_runs(runs, SimulatorConfig(beam=arguments.beam, decode=arguments.decode), arguments.device)
    if arguments.looping:
        refuse_without_loop(simulators[arguments.run.name].model)
    digests, episodes = recorded(arguments.benchmark, runs, arguments.data)
    rules = BenchmarkConfig.rules if arguments.rules else ()
    config = BenchmarkConfig(windows=chosen, resamples=arguments.resamples, seed=chosen.seed, rules=rules)
    windows = prepare(episodes, config)[0]
    for run in runs:
        refuse_trained_on(run, digests, windows)
    told = Console(stderr=True)

    def step(name: str) -> None:
        told.print(f"measuring: {name}")

    asked = {name: Remembering(simulator) for name, simulator in simulators.items()}
    result = run_benchmark(arguments.benchmark, episodes, asked, config, step=step)
    # Tables are wide; a terminal narrower than this would cut their figures.
    Console(width=max(180, Console().width)).print(tables(result))
    written = {**result.to_json(), "recordings": digests, "reported": reported_json(arguments.benchmark)}
    written["parameters"] = {name: one.model.num_parameters() for name, one in simulators.items()}
    written |= {"runs": measured(runs), "command": shlex.join(["loopwm", "evaluate", *words]), "versions": versions()}
    early = None
    if arguments.looping:
        model = simulators[arguments.run.name].model
        memory = simulators[arguments.run.name].memory
        how = LoopingConfig(memory=memory, beam=arguments.beam, decode=arguments.decode)
        found = looping(model, arguments.benchmark, windows, how, arguments.resamples, step)
        print("\n".join(lines(found)))
        written["looping"] = asdict(found)
        early = TextSimulator(model, SimulatorConfig(exit=ExitConfig(found.rule, found.chosen), memory=memory))
    written["examples"] = asdict(draw(windows, asked, early, ExamplesConfig(seed=chosen.seed)))
    write_json(out, written)
    print(f"every number: {out}")
    if out.parent == arguments.run:
        print(f"next: {shlex.join(['loopwm', 'report', *map(str, runs)])}")
