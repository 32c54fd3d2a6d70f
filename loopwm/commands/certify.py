"""loopwm certify"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from loopwm.certify.config import MeasureConfig
from loopwm.commands.arguments import parse
from loopwm.errors import UserError


@dataclass(frozen=True)
class Certify:
    """Say what a run's weights alone guarantee about its loop, and keep it as a certificate bound to these weights.

    A run trained with --model.loop.certified gets a contraction rate that holds for every input; any other gets bounds,
    and a rate that is measured on its recording and proves nothing."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder."""
    check: Annotated[Path | None, arg(metavar="CERTIFICATE")] = None
    """Verify this certificate against the run instead of writing one."""
    data: Annotated[Path | None, arg(metavar="FILE")] = None
    """Recording to measure an uncertified loop on; the one the run was trained on when left out."""
    measure: Annotated[MeasureConfig, arg(name="")] = field(default_factory=MeasureConfig)
    """How it is measured."""


def main(words: list[str]) -> None:
    """Parse, certify or check, print."""
    arguments = parse(Certify, words, "certify")
    if arguments.check is not None and (arguments.data is not None or arguments.measure != MeasureConfig()):
        raise UserError("--check measures nothing: leave --data and the options of measuring out.")
    # Imported here because torch takes seconds, and mistakes in the options are answered before.
    from loopwm.certify.certificate import FILE, certify, check
    from loopwm.certify.words import summary

    if arguments.check is not None:
        print(summary(check(arguments.run, arguments.check)))
        print(f"{arguments.check} holds for the weights of {arguments.run}")
        return
    print(summary(certify(arguments.run, arguments.data, arguments.measure)))
    print(f"certificate: {arguments.run / FILE}")
