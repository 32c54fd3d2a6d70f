"""`loopwm study text WORLD`: the looped model and both stacks on a text world, beside rules, on every track. Resumable:
what is trained or asked is not done again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from loopwm.errors import UserError
from loopwm.evaluate.speed import processor
from loopwm.files import file_digest, refuse_existing, write_json
from loopwm.model.config import System
from loopwm.presets import RunConfig, preset
from loopwm.progress import TerminalProgress
from loopwm.studies.config import TextStudyConfig
from loopwm.studies.jobs import Job, train_all
from loopwm.studies.systems import with_system
from loopwm.text.benchmark.benchmark import BenchmarkConfig, prepare, run_benchmark
from loopwm.text.benchmark.looping import Looping, looping
from loopwm.text.benchmark.sources import read_world
from loopwm.text.benchmark.tables import reported_json
from loopwm.text.benchmark.windows import TRACKS, WindowConfig
from loopwm.text.config import SimulatorConfig
from loopwm.text.evaluation import of_runs
from loopwm.text.recording import TextEpisode, read_recording
from loopwm.train.checkpoint import NAME
from loopwm.train.hardware import resolve_device
from loopwm.train.journal import config_as_dict, most_memory, read_log, versions
from loopwm.train.trainer import finished

RULES = "all rules"
"""The strongest of them."""


def run_text_study(config: TextStudyConfig) -> Path:
    """Do all of it and write `config.result`.

    Raises:
        UserError: unknown preset, a recording of another world, or the result exists.
        LoopwmError: a step failed; Ctrl-C exits with code 130 after saving.
    """
    refuse_existing(config.result, "move it away or choose another file with --out")
    world, digests, episodes = read_world((config.data, *config.further))
    if world != config.world:
        raise UserError(f"{config.data} was recorded in {world}, not in {config.world}; study {world} instead.")
    base = settings_of(config)
    runs: dict[tuple[System, int], Path] = {
        (system, seed): config.home / f"{system}-seed{seed}" for system in config.systems for seed in config.seeds
    }
    jobs = [Job(run, with_system(base, system, base.optim.lr, seed)) for (system, seed), run in runs.items()]
    with TerminalProgress("training", "update") as progress:
        train_all(jobs, progress, again=config.command)
    results = {track: asked(config, track, episodes, list(runs.values())) for track in tracks(episodes)}
    evidence = depth_evidence(config, episodes, runs["looped", config.seeds[0]])
    write_json(config.result, summary(config, base, digests, runs, results, evidence))
    return config.result


def settings_of(config: TextStudyConfig) -> RunConfig:
    """The run that all systems start from."""
    settings = preset(config.preset).config
    train = replace(
        settings.train,
        updates=config.updates,
        batch=config.batch,
        window=config.window,
        initial=config.initial,
        spell=config.spell,
        balance=config.balance,
        changes=config.changes,
    )
    text = replace(
        settings.model.text,
        numbers=config.numbers,
        trust=config.trust,
        touched=config.touched,
        expect=config.expect,
        head=config.head,
    )
    model = replace(settings.model, text=text)
    return replace(settings, data=config.data, model=model, train=train)


def tracks(episodes: Sequence[TextEpisode]) -> list[str]:
    """Those that the recording allows: some show the complete initial state."""
    known = all(one.initial for one in episodes)
    return [name for name, track in TRACKS.items() if known or not track.initial]


def windows_of(config: TextStudyConfig, track: str, per_type: int) -> BenchmarkConfig:
    """What is asked on a track."""
    return BenchmarkConfig(windows=WindowConfig(track=track, split=config.split, per_type=per_type))


def asked(config: TextStudyConfig, track: str, episodes: list[TextEpisode], runs: Sequence[Path]) -> dict[str, Any]:
    """The benchmark's result on one track as plain numbers, kept in a file beside the runs."""
    how = f"beam{config.beam}" + "-words" * config.decode
    path = config.home / f"{track}-{config.split}-{config.per_type}-{how}.json"
    # An earlier study in this folder may have asked fewer systems, or others of these names.
    known = json.loads(path.read_text())["weights"] if path.exists() else {}
    weights = {run.name: file_digest(run / NAME) for run in runs if (run / NAME).exists()}
    if not all(known.get(run.name) == weights.get(run.name, "") for run in runs):
        result = run_benchmark(
            config.world,
            episodes,
            of_runs(runs, SimulatorConfig(beam=config.beam, decode=config.decode)),
            windows_of(config, track, config.per_type),
            step=_say(track),
        )
        write_json(path, result.to_json() | {"weights": weights})
    return json.loads(path.read_text())


def depth_evidence(config: TextStudyConfig, episodes: list[TextEpisode], run: Path) -> dict[str, Any]:
    """What looping buys, on the track `history`, kept in a file beside the runs."""
    path = config.home / f"looping-{config.split}-{config.looping_per_type}.json"
    weights = file_digest(run / NAME)
    if not path.exists() or json.loads(path.read_text())["weights"] != weights:
        windows = prepare(episodes, windows_of(config, "history", config.looping_per_type))[0]
        model = of_runs([run])[run.name].model
        found: Looping = looping(model, config.world, windows, step=_say("looping"))
        write_json(path, asdict(found) | {"weights": weights})
    return json.loads(path.read_text())


def _say(what: str) -> Any:
    from rich.console import Console

    console = Console(stderr=True)
    return lambda name: console.print(f"{what}: {name}")


def summary(
    config: TextStudyConfig,
    base: RunConfig,
    digests: dict[str, str],
    runs: dict[tuple[System, int], Path],
    results: dict[str, dict[str, Any]],
    evidence: dict[str, Any],
) -> dict[str, Any]:
    """The published file: `figures` are flat, the rest is where they come from."""
    models = {system: next(iter(of_runs([runs[system, config.seeds[0]]]).values())).model for system in config.systems}
    done = {name: finished(run) for name, run in runs.items()}
    return {
        "command": config.command,
        "versions": versions(),
        "processor": processor(resolve_device(base.train.device)),
        "seeds": list(config.seeds),
        "systems": list(config.systems),
        "updates": config.updates,
        "beam": config.beam,
        "decode": config.decode,
        "head": config.head,
        "split": config.split,
        "recordings": digests,
        "recorded_by": {path.name: read_recording(path)[0].command for path in (config.data, *config.further)},
        "figures": figures(config, results, evidence)
        | {f"params{_key(system)}": model.num_parameters() for system, model in models.items()}
        | {f"flops_step{_key(system)}": model.flops().step for system, model in models.items()}
        | {
            f"hours{_key(system)}": round(result.seconds / 3600, 3)
            for (system, seed), result in done.items()
            if result is not None and seed == config.seeds[0]
        }
        | {"peak_memory_gib": round(max(most_memory(read_log(run)) or 0.0 for run in runs.values()), 2)},
        "tracks": results,
        "looping": evidence,
        "reported": reported_json(config.world),
        "config": config_as_dict(base),
    }


def _key(system: str) -> str:
    """`` for the looped model, `_equal_flops` and `_equal_params` for the stacks."""
    return system.removeprefix("looped").removeprefix("stack").replace("-", "_")


def figures(config: TextStudyConfig, results: dict[str, dict[str, Any]], evidence: dict[str, Any]) -> dict[str, float]:
    """EM in percent at the last step of every track: `em_TRACK` of the looped model's leading seed, `em_TRACK_SYSTEM`
    of the stacks, `em_rules_TRACK` of the strongest rules, `lead_TRACK_SYSTEM` the paired lead over each; ceilings."""
    found: dict[str, float] = {}
    for name, result in results.items():
        track, own = name.replace("-", "_"), result["figures"]
        for system in config.systems:
            run = f"{system}-seed{config.seeds[0]}"
            for part in ("em", "low", "high"):
                found[f"{part}_{track}{_key(system)}"] = own[f"{part}_{run}"]
        for part in ("em", "low", "high"):
            found[f"{part}_rules_{track}"] = own[f"{part}_{RULES.replace(' ', '_')}"]
        for kind in ("unusual", "novel"):
            found[f"ceiling_{kind}_{track}"] = own[f"ceiling_{kind}"]
        main = result["systems"][f"looped-seed{config.seeds[0]}"]["against"]
        others = {RULES: "_rules"} | {
            f"{system}-seed{config.seeds[0]}": _key(system) for system in config.systems if system != "looped"
        }
        for other, key in others.items():
            lead = main[other]["mix"] or main[other]["macro"]
            for part, prefix in (("mean", "lead"), ("low", "lead_low"), ("high", "lead_high")):
                found[f"{prefix}_{track}{key}"] = round(100 * lead[part], 2)
    for name, (middle, low, high) in evidence["milliseconds"].items():
        key = f"window_{name}_ms".replace("_last", "")
        found |= {key: round(middle, 1), f"{key}_low": round(low, 1), f"{key}_high": round(high, 1)}
    for loops, em in evidence["depth"].items():
        found[f"em_at_{loops}_loops"] = round(100 * em["mean"], 2)
    return found
