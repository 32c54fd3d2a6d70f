"""What looping buys in a text world: EM at T, loops where they are needed, and imagining in latents or in words."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from loopwm.errors import UserError
from loopwm.evaluate.bootstrap import Interval
from loopwm.model.config import ExitConfig, ExitRule
from loopwm.model.world_model import WorldModel
from loopwm.text.benchmark.aggregate import REPORT_MIX, Aggregator
from loopwm.text.benchmark.benchmark import headline_of
from loopwm.text.benchmark.lexicon import load_lexicon
from loopwm.text.benchmark.metrics import Scorer
from loopwm.text.benchmark.predictor import Scored, score
from loopwm.text.benchmark.windows import Window
from loopwm.text.config import SimulatorConfig
from loopwm.text.simulator import TextSimulator

KINDS = ("copy", "number", "change")
"""Of observations: read before in the same words; read before but for its numbers; anything else."""


@dataclass(frozen=True)
class LoopingConfig:
    """What is tried."""

    rule: ExitRule = "residual"
    """The exit. A text is not written after every loop, so that `output_delta` would compare latents as `residual`
    does, but knows nothing after the leading loop, and so never leaves after it."""
    thresholds: tuple[float, ...] = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
    """Of the exit, smallest first."""
    tolerance: float = 0.005
    """EM that leaving early may cost; the largest threshold within it is reported in full."""
    timed: int = 50
    """Windows that are answered one by one, for the median time."""
    memory: int | None = None
    """As of `SimulatorConfig`."""
    beam: int = 1
    """With which the benchmark is answered. All else is measured greedily, and the time of such answers beside it."""
    decode: bool = False
    """As `beam`."""

    def __post_init__(self) -> None:
        if not self.thresholds or list(self.thresholds) != sorted(self.thresholds):
            raise UserError(f"Thresholds are given smallest first, got {self.thresholds}.")
        if self.tolerance < 0 or self.timed < 1:
            raise UserError("The tolerance must not be negative, and at least one window must be timed.")


@dataclass(frozen=True)
class Early:
    """Leaving the loop early.

    Attributes:
        threshold: of the exit. em: at the last step. cost: paired difference to all loops.
        loops: a step takes on average.
    """

    threshold: float
    em: Interval
    cost: Interval
    loops: float


Spread = tuple[float, float, float]
"""Median and quartiles."""


@dataclass(frozen=True)
class Milliseconds:
    """What a window of K actions takes, one at a time: median and quartiles.

    Attributes:
        last: from all its words to the text after the last action; the steps before it are not decoded.
        live: the same from a world that has been read already, as that of an agent has.
        all: from all its words to the K texts. words: the same when every text is read before the next action.
        answered: the same as the benchmark is answered: with its beam, and all loops; None in results that are older.
    """

    last: Spread
    live: Spread
    all: Spread
    words: Spread
    answered: Spread | None = None


@dataclass(frozen=True)
class Looping:
    """Evidence, all of it on the same windows.

    Attributes:
        windows: how many. mu: loops of a step unless said otherwise.
        depth: T -> EM at the last step, with T loops in every step.
        rule: the exit. early: of every threshold tried; `chosen` of them.
        loops_by_type, loops_by_kind: mean loops of the last step with the chosen exit; kinds are those of KINDS.
        shares: of the kinds among the targets of the last step.
        latent, words: EM at steps 1 ... K, imagined in the latent and decoded where asked, or with every step decoded
            and read again. difference: latent - words, paired.
        milliseconds: what one window takes at batch 1, with the chosen exit.
    """

    windows: int
    mu: int
    depth: dict[int, Interval]
    rule: ExitRule
    early: list[Early]
    chosen: float
    loops_by_type: dict[str, Interval]
    loops_by_kind: dict[str, Interval]
    shares: dict[str, float]
    latent: list[Interval]
    words: list[Interval]
    difference: list[Interval]
    milliseconds: Milliseconds


def kind_of(window: Window, step: int) -> str:
    """Of the target of a step, counted from 0, against all that was read before it."""
    before = [*window.context.observations, *window.targets[:step]]
    target = window.targets[step]
    if target in before:
        return "copy"
    if re.search(r"\d", target) and _unnumbered(target) in {_unnumbered(text) for text in before}:
        return "number"
    return "change"


def _unnumbered(text: str) -> str:
    return re.sub(r"[-+]?\d+(\.\d+)?", "0", text)


class _Asked:
    """Systems that are asked about the same windows."""

    def __init__(self, world: str, windows: Sequence[Window], resamples: int) -> None:
        self.windows, self.scorer = windows, Scorer(load_lexicon(world))
        types, episodes = [window.task_type for window in windows], [window.episode for window in windows]
        self.aggregator = Aggregator(types, episodes, REPORT_MIX[world], resamples=resamples)
        kinds = [kind_of(window, len(window.targets) - 1) for window in windows]
        self.kinds = np.array(kinds)
        self.by_kind = Aggregator(kinds, episodes, {}, resamples=resamples)

    def ask(self, name: str, simulator: TextSimulator) -> Scored:
        return score(name, simulator, self.windows, self.scorer)

    def headline(self, columns: np.ndarray) -> list[Interval]:
        """Averages of the columns of (n, C)."""
        return [headline_of(one) for one in self.aggregator.aggregate(columns)]


def refuse_without_loop(model: WorldModel) -> None:
    """Raise UserError for a stack."""
    if not model.core.loopable:
        raise UserError("A stack has no loop to be measured; evaluate a looped run, or leave --looping out.")


def looping(
    model: WorldModel,
    world: str,
    windows: Sequence[Window],
    config: LoopingConfig | None = None,
    resamples: int = 1000,
    step: Callable[[str], None] = lambda name: None,
) -> Looping:
    """Measure a looped model.

    Raises:
        UserError: the model has no loop.
    """
    refuse_without_loop(model)
    config, asked, mu = config or LoopingConfig(), _Asked(world, windows, resamples), model.default_loops
    whole = SimulatorConfig(memory=config.memory)
    depth: dict[int, Interval] = {}
    latent = asked.ask("latent", TextSimulator(model, whole)).metric("em")
    for loops in sorted({1, 2, 4, mu, 2 * mu, 4 * mu}):
        step(f"T = {loops}")
        em = latent
        if loops != mu:
            em = asked.ask(f"T = {loops}", TextSimulator(model, replace(whole, num_loops=loops))).metric("em")
        depth[loops] = asked.headline(em[:, -1:])[0]
    early, used = [], {}
    for threshold in config.thresholds:
        step(f"exit at {threshold:g}")
        simulator = TextSimulator(model, replace(whole, exit=ExitConfig(config.rule, threshold)))
        em, loops = _with_loops(asked, simulator)
        em_here, cost = asked.headline(np.stack([em[:, -1], em[:, -1] - latent[:, -1]], 1))
        early.append(Early(threshold, em_here, cost, float(loops.mean())))
        used[threshold] = loops[:, -1]
    kept = [one.threshold for one in early if -one.cost.mean <= config.tolerance]
    chosen = max(kept, default=config.thresholds[0])
    step("words instead of latents")
    words = asked.ask("words", TextSimulator(model, replace(whole, decode=True))).metric("em")
    step("time")
    return Looping(
        windows=len(windows),
        mu=mu,
        depth=depth,
        rule=config.rule,
        early=early,
        chosen=chosen,
        loops_by_type=asked.aggregator.aggregate(used[chosen][:, None])[0].by_type,
        loops_by_kind=asked.by_kind.aggregate(used[chosen][:, None])[0].by_type,
        shares={kind: float((asked.kinds == kind).mean()) for kind in KINDS},
        latent=asked.headline(latent),
        words=asked.headline(words),
        difference=asked.headline(latent - words),
        milliseconds=_timed(model, ExitConfig(config.rule, chosen), windows, config),
    )


def _with_loops(asked: _Asked, simulator: TextSimulator) -> tuple[np.ndarray, np.ndarray]:
    """EM and loops (n, K)."""
    loops = np.zeros((len(asked.windows), len(asked.windows[0].actions)))

    class Counting:
        def predict(self, windows: Sequence[Window]) -> list[list[str]]:
            found = simulator.foresee_all(windows)
            loops[:] = found.loops.numpy(force=True)
            return found.texts

    return score("early", Counting(), asked.windows, asked.scorer).metric("em"), loops


def _timed(model: WorldModel, early: ExitConfig, windows: Sequence[Window], config: LoopingConfig) -> Milliseconds:
    """In turns, so that whatever else the machine does meets all of them; on one core."""
    whole = SimulatorConfig(memory=config.memory)
    latent, fed, asked = (
        TextSimulator(model, replace(whole, **how))
        for how in ({"exit": early}, {"exit": early, "decode": True}, {"beam": config.beam, "decode": config.decode})
    )
    spent, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for window in [
            windows[i % len(windows)] for i in np.linspace(0, len(windows) - 1, config.timed + 5, dtype=int)
        ]:
            read = latent.read([window])
            ways: list[Callable[[], object]] = [
                partial(latent.foresee, [window], last=True),
                partial(latent.going_on, read, [window.actions], last=True),
                partial(latent.foresee, [window]),
                partial(fed.foresee, [window]),
                partial(asked.foresee, [window]),
            ]
            spent.append([_took(way) for way in ways])
    finally:
        torch.set_num_threads(threads)
    # The leading ones warm up.
    low, middle, high = np.percentile(spent[5:], (25, 50, 75), axis=0).tolist()
    return Milliseconds(*zip(middle, low, high, strict=True))


def _took(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def lines(found: Looping) -> list[str]:
    """For the terminal."""

    def percent(one: Interval, sign: str = "") -> str:
        return f"{100 * one.mean:{sign}.1f} [{100 * one.low:{sign}.1f}, {100 * one.high:{sign}.1f}]"

    said = [f"what looping buys, {found.windows} windows, EM at the last step in percent"]
    said += [f"  T = {loops:<3} {percent(em)}" for loops, em in found.depth.items()]
    said += [
        f"  exit {found.rule} at {one.threshold:<5g} {percent(one.em)}  ({percent(one.cost, '+')} against T = "
        f"{found.mu})  {one.loops:.2f} loops"
        for one in found.early
    ]
    said += [f"loops of the last step with the exit at {found.chosen:g}"]
    kinds = {kind: found.loops_by_kind[kind] for kind in KINDS if kind in found.loops_by_kind}
    said += [
        f"  {name:<14} {one.mean:.2f} [{one.low:.2f}, {one.high:.2f}]"
        for name, one in (kinds | found.loops_by_type).items()
    ]
    said += ["EM at step K, imagined in latents | in words that are read again | difference"]
    columns = zip(found.latent, found.words, found.difference, strict=True)
    said += [f"  K = {k + 1}   {percent(a)} | {percent(b)} | {percent(c, '+')}" for k, (a, b, c) in enumerate(columns)]
    took = found.milliseconds
    return [
        *said,
        f"one window at batch 1, its last text: {_time(took.last)}; where all before was read already: "
        f"{_time(took.live)}",
        f"one window at batch 1, every text: {_time(took.all)}; each read before the next: {_time(took.words)}",
        *([f"one window at batch 1, as the benchmark is answered: {_time(took.answered)}"] if took.answered else []),
    ]


def _time(spread: Spread) -> str:
    middle, low, high = spread
    return f"{middle:.0f} ms (quartiles {low:.0f} and {high:.0f})"
