"""`loopwm study adaptive`: what leaving the loop early saves at a calibrated excess error, who gets the loops, whether
more loops than in training do harm, and how often the calibrated claim holds. On the looped runs of `loopwm study
billiards`, which are trained if they are not there; copies of them get the gates and the calibrations."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from loopwm.calibrate.bounds import coverage
from loopwm.calibrate.calibration import Calibration, Tried, calibrate_on
from loopwm.calibrate.config import CalibrateConfig
from loopwm.data.cache import Columns, open_memmap
from loopwm.data.store import Store
from loopwm.errors import UserError
from loopwm.evaluate.bootstrap import Bootstrap, Interval
from loopwm.evaluate.config import SpeedConfig
from loopwm.evaluate.evaluation import plain
from loopwm.evaluate.frontier import LEADING_LABEL, MEMBERS, Frontier, frontier
from loopwm.evaluate.matching import matched_rank_correlation, rank_correlation
from loopwm.evaluate.rollout import one_step, open_loop
from loopwm.evaluate.scores import Scorer
from loopwm.evaluate.segments import Segments, rollouts, tile
from loopwm.evaluate.speed import ExitTime, exit_time, processor
from loopwm.files import refuse_existing, write_json
from loopwm.model.config import ExitRule
from loopwm.model.core import LoopedCore
from loopwm.model.world_model import WorldModel
from loopwm.presets import preset
from loopwm.progress import Progress, TerminalProgress
from loopwm.studies.billiards import looped_runs
from loopwm.studies.config import AdaptiveStudyConfig
from loopwm.studies.demo import record
from loopwm.train.checkpoint import NAME, load, read_checkpoint, weights_digest
from loopwm.train.config import GateTraining
from loopwm.train.gate import LOG, train_gate
from loopwm.train.hardware import resolve_device
from loopwm.train.journal import versions


@dataclass(frozen=True)
class Depths:
    """Errors (mean over test transitions) at mu and at 8 mu loops.

    Attributes:
        mu, deep: as the model is. by_exponent: at 8 mu, by the exponent of the shrinking steps.
    """

    mu: float
    deep: float
    by_exponent: dict[str, float]


@dataclass(frozen=True)
class SeedResult:
    """One run, on test episodes.

    Attributes:
        calibration: what was claimed, on episodes recorded for it.
        coverage: shares of repeated calibrations that made no false claim, and that made one at all.
        share: mean loops over mu, one step ahead. rollout_share: in own rollouts.
        excess: one-step error over that at T = mu, minus 1. rollout_excess: of own rollouts.
        rank: Spearman correlation of loops and impulse. matched_rank: the same at equal target norm.
        free, hardest: mean loops where nothing touches, and in the hardest tenth by impulse.
        time: batch-512 imagination with the exit against T = mu.
    """

    seed: int
    calibration: Calibration
    coverage: tuple[float, float]
    share: Interval
    rollout_share: Interval
    excess: Interval
    rollout_excess: Interval
    rank: Interval
    matched_rank: Interval
    free: Interval
    hardest: Interval
    time: ExitTime


def run_adaptive_study(config: AdaptiveStudyConfig) -> Path:
    """Do all of it and write `config.out`.

    Raises:
        UserError: unknown preset, `config.out` exists, or the episodes do not support the claim.
        LoopwmError: a step failed; Ctrl-C exits with code 130.
    """
    refuse_existing(config.out, "move it away or choose another file with --out")
    settings = preset(config.preset)
    runs = looped_runs(config.base)
    copies = [
        with_gate(run, config.folder / f"looped-seed{seed}", config.gate_updates)
        for run, seed in zip(runs, config.seeds, strict=True)
    ]
    fresh_settings = replace(settings, episodes=config.calibration_episodes)
    fresh = record(fresh_settings, config.folder / "calibration.h5", config.calibration_seed)
    with Store.open(config.base.folder / "billiards.h5") as store:
        columns, validation, test = open_memmap(store), store.split("validation"), store.split("test")
    with TerminalProgress("comparing exit rules", "run") as progress:
        curves = []
        for run in copies:
            curves.append(frontier(load(run), tile(columns, validation, 1), config.excess))
            progress.advance(len(curves), len(copies))
    results: dict[ExitRule, list[SeedResult]] = {rule: [] for rule in config.rules}
    for rule, (run, seed) in itertools.product(config.rules, list(zip(copies, config.seeds, strict=True))):
        with TerminalProgress(f"calibrating {rule}, seed {seed}", "threshold") as progress:
            calibration, tried = calibrated(run, rule, config, fresh, progress)
        with TerminalProgress(f"measuring {rule}, seed {seed}", "part") as progress:
            repeats = repeated(tried, config)
            results[rule].append(measured(load(run), seed, calibration, repeats, columns, test, config, progress))
    steps, deep = tile(columns, test, 1), []
    with TerminalProgress("measuring more loops than in training", "run") as progress:
        for run in copies:
            deep.append(depths(load(run), steps, config.settle))
            progress.advance(len(deep), len(copies))
    found = [one for one in curves if one is not None]
    write_json(config.out, plain(summary(config, found, results, deep)))
    return config.out


def with_gate(run: Path, copy: Path, updates: int) -> Path:
    """A copy of a run that has learned a gate; made once.

    Raises:
        UserError: the copy that is there has another gate, or is of other weights.
    """
    if copy.exists():
        source, made = read_checkpoint(run / NAME), json.loads((copy / LOG).read_text())
        weights = weights_digest(source.blueprint, source.part("ema"))
        if (made["settings"]["updates"], made["weights"]) != (updates, weights):
            raise UserError(f"{copy} has a gate of other weights or of other updates; choose another --folder.")
    else:
        aside = copy.with_name(f".{copy.name}")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(run, aside)
        with TerminalProgress(f"training the gate of {copy.name}", "update") as progress:
            train_gate(aside, GateTraining(updates=updates), progress)
        aside.rename(copy)
    return copy


def cheapest_rule(results: dict[ExitRule, list[SeedResult]]) -> ExitRule:
    """The rule whose calibrated exits spend fewest loops on the calibration episodes, on average over runs."""
    return min(results, key=lambda rule: float(np.mean([one.calibration.loops_share for one in results[rule]])))


def calibrated(
    run: Path, rule: ExitRule, config: AdaptiveStudyConfig, fresh: Path, progress: Progress
) -> tuple[Calibration, Tried]:
    """Calibrate the exit of a run on the episodes recorded for it."""
    wanted = CalibrateConfig(rule=rule, excess=config.excess, confidence=config.confidence, horizon=config.horizon)
    return calibrate_on(run, wanted, fresh, progress, overwrite=True)


def measured(
    model: WorldModel,
    seed: int,
    calibration: Calibration,
    coverage: tuple[float, float],
    columns: Columns,
    episodes: np.ndarray,
    config: AdaptiveStudyConfig,
    progress: Progress,
) -> SeedResult:
    """All that is told about one run with its calibrated exit, on test episodes."""
    steps, futures = tile(columns, episodes, 1), tile(columns, episodes, config.horizon)
    bootstrap = Bootstrap(steps.transition_episode)
    full, early = one_step(model, steps), one_step(model, steps, exit=model.exit)
    progress.advance(1, 3)
    loops = early.loops[steps.valid]
    impulse = np.asarray(steps.labels[LEADING_LABEL][steps.valid], np.float64)
    norm = Scorer.of(model).target_norm(steps.observations[:, :-1], steps.observations[:, 1:])[steps.valid]
    far_full, far_early = open_loop(model, futures), open_loop(model, futures, exit=model.exit)
    far = Bootstrap(futures.transition_episode)
    progress.advance(2, 3)
    assert model.exit is not None
    starts = rollouts(columns, episodes, config.horizon)
    speed = SpeedConfig(batches=(512,), rounds=config.rounds, seconds=0.2)
    hard = impulse >= np.quantile(impulse, 0.9)
    mu = model.default_loops
    time = exit_time(model, starts, model.exit, mu, speed, steps=config.horizon)
    progress.advance(3, 3)
    return SeedResult(
        seed=seed,
        calibration=calibration,
        coverage=coverage,
        share=bootstrap.mean(loops / mu),
        rollout_share=far.mean(far_early.loops[futures.valid] / mu),
        excess=bootstrap.ratio(early.observation[steps.valid], full.observation[steps.valid]).shifted(-1),
        rollout_excess=far.ratio(far_early.observation[futures.valid], far_full.observation[futures.valid]).shifted(-1),
        rank=rank_correlation(bootstrap, impulse, loops),
        matched_rank=matched_rank_correlation(bootstrap, impulse, loops, norm, MEMBERS),
        free=bootstrap.mean(np.where(impulse == 0, loops, np.nan)),
        hardest=bootstrap.mean(np.where(hard, loops, np.nan)),
        time=time,
    )


def depths(model: WorldModel, steps: Segments, exponents: tuple[float, ...]) -> Depths:
    """Errors at mu and 8 mu, and what becomes of the latter when loops beyond mu take steps of another size."""
    core = model.core
    assert isinstance(core, LoopedCore)
    own, mu = core.loop, model.default_loops

    def error(loops: int) -> float:
        return float(np.nanmean(one_step(model, steps, loops).observation))

    shallow, deep = error(mu), error(8 * mu)
    found = {f"{own.settle_eval:g}": deep}
    for exponent in exponents:
        core.loop = replace(own, settle_eval=exponent)
        found[f"{exponent:g}"] = error(8 * mu)
    core.loop = own
    return Depths(shallow, deep, found)


def repeated(tried: Tried, config: AdaptiveStudyConfig) -> tuple[float, float]:
    """Share of the repeated calibrations that made no false claim, and share that made one at all.

    The episodes recorded for calibration are taken for the whole world.
    """
    full, harm, largest = tried.compared()
    return coverage(
        full,
        harm,
        largest,
        config.excess,
        config.confidence,
        episodes=len(full),
        resamplings=config.resamplings,
        seed=config.calibration_seed,
    )


def summary(
    config: AdaptiveStudyConfig,
    curves: list[Frontier],
    results: dict[ExitRule, list[SeedResult]],
    deep: list[Depths],
) -> dict[str, Any]:
    """The published file: `figures` are flat means over seeds, of the rule with fewest loops; `rules` has every run."""
    rule = cheapest_rule(results)

    def mean(pick: Callable[[SeedResult], float]) -> float:
        return float(np.mean([pick(one) for one in results[rule]]))

    return {
        "command": config.command,
        "versions": versions(),
        "processor": processor(resolve_device("auto")),
        "rule": rule,
        "figures": {
            "mse_mu": float(np.mean([one.mu for one in deep])),
            "mse_8mu": float(np.mean([one.deep for one in deep])),
            "loops_share": mean(lambda one: one.share.mean),
            "rollout_loops_share": mean(lambda one: one.rollout_share.mean),
            "excess": mean(lambda one: one.excess.mean),
            "rollout_excess": mean(lambda one: one.rollout_excess.mean),
            "wall_share": mean(lambda one: one.time.share),
            "rank_impulse": mean(lambda one: one.rank.mean),
            "rank_impulse_matched": mean(lambda one: one.matched_rank.mean),
            "loops_free": mean(lambda one: one.free.mean),
            "loops_hardest": mean(lambda one: one.hardest.mean),
            # The worst run, so that no run hides behind another.
            "coverage": min(one.coverage[0] for runs in results.values() for one in runs),
            "coverage_claimed": mean(lambda one: one.coverage[1]),
        },
        "mse_8mu_by_exponent": {
            exponent: float(np.mean([one.by_exponent[exponent] for one in deep])) for exponent in deep[0].by_exponent
        },
        "shares_at_tolerance": {
            curve.rule: [
                next((c.best.share for c in one.curves if c.rule == curve.rule and c.cap == curve.cap and c.best), None)
                for one in curves
            ]
            for curve in curves[0].curves
            if curve.cap == curves[0].mu or curve.rule == "fixed"
        },
        "depths": deep,
        "rules": results,
    }
