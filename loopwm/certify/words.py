"""A certificate in words, for the command line and the report."""

from __future__ import annotations

from loopwm.certify.certificate import Certificate


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
    elif claims.unmeasured:
        lines += ["C. not claimed: this core was not trained with model.loop.certified"]
        lines += [f"  nor measured: {claims.unmeasured}"]
    else:
        lines += ["C. not claimed: a stack has no loop"]
    lines += ["Stable is not accurate: nothing here says that a prediction or an imagined future is right."]
    return "\n".join(lines)
