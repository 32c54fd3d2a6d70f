"""`loopwm study stability`: what the certified loop costs and whether its certificate can be broken, how imagination
behaves over thousands of steps, and how chaotic it is beside its world. On the looped runs of `loopwm study billiards`,
and on certified ones trained here on the same recording. Resumable: what is trained is not trained again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from loopwm.certify.adversary import Promise, Stretch, largest_stretch, promise
from loopwm.certify.certificate import certify
from loopwm.data.cache import Columns, open_memmap
from loopwm.data.store import Store
from loopwm.evaluate.bootstrap import Bootstrap, Interval
from loopwm.evaluate.diagnostics import settled_states
from loopwm.evaluate.evaluation import plain
from loopwm.evaluate.imagination import LongImagination, long_imagination
from loopwm.evaluate.lyapunov import LyapunovResult, lyapunov
from loopwm.evaluate.rollout import one_step
from loopwm.evaluate.segments import Segments, rollouts, tile
from loopwm.evaluate.speed import processor
from loopwm.files import file_digest, refuse_existing, write_json
from loopwm.model.certified import CertifiedCore
from loopwm.model.config import CERTIFIED_LOOP
from loopwm.model.world_model import WorldModel
from loopwm.presets import RunConfig, preset
from loopwm.progress import Progress, TerminalProgress
from loopwm.studies.billiards import looped_runs
from loopwm.studies.config import StabilityStudyConfig
from loopwm.studies.jobs import Job, train_all
from loopwm.studies.systems import RateChoice, pick_rates, rate_run, with_system
from loopwm.train.checkpoint import NAME, load
from loopwm.train.hardware import resolve_device
from loopwm.train.journal import read_config, versions


@dataclass(frozen=True)
class SeedStability:
    """One looped run and the certified run of the same seed, on test episodes.

    Attributes:
        looped, certified: one-step errors. ratio: the latter over the former, paired.
        lipschitz: L of the certified run. stretch: its rate, tried to be broken. promise: its exit.
        imagined, certified_imagined: thousands of imagined steps beside claim B.
        exponents: Lyapunov exponents of the looped run and of the engine. certified_exponents: of the certified run.
    """

    seed: int
    looped: Interval
    certified: Interval
    ratio: Interval
    lipschitz: float
    stretch: Stretch
    promise: Promise
    imagined: LongImagination
    certified_imagined: LongImagination
    exponents: LyapunovResult
    certified_exponents: LyapunovResult


def run_stability_study(config: StabilityStudyConfig) -> Path:
    """Do all of it and write `config.out`.

    Raises:
        UserError: unknown preset, or `config.out` exists.
        LoopwmError: a step failed; Ctrl-C exits with code 130 after saving.
    """
    refuse_existing(config.out, "move it away or choose another file with --out")
    looped = looped_runs(config.base)
    choice, certified = certified_runs(config, read_config(looped[0] / "config.yaml"))
    with Store.open(config.base.folder / "billiards.h5") as store:
        columns, test = open_memmap(store), store.split("test")
    results = []
    for seed, ordinary, contracting in zip(config.seeds, looped, certified, strict=True):
        certify(contracting)
        asked = [config.command, file_digest(ordinary / NAME), file_digest(contracting / NAME)]
        kept = config.folder / f"measured-seed{seed}.json"
        result = read_kept(kept, asked)
        if result is None:
            with TerminalProgress(f"measuring seed {seed}", "part") as progress:
                result = measured(seed, load(ordinary), load(contracting), columns, test, config, progress)
            write_json(kept, {"asked": asked, "result": plain(result)})
        results.append(result)
    write_json(config.out, plain(summary(config, choice, results)))
    return config.out


def read_kept(path: Path, asked: list[str]) -> SeedStability | None:
    """What an interrupted study measured of a seed; None if there is nothing, or it was another measurement."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        if content["asked"] == asked:
            return TypeAdapter(SeedStability).validate_python(content["result"])
    except (ValidationError, ValueError, KeyError, TypeError):
        pass
    return None


def certified_runs(config: StabilityStudyConfig, looped: RunConfig) -> tuple[RateChoice, list[Path]]:
    """Certified runs, one per seed, that differ from `looped` in the loop alone; the rate is picked as for all."""
    settings = preset(config.preset)
    base = replace(looped, model=replace(looped.model, loop=replace(CERTIFIED_LOOP, mu=looped.model.loop.mu)))
    folder = config.folder / "rates"
    with TerminalProgress("choosing the certified learning rate", "update") as progress:
        rates, updates = settings.rates, settings.rate_updates
        choice = pick_rates(base, folder, rates, updates, progress, config.command, ("looped",))["looped"]
    runs = [config.folder / f"certified-{base.train.updates}-seed{seed}" for seed in config.seeds]
    if choice.errors and settings.rate_updates == base.train.updates:
        runs = [
            rate_run(folder, "looped", choice.rate) if s == 0 else r for s, r in zip(config.seeds, runs, strict=True)
        ]
    jobs = [
        Job(run, with_system(base, "looped", choice.rate, seed)) for run, seed in zip(runs, config.seeds, strict=True)
    ]
    with TerminalProgress("training certified loops", "update") as progress:
        train_all(jobs, progress, again=config.command)
    return choice, runs


def measured(
    seed: int,
    looped: WorldModel,
    certified: WorldModel,
    columns: Columns,
    episodes: np.ndarray,
    config: StabilityStudyConfig,
    progress: Progress,
) -> SeedStability:
    """All that is told about one pair of runs."""
    steps = tile(columns, episodes, 1)
    bootstrap = Bootstrap(steps.transition_episode)
    errors = [one_step(model, steps).observation[steps.valid] for model in (looped, certified)]
    progress.advance(1, 5)
    core, e = recorded_inputs(certified, steps, config)
    stretched = largest_stretch(core, e, config.adversary)
    kept = promise(core, e, config.adversary.promised, limit=10_000)
    progress.advance(2, 5)
    openings = rollouts(columns, episodes, 1, stride=int(columns.ep_len.max()))
    imagined = []
    for model in (looped, certified):
        imagined.append(long_imagination(model, openings, steps=config.imagined_steps, starts=config.starts))
        progress.advance(2 + len(imagined), 5)
    exponents = [lyapunov(model, columns, episodes, config.lyapunov) for model in (looped, certified)]
    progress.advance(5, 5)
    return SeedStability(
        seed=seed,
        looped=bootstrap.mean(errors[0]),
        certified=bootstrap.mean(errors[1]),
        ratio=bootstrap.ratio(errors[1], errors[0]),
        lipschitz=core.contraction().lipschitz,
        stretch=stretched,
        promise=kept,
        imagined=imagined[0],
        certified_imagined=imagined[1],
        exponents=exponents[0],
        certified_exponents=exponents[1],
    )


def recorded_inputs(model: WorldModel, steps: Segments, config: StabilityStudyConfig) -> tuple[CertifiedCore, Tensor]:
    """The core in float64, and inputs e (n, N, D) that it reads on recorded transitions."""
    model = copy.deepcopy(model).cpu().double().eval().requires_grad_(False)
    assert isinstance(model.core, CertifiedCore)
    with torch.no_grad():
        _, e = settled_states(model, model.core, steps, 1, config.adversary.inputs, config.adversary.seed)
    return model.core, e


def summary(config: StabilityStudyConfig, choice: RateChoice, results: list[SeedStability]) -> dict[str, Any]:
    """The published file: `figures` are flat, means over seeds or the worst of them, `seeds` has every run."""

    def mean(pick: Callable[[SeedStability], float]) -> float:
        return float(np.mean([pick(one) for one in results]))

    engines = [one.exponents.engine for one in results]
    figures = {
        "certified_error": mean(lambda one: one.certified.mean),
        "certified_error_ratio": mean(lambda one: one.certified.mean) / mean(lambda one: one.looped.mean),
        "rate_measured_max": max(one.stretch.largest for one in results),
        # The smallest, so that every measured rate lies below it and not only below that of its own run.
        "rate_certified": min(one.stretch.certified for one in results),
        "certified_exit_worst": max(one.promise.worst for one in results),
        "nonfinite_256": sum(one.imagined.nonfinite + one.certified_imagined.nonfinite for one in results),
        "norm_max": max(one.imagined.norm_max for one in results),
        "norm_bound": min(one.imagined.norm_bound for one in results),
        "norm_max_certified": max(one.certified_imagined.norm_max for one in results),
        "norm_bound_certified": min(one.certified_imagined.norm_bound for one in results),
        "lyapunov_model": mean(lambda one: one.exponents.model.value.mean),
    }
    if all(one.exponents.guided for one in results):
        figures["lyapunov_guided"] = mean(lambda one: one.exponents.guided.value.mean if one.exponents.guided else 0.0)
    if all(engines):
        figures["lyapunov_engine"] = float(np.mean([one.value.mean for one in engines if one]))
    return {
        "command": config.command,
        "versions": versions(),
        "processor": processor(resolve_device("auto")),
        "learning_rate": {"picked": choice.rate, "validation": {f"{k:g}": v for k, v in choice.errors.items()}},
        "figures": figures,
        "settings": asdict(config.adversary),
        "seeds": results,
    }
