"""`loopwm study deferred`: decoding every step of a window against decoding its end only. Same recording, windows,
updates, depths and seeds; only the loss differs. Resumable: what is trained is not trained again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from loopwm.data.cache import open_memmap
from loopwm.data.store import Store
from loopwm.errors import LoopwmError, UserError
from loopwm.evaluate.bootstrap import Bootstrap, Interval
from loopwm.evaluate.evaluation import plain
from loopwm.evaluate.matching import rank_correlation
from loopwm.evaluate.rollout import open_loop
from loopwm.evaluate.segments import Segments, rollouts
from loopwm.evaluate.speed import processor
from loopwm.evaluate.summaries import SummaryErrors, summary_errors
from loopwm.files import refuse_existing, write_json
from loopwm.presets import Preset, RunConfig, preset
from loopwm.progress import Progress, TerminalProgress
from loopwm.studies.config import DeferredStudyConfig
from loopwm.studies.deferred_cost import Costs, measure_costs
from loopwm.studies.demo import record
from loopwm.studies.jobs import Job, train_all
from loopwm.train.checkpoint import load
from loopwm.train.hardware import resolve_device
from loopwm.train.journal import config_as_dict, versions
from loopwm.train.runs import finished

Arm = Literal["each", "deferred", "no-consistency", "no-budget"]
ARMS: tuple[Arm, ...] = ("each", "deferred", "no-consistency", "no-budget")


@dataclass(frozen=True)
class ArmErrors:
    """What imagined futures came to.

    Attributes:
        seeds: normalised squared error of every future's end at every horizon, one (R, H) per seed; NaN where the
            episode was over.
        summaries: of every seed's summaries, one step after the other; empty without a summary head.
    """

    seeds: tuple[np.ndarray, ...]
    summaries: tuple[SummaryErrors, ...]

    @property
    def end(self) -> np.ndarray:
        """(R, H), averaged over seeds, which all imagined the same futures."""
        return np.mean(self.seeds, axis=0)


def with_arm(config: RunConfig, arm: Arm, lr: float, seed: int) -> RunConfig:
    """The same run with another way of decoding. In every arm o_0 alone is shown, so that nothing else differs."""
    deferred = config.loss.deferred
    changed = {
        "no-consistency": replace(deferred, alpha=0.0),
        "no-budget": replace(deferred, beta=0.0),
    }.get(arm, deferred)
    loss = replace(config.loss, imagined=True, decoding="each" if arm == "each" else "deferred", deferred=changed)
    return replace(
        config,
        model=replace(config.model, summary=loss.trains_summary),
        loss=loss,
        optim=replace(config.optim, lr=lr),
        train=replace(config.train, seed=seed),
    )


def run_deferred_study(config: DeferredStudyConfig) -> Path:
    """Do all of it and write `config.out`.

    Raises:
        UserError: unknown preset, no test episode as long as a horizon, or `config.out` exists.
        LoopwmError: a step failed; Ctrl-C exits with code 130 after saving.
    """
    refuse_existing(config.out, "move it away or choose another file with --out")
    settings = preset(config.preset)
    base = replace(settings.config, data=record(settings, config.folder / "billiards.h5", config.recording_seed))
    segments = futures(base.data, config)
    with TerminalProgress("choosing learning rates", "update") as progress:
        rates = pick_arm_rates(base, settings.rates, config, progress)
    runs: dict[Arm, list[Path]] = {
        arm: [run_folder(config, arm, rates[arm], seed) for seed in config.seeds] for arm in ARMS
    }
    jobs = [
        Job(run, with_arm(base, arm, rates[arm], seed))
        for arm, folders in runs.items()
        for run, seed in zip(folders, config.seeds, strict=True)
    ]
    with TerminalProgress("training", "update") as progress:
        train_all(jobs, progress, again=config.command)
    errors: dict[Arm, ArmErrors] = {
        arm: arm_errors(folders, segments, config.horizons) for arm, folders in runs.items()
    }
    each, deferred = (with_arm(base, arm, rates[arm], config.seeds[0]) for arm in ARMS[:2])
    costs = measure_costs(each, deferred, rounds=config.rounds)
    write_json(config.out, plain(summary(config, base, settings, rates, segments, errors, costs)))
    return config.out


def futures(data: Path, config: DeferredStudyConfig) -> Segments:
    """What every arm has to imagine: stretches of test episodes.

    Raises:
        UserError: no test episode is as long as the longest horizon.
    """
    with Store.open(data) as store:
        columns, episodes = open_memmap(store), store.split("test")
    longest = int(columns.ep_len[episodes].max()) if len(episodes) else 0
    if longest < max(config.horizons):
        raise UserError(
            f"The longest test episode of {data} has {longest} transitions, so nothing can be said about horizon "
            f"{max(config.horizons)}; give shorter --horizons or record more episodes."
        )
    return rollouts(columns, episodes, max(config.horizons), rows=config.rollouts)


def pick_arm_rates(
    base: RunConfig, grid: Sequence[float], config: DeferredStudyConfig, progress: Progress
) -> dict[Arm, float]:
    """The learning rate of each way of decoding with the lower open-loop error on validation, after a whole training.

    The ablations take what deferred decoding takes. A grid of one is taken without a run.

    Raises:
        LoopwmError: every rate diverged.
    """
    if len(grid) == 1:
        return dict.fromkeys(ARMS, grid[0])
    compared: tuple[Arm, ...] = ("each", "deferred")
    seed = config.seeds[0]
    jobs = {
        (arm, rate): Job(run_folder(config, arm, rate, seed), with_arm(base, arm, rate, seed))
        for arm in compared
        for rate in grid
    }
    train_all(list(jobs.values()), progress, again=config.command, may_diverge=True)
    picked: dict[Arm, float] = {}
    for arm in compared:
        results = {rate: finished(jobs[arm, rate].run) for rate in grid}
        errors = {rate: result.validation["open_loop"] if result else math.inf for rate, result in results.items()}
        best = min(errors, key=lambda rate: errors[rate])
        if errors[best] == math.inf:
            raise LoopwmError(f"Every learning rate of {tuple(grid)} diverged for {arm}; lower the grid of the preset.")
        picked[arm] = best
    return {arm: picked["each" if arm == "each" else "deferred"] for arm in ARMS}


def run_folder(config: DeferredStudyConfig, arm: Arm, rate: float, seed: int) -> Path:
    """Where a run goes."""
    return config.folder / f"{arm}-lr{rate:g}-seed{seed}"


def arm_errors(runs: Sequence[Path], segments: Segments, horizons: Sequence[int]) -> ArmErrors:
    """Imagine every segment with every run."""
    models = [load(run) for run in runs]
    columns = np.array(horizons) - 1
    return ArmErrors(
        tuple(open_loop(model, segments).observation[:, columns] for model in models),
        tuple(summary_errors(model, segments) for model in models if model.summary_head is not None),
    )


# ---- what is published ----


def summary(
    config: DeferredStudyConfig,
    base: RunConfig,
    settings: Preset,
    rates: dict[Arm, float],
    segments: Segments,
    errors: dict[Arm, ArmErrors],
    costs: Costs,
) -> dict[str, Any]:
    """The published file: `figures` are flat, `intervals` their uncertainty, the rest is where they come from."""
    intervals = error_intervals(segments, errors, config.horizons)
    ratios = {name: one for name, one in intervals.items() if name.startswith("dd_error_ratio")}
    with Store.open(base.data) as store:
        digest = store.digest
    return {
        "command": config.command,
        "versions": versions(),
        "processor": processor(resolve_device(base.train.device)),
        "seeds": list(config.seeds),
        "horizons": list(config.horizons),
        "updates": base.train.updates,
        "data": {
            "world": "billiards",
            "episodes": settings.episodes,
            "recording_seed": config.recording_seed,
            "digest": digest,
        },
        "learning_rates": {"grid": list(settings.rates), "picked": dict(rates)},
        "figures": {
            **{name: one.mean for name, one in intervals.items()},
            **{f"{name}_low": one.low for name, one in ratios.items()},
            **{f"{name}_high": one.high for name, one in ratios.items()},
            "dd_decoder_calls_ratio": costs.decoded.ratio,
            "dd_decoder_calls_training_ratio": costs.training_decoded.ratio,
            "dd_time_ratio": costs.update.ratio,
            "dd_imagination_time_ratio": costs.imagination.ratio,
            "dd_memory_ratio": costs.memory.ratio,
        },
        "intervals": intervals,
        "per_seed": {
            arm: {f"k{k}": [float(np.nanmean(seed[:, i])) for seed in one.seeds] for i, k in enumerate(config.horizons)}
            for arm, one in errors.items()
        },
        "costs": asdict(costs),
        "reading": reading(segments, errors["deferred"], config.horizons),
        "config": config_as_dict(with_arm(base, "deferred", rates["deferred"], config.seeds[0])),
    }


def error_intervals(segments: Segments, errors: dict[Arm, ArmErrors], horizons: Sequence[int]) -> dict[str, Interval]:
    """Terminal errors of every arm, and their ratios to per-step decoding, paired, with intervals over episodes."""
    bootstrap = Bootstrap(segments.episode)
    found: dict[str, Interval] = {}
    for i, k in enumerate(horizons):
        each = errors["each"].end[:, i]
        for arm, one in errors.items():
            name = arm.replace("-", "_")
            found[f"mse_{name}_k{k}"] = bootstrap.mean(one.end[:, i])
            if arm != "each":
                prefix = "dd" if arm == "deferred" else f"dd_{name}"
                found[f"{prefix}_error_ratio_k{k}"] = bootstrap.ratio(one.end[:, i], each)
    return found


def reading(segments: Segments, deferred: ArmErrors, horizons: Sequence[int]) -> dict[str, Any]:
    """How well summaries can be read: normalised error, error per feature in its unit, and what strangeness tells."""
    bootstrap = Bootstrap(segments.episode)
    columns = np.array(horizons) - 1
    error, strange = (
        np.mean([getattr(one, name)[:, columns] for one in deferred.summaries], axis=0)
        for name in ("observation", "strangeness")
    )
    features = {
        name: np.mean([one.features[name][:, columns] for one in deferred.summaries], axis=0)
        for name in deferred.summaries[0].features
    }
    table: dict[str, Any] = {}
    for i, k in enumerate(horizons):
        real = ~np.isnan(error[:, i])
        table[f"k{k}"] = {
            "error": bootstrap.mean(error[:, i]),
            "error_over_decoded": bootstrap.ratio(error[:, i], deferred.end[:, i]),
            "rmse": {name: bootstrap.mean(squared[:, i]).root() for name, squared in features.items()},
            "strangeness_rank_correlation": rank_correlation(
                Bootstrap(segments.episode[real]), strange[real, i], error[real, i]
            ),
        }
    return table
