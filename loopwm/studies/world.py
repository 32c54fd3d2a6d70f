"""`loopwm study world NAME`: the looped model and both stacks on one world, by the same yardsticks as every other.
Resumable: what is recorded, trained or evaluated is not done again."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from loopwm.data.collect import collect, limited, recorded_by
from loopwm.data.config import CollectConfig
from loopwm.data.store import Store
from loopwm.envs.registry import find_world
from loopwm.errors import UserError
from loopwm.evaluate.evaluation import Evaluation, plain
from loopwm.evaluate.speed import processor
from loopwm.files import refuse_existing, write_json
from loopwm.model.config import SYSTEMS, System
from loopwm.presets import RunConfig, preset
from loopwm.progress import TerminalProgress
from loopwm.studies.config import WorldStudyConfig
from loopwm.studies.jobs import Job, train_all
from loopwm.studies.runs import Runs, error_intervals, evaluated, one_run, worst_against_controls
from loopwm.studies.systems import RateChoice, pick_rates, with_system
from loopwm.studies.throughput import Throughput, ThroughputConfig, throughput
from loopwm.train.hardware import resolve_device
from loopwm.train.journal import config_as_dict, versions

HORIZONS = 10
"""Steps ahead at which a model has to be better than every control."""


def run_world_study(config: WorldStudyConfig) -> Path:
    """Do all of it and write `config.result`.

    Raises:
        UserError: unknown world or preset, or the result exists.
        LoopwmError: a step failed; Ctrl-C exits with code 130 after saving.
    """
    refuse_existing(config.result, "move it away or choose another file with --out")
    settings = preset(config.preset)
    sample = replace(settings.evaluation, transitions=config.transitions, rollouts=max(1, config.transitions // 10))
    settings = replace(settings, evaluation=sample)
    data = recording(config)
    base = replace(
        settings.config,
        data=data,
        optim=replace(settings.config.optim, warmup=min(settings.config.optim.warmup, config.updates)),
        train=replace(
            settings.config.train,
            updates=config.updates,
            batch=config.batch,
            window=config.window or settings.config.train.window,
            curriculum=config.curriculum,
            refill=bool(config.curriculum),
        ),
    )
    with TerminalProgress("choosing learning rates", "update") as progress:
        choices = pick_rates(
            base,
            config.home / "rates",
            settings.rates,
            config.rate_updates,
            progress,
            config.command,
            # After so few updates, the rate that is ahead one step ahead may be far behind in imagination.
            by="open_loop",
        )
    folders: dict[System, list[Path]] = {
        system: [config.home / f"{system}-seed{seed}" for seed in config.seeds] for system in SYSTEMS
    }
    jobs = [
        Job(run, with_system(base, system, choices[system].rate, seed))
        for system, runs in folders.items()
        for run, seed in zip(runs, config.seeds, strict=True)
    ]
    with TerminalProgress("training", "update") as progress:
        train_all(jobs, progress, again=config.command)
    results: dict[System, Runs] = {system: evaluated(system, runs, settings) for system, runs in folders.items()}
    # Of whole windows, which the earliest updates of a curriculum do not have.
    speed = throughput(replace(base, train=replace(base.train, curriculum=0)), ThroughputConfig(rounds=config.rounds))
    write_json(config.result, plain(summary(config, base, choices, results, speed)))
    return config.result


def recording(config: WorldStudyConfig) -> Path:
    """The recording of this study, made if it is not there.

    Raises:
        UserError: another one is there.
    """
    path = config.home / "recording.h5"
    wanted = CollectConfig(
        world=config.world,
        # Never what ends a recording: that is `steps`.
        episodes=config.steps,
        steps=config.steps,
        max_steps=config.max_steps,
        seed=config.recording_seed,
        hold=config.hold,
    )
    if not path.exists():
        with TerminalProgress("recording", "transition") as progress:
            collect(wanted, path, progress.advance)
    with Store.open(path) as store:
        meta = store.meta
    world = find_world(config.world)
    if meta.command != recorded_by(limited(replace(wanted, world=world.name), world), path):
        raise UserError(f"{path} is another recording ({meta.command}); choose another --folder.")
    return path


def summary(
    config: WorldStudyConfig,
    base: RunConfig,
    choices: dict[System, RateChoice],
    results: dict[System, Runs],
    speed: Throughput,
) -> dict[str, Any]:
    """The published file: `figures` are flat, `intervals` their uncertainty, the rest is where they come from."""
    everything = [one for runs in results.values() for one in runs.evaluations]
    main = results["looped"].evaluations[0]
    with Store.open(base.data) as store:
        meta, episodes, transitions = store.meta, store.num_episodes, store.num_transitions
    intervals = error_intervals(results, {})
    return {
        "command": config.command,
        "versions": versions() | meta.versions,
        "processor": processor(resolve_device(base.train.device)),
        "seeds": list(config.seeds),
        "updates": config.updates,
        "data": {
            "world": config.world,
            "command": meta.command,
            "episodes": episodes,
            "transitions": transitions,
            "observation": asdict(meta.observation),
            "action": asdict(meta.action),
            "digest": main.run.data_digest,
        },
        "learning_rates": {
            str(system): {"picked": choice.rate, "validation": {f"{r:g}": e for r, e in choice.errors.items()}}
            for system, choice in choices.items()
        },
        "figures": {
            **{name: interval.mean for name, interval in intervals.items()},
            **figures(results, speed),
        },
        "intervals": intervals,
        "allocation": [allocation(one) for one in results["looped"].evaluations],
        "throughput": asdict(speed),
        "runs": [one_run(one) | {"controls": one.controls, "speed": one.speed} for one in everything],
        "config": config_as_dict(base),
    }


def figures(results: dict[System, Runs], speed: Throughput) -> dict[str, float]:
    """Sizes, the model against controls over horizons, depths, who gets the loops, speed."""
    looped = results["looped"]
    found = {
        "updates_per_s_ratio": speed.ratio,
        "updates_per_s_ratio_fixed_depth": speed.fixed_ratio,
        "mse_looped_1": float(np.mean([one.depth[0].error.mean for one in looped.evaluations])),
        "mse_looped_8mu": looped.at_depth(8),
        f"control_ratio_{HORIZONS}": worst_against_controls(looped, HORIZONS),
    }
    systems: dict[str, System] = {
        "looped": "looped",
        "equal_flops": "stack-equal-flops",
        "equal_params": "stack-equal-params",
    }
    for key, system in systems.items():
        run = results[system].evaluations[0].run
        found |= {f"params_{key}": run.parameters, f"flops_step_{key}": run.flops_step}
        found[f"open_loop_{key}_{HORIZONS}"] = open_loop(results[system], HORIZONS)
    return found


def open_loop(runs: Runs, horizon: int) -> float:
    """Normalised error `horizon` steps ahead, or as far as episodes go, averaged over seeds."""
    curves = [next(curve for curve in one.horizon if curve.kind == "model") for one in runs.evaluations]
    return float(np.mean([curve.error[min(horizon, len(curve.error)) - 1].mean for curve in curves]))


def allocation(one: Evaluation) -> dict[str, Any] | None:
    """Who gets the loops of the exit that needs fewest: by every recorded label; None without a frontier."""
    if one.frontier is None:
        return None
    exit, cap = one.frontier.fewest_loops, one.frontier.fewest_loops_cap
    # A curve of the rule `fixed`, which it is when none saves anything, tells of nobody's loops.
    curve = next((c for c in one.frontier.curves if (c.rule, c.cap) == (exit.rule, cap)), None)
    labels = curve.best.allocation if curve is not None and curve.best is not None else ()
    return {
        "rule": exit.rule,
        "share": one.frontier.fewest_loops_share,
        "tolerance": one.frontier.tolerance,
        "labels": {
            part.label: {
                "rank": part.rank,
                "matched_rank": part.matched_rank,
                "easiest": part.easiest,
                "hardest": part.hardest,
            }
            for part in labels
        },
    }
