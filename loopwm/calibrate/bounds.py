"""Is a mean below zero? Tests of one hypothesis, H: E[D] >= 0, from independent values D_1, D_2, ..."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
PValue = Callable[[Array, Array], npt.NDArray[np.float64]]
"""(D (n, C) with one column a hypothesis, largest possible value (C,)) -> p (C,)."""

BOLDEST = 0.9
"""Largest bet, as a share of what could be lost at once: at 1 a single worst value would end the game."""


def betting_p_value(values: Array, largest: Array) -> npt.NDArray[np.float64]:
    """p of H: E[D] >= 0 for every column of `values` (n, C), each at most `largest` (C,); valid for every n.

    A gambler bets against H before each value is shown: wealth W_n = prod (1 - b_i D_i), where 0 <= b_i < 1 / largest
    depends on D_1 ... D_{i-1} only. Under H no bet gains on average, so W is a non-negative supermartingale, and by
    Ville's inequality it ever reaches 1 / p with probability at most p. The bet follows the mean and the variance of
    what was shown (aGRAPA), which makes it large where the values vary little.

    Source: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, arXiv 2010.09686.
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    if n == 0:
        return np.ones(values.shape[1])
    count = np.arange(1, n + 1)[:, None]
    # One imagined value at zero, so that the opening bets are modest.
    mean = np.cumsum(-values, axis=0) / (count + 1)
    square = (largest**2 / 4 + np.cumsum(values**2, axis=0)) / (count + 1)
    bold = np.clip(mean / np.maximum(square, np.finfo(np.float64).tiny), 0, BOLDEST / largest)
    bet = np.concatenate([np.zeros((1, values.shape[1])), bold[:-1]])
    log_wealth = np.cumsum(np.log1p(-bet * values), axis=0)
    return np.exp(-np.maximum(log_wealth.max(axis=0), 0.0))


def normal_p_value(values: Array, largest: Array) -> npt.NDArray[np.float64]:
    """p of H: E[D] >= 0 by the central limit theorem: valid only as n grows; `largest` plays no part."""
    values = np.asarray(values, np.float64)
    n = len(values)
    if n < 2:
        return np.ones(values.shape[1])
    mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(spread > 0, mean * math.sqrt(n) / spread, np.where(mean < 0, -np.inf, np.inf))
    return np.array([NormalDist().cdf(float(value)) for value in z])


METHODS: dict[str, PValue] = {"betting": betting_p_value, "normal": normal_p_value}


def fewest_episodes(error: float, largest: float, excess: float, confidence: float) -> int:
    """Episodes without which `betting` cannot accept even an exit that costs nothing, D = -excess * error."""
    gain = math.log1p(BOLDEST * excess * error / largest)
    return math.ceil(-math.log(1 - confidence) / gain) + 1


@dataclass(frozen=True)
class Choice:
    """Outcome of fixed-sequence testing.

    Attributes:
        chosen: index of the cheapest accepted candidate; None if not even the most careful one is accepted.
        p: p-value per candidate, from careful to cheap.
    """

    chosen: int | None
    p: tuple[float, ...]


def choose(
    full: Array, harm: Array, largest: Array, excess: float, confidence: float, method: PValue = betting_p_value
) -> Choice:
    """The cheapest candidate whose excess error is below `excess`, with probability `confidence`.

    Candidates are tested from the most careful to the cheapest, each at level 1 - confidence, until one fails:
    a wrong one is accepted only if the most careful of the wrong ones is, and that happens with probability at most
    1 - confidence, however many there are. A candidate with several errors must pass for each of them, so its p-value
    is the largest of theirs.

    Args:
        full: (n, M) M errors per episode at full depth.
        harm: (n, C, M) what each of C candidates adds to them, from careful to cheap.
        largest: (C, M) how much harm an episode counts with at most.

    Source: Angelopoulos, Bates, Candes, Jordan and Lei, Learn then Test, arXiv 2110.01052.
    """
    n, candidates, measures = harm.shape
    values = np.minimum(harm, largest) - excess * full[:, None]
    p = method(values.reshape(n, -1), largest.reshape(-1)).reshape(candidates, measures).max(axis=1)
    # What is no number, as of errors that are not finite, is no evidence.
    failed = np.flatnonzero(~(p <= 1 - confidence))
    accepted = candidates if len(failed) == 0 else int(failed[0])
    return Choice(accepted - 1 if accepted else None, tuple(p.tolist()))


def coverage(
    full: Array,
    harm: Array,
    largest: Array,
    excess: float,
    confidence: float,
    *,
    episodes: int,
    resamplings: int = 200,
    seed: int = 0,
    method: PValue = betting_p_value,
) -> tuple[float, float]:
    """How often the claim holds, and how often one is made, when calibration is repeated.

    The given episodes are taken for the whole world: every resampling draws `episodes` of them with replacement,
    calibrates, and compares with the true excess over all of them. Where no candidate is accepted nothing is claimed,
    and nothing can be wrong.

    Args:
        full, harm, largest: as in `choose`.

    Returns:
        Share of the resamplings without a false claim, and share with a claim.
    """
    rng = np.random.default_rng(seed)
    true_excess = (np.minimum(harm, largest).mean(0) / full.mean(0)).max(axis=-1)
    right, claimed = 0, 0
    for _ in range(resamplings):
        drawn = rng.integers(len(full), size=episodes)
        chosen = choose(full[drawn], harm[drawn], largest, excess, confidence, method).chosen
        claimed += chosen is not None
        right += chosen is None or bool(true_excess[chosen] < excess)
    return right / resamplings, claimed / resamplings
