"""`loopwm study billiards`: the looped model against stacks with equal parameters and equal FLOPs, over seeds, at a
short and a long training. Resumable: what is trained or evaluated is not done again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from loopwm.evaluate.evaluation import Evaluation, plain
from loopwm.evaluate.speed import processor
from loopwm.files import refuse_existing, write_json
from loopwm.model.config import SYSTEMS, System
from loopwm.presets import Preset, RunConfig, preset
from loopwm.progress import Progress, TerminalProgress
from loopwm.studies.config import StudyConfig
from loopwm.studies.demo import record
from loopwm.studies.jobs import Job, train_all
from loopwm.studies.runs import Runs, error_intervals, evaluated, one_run, worst_against_controls
from loopwm.studies.systems import RateChoice, pick_rates, rate_run, with_system
from loopwm.studies.throughput import Throughput, throughput
from loopwm.train.hardware import resolve_device
from loopwm.train.journal import config_as_dict, versions

LONG_SYSTEMS: tuple[System, ...] = ("looped", "stack-equal-flops")


def run_study(config: StudyConfig) -> Path:
    """Do all of it and write `config.out`.

    Raises:
        UserError: unknown preset, or `config.out` exists.
        LoopwmError: a step failed; Ctrl-C exits with code 130 after saving.
    """
    refuse_existing(config.out, "move it away or choose another file with --out")
    settings = preset(config.preset)
    base, choices = _prepared(config, SYSTEMS)
    with TerminalProgress("training", "update") as progress:
        short = _train(base, config, config.seeds, choices, SYSTEMS, base.train.updates, progress)
    longer: dict[System, list[Path]] = {}
    if config.long_updates:
        with TerminalProgress("training for longer", "update") as progress:
            longer = _train(base, config, config.long_seeds, choices, LONG_SYSTEMS, config.long_updates, progress)
    evaluation = replace(settings.evaluation, stability_steps=config.stability_steps)
    measured = replace(settings, evaluation=evaluation)
    results: dict[System, Runs] = {system: evaluated(system, runs, measured) for system, runs in short.items()}
    long_results: dict[System, Runs] = {system: evaluated(system, runs, measured) for system, runs in longer.items()}
    speed = throughput(base)
    write_json(config.out, plain(summary(config, base, settings, choices, results, long_results, speed)))
    return config.out


def looped_runs(config: StudyConfig) -> list[Path]:
    """The looped runs of the study, one per seed, trained if they are not there."""
    base, choices = _prepared(config, ("looped",))
    with TerminalProgress("training", "update") as progress:
        return _train(base, config, config.seeds, choices, ("looped",), base.train.updates, progress)["looped"]


def _prepared(config: StudyConfig, systems: Sequence[System]) -> tuple[RunConfig, dict[System, RateChoice]]:
    """The starting point of every run, on its recording, and the learning rates."""
    settings = preset(config.preset)
    base = replace(settings.config, data=record(settings, config.folder / "billiards.h5", config.recording_seed))
    with TerminalProgress("choosing learning rates", "update") as progress:
        folder = config.folder / "rates"
        return base, pick_rates(base, folder, settings.rates, settings.rate_updates, progress, config.command, systems)


def _train(
    base: RunConfig,
    config: StudyConfig,
    seeds: Sequence[int],
    choices: dict[System, RateChoice],
    systems: Sequence[System],
    updates: int,
    progress: Progress,
) -> dict[System, list[Path]]:
    runs: dict[System, list[Path]] = {
        system: [_run_folder(config, system, choices[system], seed, updates) for seed in seeds] for system in systems
    }
    jobs = [
        Job(run, with_system(base, system, choices[system].rate, seed, updates))
        for system, folders in runs.items()
        for run, seed in zip(folders, seeds, strict=True)
    ]
    train_all(jobs, progress, again=config.command)
    return runs


def _run_folder(config: StudyConfig, system: System, choice: RateChoice, seed: int, updates: int) -> Path:
    """Where a run goes. The one with seed 0 may have been made already, when the rate was picked at full length."""
    if seed == 0 and choice.errors and updates == preset(config.preset).rate_updates:
        return rate_run(config.folder / "rates", system, choice.rate)
    return config.folder / f"{system}-{updates}-seed{seed}"


def summary(
    config: StudyConfig,
    base: RunConfig,
    settings: Preset,
    choices: dict[System, RateChoice],
    short: dict[System, Runs],
    longer: dict[System, Runs],
    speed: Throughput,
) -> dict[str, Any]:
    """The published file: `figures` are flat, `intervals` their uncertainty, the rest is where they come from."""
    everything = [one for group in (short, longer) for runs in group.values() for one in runs.evaluations]
    intervals = error_intervals(short, longer)
    return {
        "command": config.command,
        "versions": versions(),
        "processor": processor(resolve_device(base.train.device)),
        "seeds": list(config.seeds),
        "long_seeds": list(config.long_seeds),
        "stability_steps": config.stability_steps,
        "updates": {"short": base.train.updates, "long": config.long_updates},
        "data": {
            "world": "billiards",
            "episodes": settings.episodes,
            "recording_seed": config.recording_seed,
            "digest": short["looped"].evaluations[0].run.data_digest,
        },
        "learning_rates": {
            "grid": list(settings.rates),
            "updates": settings.rate_updates,
            "picked": {str(system): choice.rate for system, choice in choices.items()},
            "validation": {
                str(system): {f"{rate:g}": error for rate, error in choice.errors.items()}
                for system, choice in choices.items()
            },
        },
        "figures": {
            **{name: interval.mean for name, interval in intervals.items()},
            **other_figures(short, longer, everything, speed),
        },
        "intervals": intervals,
        "throughput": asdict(speed),
        "runs": [one_run(one) for one in everything],
        "config": config_as_dict(base),
    }


def other_figures(
    short: dict[System, Runs], longer: dict[System, Runs], everything: list[Evaluation], speed: Throughput
) -> dict[str, float]:
    """Sizes, errors far beyond the trained depth, long rollouts, speed."""
    looped, flops, params = (
        short[system].evaluations[0].run for system in ("looped", "stack-equal-flops", "stack-equal-params")
    )
    figures: dict[str, float] = {
        "params_looped": looped.parameters,
        "params_equal_flops": flops.parameters,
        "params_equal_params": params.parameters,
        "flops_step_looped": looped.flops_step,
        "flops_step_equal_flops": flops.flops_step,
        "flops_step_equal_params": params.flops_step,
        "mse_looped_8mu": short["looped"].at_depth(8),
        "nonfinite_10k": sum(one.stability.nonfinite for one in everything),
        "norm_max_10k": max(max(one.stability.norm_high) for one in everything),
        "updates_per_s_ratio": speed.ratio,
        "updates_per_s_ratio_fixed_depth": speed.fixed_ratio,
        "open_loop_worst_control_ratio_10": worst_against_controls(short["looped"], 10),
    }
    if longer:
        figures["mse_looped_long_8mu"] = longer["looped"].at_depth(8)
    return figures
