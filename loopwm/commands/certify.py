"""loopwm certify"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from loopwm.certify.config import MeasureConfig
from loopwm.commands.arguments import parse

if TYPE_CHECKING:
    from loopwm.certify.certificate import Certificate


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
    # Imported here because torch takes seconds, and mistakes in the options are answered before.
    from loopwm.certify.certificate import FILE, certify, check

    if arguments.check is not None:
        print(summary(check(arguments.run, arguments.check)))
        print(f"{arguments.check} holds for the weights of {arguments.run}")
        return
    print(summary(certify(arguments.run, arguments.data, arguments.measure)))
    print(f"certificate: {arguments.run / FILE}")


def summary(claims: Certificate) -> str:
    """The claims, one a line, in words that do not promise more than they hold."""
    bounds, claim, measured = claims.boundedness, claims.contraction, claims.measured
    lines = [f"sha256 of the averaged weights: {claims.sha256}"]
    lines += ["B. bounded, for every input and any number of steps and loops (2-norm of one token):"]
    lines += [f"  carried latent h_k       at most {bounds.carried:.4g}"]
    if bounds.state is not None:
        given = "" if bounds.observed is None else f", for observations within {bounds.observed:g} standard deviations"
        lines += [
            f"  loop state h^(t)         at most {bounds.state:.4g}, one number of it at most {bounds.channel:.4g}"
            f"{given}"
        ]
    if claim is not None:
        worst = ", ".join(f"{loops} to {share}" for share, loops in claim.loops_to.items())
        lines += ["C. contracting, for every input, in |x|_* = |(1 - Abar)^(-1/2) x|:"]
        lines += [f"  rho = {claim.rate:.5f} per loop: L = {claim.lipschitz:.6f}, d_min = {claim.d_min:.4f}"]
        lines += [f"  loops that always bring the distance to the fixed point to a share of what it was: {worst}"]
        lines += [f"  distance still to go: at most {claim.exit_factor:.4g} times the last loop's step"]
    elif measured is not None:
        lines += ["C. not claimed: this core was not trained with model.loop.certified"]
        lines += [
            f"  measured, not proved: factor per whole step of the loop {measured.median:.4f} (median), "
            f"{measured.worst:.4f} (largest), at n = {measured.n} held-out states after {measured.loops} loops, "
            f"{measured.settled:.0%} of them settled"
        ]
    else:
        lines += ["C. not claimed: a stack has no loop"]
    lines += ["Stable is not accurate: nothing here says that a prediction or an imagined future is right."]
    return "\n".join(lines)
