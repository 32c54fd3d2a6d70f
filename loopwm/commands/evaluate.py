"""loopwm evaluate"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from loopwm.commands.arguments import parse
from loopwm.evaluate.config import EvaluateConfig
from loopwm.progress import TerminalProgress

if TYPE_CHECKING:
    from loopwm.evaluate.bootstrap import Interval
    from loopwm.evaluate.evaluation import Evaluation
    from loopwm.evaluate.frontier import Frontier


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained model on episodes it has never seen, and keep the result in its run folder.

    A run that was trained on texts is measured with loopwm evaluate RUN --benchmark scienceworld|alfworld, which has
    options of its own: loopwm evaluate --benchmark scienceworld --help."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder."""
    settings: Annotated[EvaluateConfig, arg(name="")] = field(default_factory=EvaluateConfig)
    data: Annotated[Path | None, arg(metavar="FILE")] = None
    """The recording; the one the run was trained on when left out."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    overwrite: Annotated[bool, FlagCreatePairsOff] = False
    """Replace the evaluation that the run folder holds already."""


def main(words: list[str]) -> None:
    """Parse, evaluate, print."""
    if any(word.split("=")[0] == "--benchmark" for word in words):
        from loopwm.commands import evaluate_text

        return evaluate_text.main(words)
    arguments = parse(Evaluate, words, "evaluate")
    # Imported here because torch takes seconds, and mistakes in the options are answered before.
    from loopwm.evaluate.evaluation import FILE, evaluate

    with TerminalProgress("evaluating", "stage") as progress:
        result = evaluate(
            arguments.run,
            arguments.data,
            arguments.settings,
            progress,
            device=arguments.device,
            existing="replace" if arguments.overwrite else "refuse",
        )
    print(table(result))
    print(f"every number: {arguments.run / FILE}")
    print(f"next: loopwm report {shlex.quote(str(arguments.run))}")


def table(result: Evaluation) -> str:
    """The main errors of an evaluation, one a line."""
    from loopwm.evaluate.early import in_words
    from loopwm.evaluate.tables import pictures as pictures_of

    info = result.run
    early = f"exit {in_words(result.early.exit, info.loops)}" if result.early else ""
    who = [f"{point.loops} loop{'s'[: point.loops != 1]}" for point in result.depth]
    if info.system != "looped":
        who = [info.system]
    lines = [f"{info.name}: normalised mean squared error, 95% intervals over {info.episodes} episodes"]
    lines += ["one step ahead"]
    lines += [row(name, point.error) for name, point in zip(who, result.depth, strict=True)]
    lines += [row(name, error) for name, error in result.controls.items()]
    if result.early is not None:
        lines += [
            row(early, result.early.one_step),
            f"  {spent(result.early.loops, info.loops)}",
        ]
    last = len(result.horizon[0].error)
    for steps in sorted({min(10, last), last}):
        lines += [f"{steps} steps ahead"]
        lines += [row(curve.name, curve.error[steps - 1]) for curve in result.horizon]
        if result.early is not None:
            lines += [row(early, result.early.open_loop[steps - 1])]
    if result.early is not None:
        lines += [f"  {spent(result.early.open_loop_loops, info.loops)}"]
    pictures = pictures_of(result)
    if pictures is not None:
        lines += [f"imagined images, PSNR in dB at {', '.join(pictures.heads)}"]
        lines += [f"  {name:<36}{''.join(f'{cell.text:>8}' for cell in cells)}" for name, cells in pictures.rows]
    if result.frontier is not None:
        lines += [frontier_line(result.frontier)]
    return "\n".join(lines)


def spent(loops: Interval, mu: int) -> str:
    """What leaving early saves."""
    return f"  with that exit {loops.mean:.2f} of {mu} loops"


def frontier_line(found: Frontier) -> str:
    """The rule that needs fewest loops."""
    from loopwm.evaluate.early import in_words

    best = in_words(found.fewest_loops, found.fewest_loops_cap)
    return (
        f"fewest loops within {100 * found.tolerance:g}% of the error at T = {found.mu}: {best}, "
        f"{100 * found.fewest_loops_share:.0f}% of the loops"
    )


def row(name: str, error: Interval) -> str:
    """One line of the table."""
    return f"  {name:<36}{error.mean:>8.4f}  [{error.low:.4f}, {error.high:.4f}]  n = {error.n}"
