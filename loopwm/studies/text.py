"""`loopwm study text WORLD`: the looped model and both stacks on a text world, beside rules, on every track. Resumable:
what is trained or asked is not done again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from loopwm.errors import UserError
from loopwm.evaluate.speed import processor
from loopwm.files import file_digest, refuse_existing, write_json
from loopwm.model.config import SYSTEMS, System
from loopwm.presets import RunConfig, preset
from loopwm.progress import TerminalProgress
from loopwm.studies.config import TextStudyConfig
from loopwm.studies.jobs import Job, train_all
from loopwm.studies.systems import with_system
from loopwm.studies.text_earlier import SAME, Earlier
from loopwm.text.benchmark.benchmark import BenchmarkConfig, BenchmarkResult, prepare, run_benchmark
from loopwm.text.benchmark.lexicon import WORLDS
from loopwm.text.benchmark.looping import Looping, LoopingConfig, looping
from loopwm.text.benchmark.sources import read_world
from loopwm.text.benchmark.tables import reported_json
from loopwm.text.benchmark.windows import TRACKS, WindowConfig
from loopwm.text.config import SimulatorConfig
from loopwm.text.evaluation import of_runs
from loopwm.text.recording import TextEpisode, read_recording
from loopwm.train.checkpoint import NAME
from loopwm.train.hardware import resolve_device
from loopwm.train.journal import config_as_dict, most_memory, read_log, versions
from loopwm.train.runs import finished

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
    if world not in WORLDS:
        known = " and ".join(WORLDS)
        raise UserError(f"{config.data} was recorded in {world}, for which there are no rules; there are for {known}.")
    if world != config.world:
        raise UserError(f"{config.data} was recorded in {world}, not in {config.world}; study {world} instead.")
    base = settings_of(config)
    told = json.loads(json.dumps({name: getattr(config, name) for name in SAME}))
    earlier = Earlier.read(config.beside, told, base, digests)
    refuse_twice(config, earlier)
    runs: dict[tuple[System, int], Path] = {
        (system, seed): config.home / f"{system}-seed{seed}" for system in config.systems for seed in config.seeds
    }
    jobs = [Job(run, with_system(base, system, base.optim.lr, seed)) for (system, seed), run in runs.items()]
    with TerminalProgress("training", "update") as progress:
        train_all(jobs, progress, again=config.command, threads=config.threads)
    results = {
        track: asked(config, track, episodes, list(runs.values()), earlier.track(track)) for track in tracks(episodes)
    }
    evidence = earlier.evidence or depth_evidence(config, episodes, runs["looped", config.seeds[0]])
    write_json(config.result, summary(config, base, digests, runs, results, evidence, earlier))
    return config.result


def refuse_twice(config: TextStudyConfig, earlier: Earlier) -> None:
    """Raise UserError where a system would be measured that is measured already, or the looped one never."""
    twice = [system for system in config.systems if system in earlier.systems]
    if twice:
        raise UserError(f"{config.beside} has measured {' and '.join(twice)}; name others by --systems.")
    if "looped" not in (*config.systems, *earlier.systems):
        raise UserError(f"{config.beside} has no looped system to compare with; name it among --systems.")


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
        rename=config.rename,
        balance=config.balance,
        changes=config.changes,
        precision=config.precision or settings.train.precision,
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
    return replace(settings, data=config.data, model=model, train=train, start=config.start)


def tracks(episodes: Sequence[TextEpisode]) -> list[str]:
    """Those that the recording allows: some show the complete initial state."""
    known = all(one.initial for one in episodes)
    return [name for name, track in TRACKS.items() if known or not track.initial]


def windows_of(config: TextStudyConfig, track: str, per_type: int) -> BenchmarkConfig:
    """What is asked on a track."""
    return BenchmarkConfig(windows=WindowConfig(track=track, split=config.split, per_type=per_type))


def asked(
    config: TextStudyConfig,
    track: str,
    episodes: list[TextEpisode],
    runs: Sequence[Path],
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The benchmark's result on a track as plain numbers, kept in a file beside the runs; who answered there with the
    same weights is not asked again.

    Args:
        before: the same of an earlier study, whose systems are part of this one's result.
    """
    how = f"{config.window}-beam{config.beam}" + "-words" * config.decode
    path = config.home / f"{track}-{config.split}-{config.per_type}-{how}.json"
    # A study in this folder may have asked fewer systems before, or others of these names.
    kept = json.loads(path.read_text()) if path.exists() else {"weights": {}}
    weights = {run.name: file_digest(run / NAME) for run in runs if (run / NAME).exists()}
    wanted = {run.name: "" for run in runs} | (before or {}).get("weights", {}) | weights
    if not wanted.items() <= kept["weights"].items():
        earlier = [answers_of(one, wanted) for one in (before, kept) if one and one["weights"]]
        known = {name for one in earlier for name in one.systems}
        result = run_benchmark(
            config.world,
            episodes,
            of_runs(
                [run for run in runs if run.name not in known],
                SimulatorConfig(beam=config.beam, decode=config.decode),
            ),
            windows_of(config, track, config.per_type),
            earlier=earlier,
            step=_say(track),
        )
        answered_with = {name: one for name, one in (kept["weights"] | wanted).items() if name in result.systems}
        write_json(path, result.to_json() | {"weights": answered_with})
    return json.loads(path.read_text())


def answers_of(stored: Mapping[str, Any], wanted: Mapping[str, str]) -> BenchmarkResult:
    """A stored track, without systems that have other weights than are `wanted`, or of which no hits are kept."""
    result = TypeAdapter(BenchmarkResult).validate_python(stored)
    same = [name for name, weights in stored["weights"].items() if wanted.get(name, weights) == weights]
    return replace(result, systems={name: result.systems[name] for name in same if result.systems[name].hits})


def depth_evidence(config: TextStudyConfig, episodes: list[TextEpisode], run: Path) -> dict[str, Any]:
    """What looping buys, on the track `history`, kept in a file beside the runs."""
    path = config.home / f"looping-{config.split}-{config.looping_per_type}.json"
    weights = file_digest(run / NAME)
    if not path.exists() or json.loads(path.read_text())["weights"] != weights:
        windows = prepare(episodes, windows_of(config, "history", config.looping_per_type))[0]
        model = of_runs([run])[run.name].model
        asked = LoopingConfig(memory=config.window, beam=config.beam, decode=config.decode)
        found: Looping = looping(model, config.world, windows, asked, step=_say("looping"))
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
    earlier: Earlier,
) -> dict[str, Any]:
    """The published file: `figures` are flat, the rest is where they come from."""
    systems: list[System] = [one for one in SYSTEMS if one in (*config.systems, *earlier.systems)]
    return {
        "command": config.command,
        "earlier": earlier.made(),
        "versions": versions(),
        "processor": processor(resolve_device(base.train.device)),
        "seeds": list(config.seeds),
        "systems": systems,
        "updates": config.updates,
        "threads": dict(earlier.threads)
        | {system: told_of(runs[system, config.seeds[0]])["threads"] for system in config.systems},
        "beam": config.beam,
        "decode": config.decode,
        "head": config.head,
        "split": config.split,
        "recordings": digests,
        "recorded_by": {path.name: read_recording(path)[0].command for path in (config.data, *config.further)},
        "figures": figures(systems, config.seeds[0], results, evidence) | prices(config, runs, earlier),
        "precision": earlier.content.get("precision", {})
        | {run.name: told_of(run)["precision"] for run in runs.values()},
        "tracks": results,
        "looping": evidence,
        "reported": reported_json(config.world),
        "config": config_as_dict(base),
    }


def told_of(run: Path) -> dict[str, Any]:
    """What a run wrote down of itself when its training began."""
    return json.loads((run / "info.json").read_text())


def prices(
    config: TextStudyConfig, runs: Mapping[tuple[System, int], Path], earlier: Earlier
) -> dict[str, int | float]:
    """Parameters, FLOPs of a step and hours of training of every system, and the most memory that any needed."""
    known = earlier.prices([_key(system) for system in earlier.systems])
    found: dict[str, int | float] = dict(known)
    for system in config.systems:
        run = runs[system, config.seeds[0]]
        model = next(iter(of_runs([run]).values())).model
        found[f"params{_key(system)}"] = model.num_parameters()
        found[f"flops_step{_key(system)}"] = model.flops().step
        if (done := finished(run)) is not None:
            found[f"hours{_key(system)}"] = round(done.seconds / 3600, 3)
    needed = [most_memory(read_log(run)) or 0.0 for run in runs.values()]
    return found | {"peak_memory_gib": round(max([*needed, known.get("peak_memory_gib", 0.0)]), 2)}


def _key(system: str) -> str:
    """`` for the looped model, `_equal_flops` and `_equal_params` for the stacks."""
    return system.removeprefix("looped").removeprefix("stack").replace("-", "_")


def figures(
    systems: Sequence[System], seed: int, results: dict[str, dict[str, Any]], evidence: dict[str, Any]
) -> dict[str, float]:
    """EM in percent at the last step of every track: `em_TRACK` of the looped model's leading seed, `em_TRACK_SYSTEM`
    of the stacks, `em_rules_TRACK` of the strongest rules, `lead_TRACK_SYSTEM` the paired lead over each; ceilings."""
    found: dict[str, float] = {}
    for name, result in results.items():
        track, own = name.replace("-", "_"), result["figures"]
        for system in systems:
            run = f"{system}-seed{seed}"
            for part in ("em", "low", "high"):
                found[f"{part}_{track}{_key(system)}"] = own[f"{part}_{run}"]
        for part in ("em", "low", "high"):
            found[f"{part}_rules_{track}"] = own[f"{part}_{RULES.replace(' ', '_')}"]
        for kind in ("unusual", "novel"):
            found[f"ceiling_{kind}_{track}"] = own[f"ceiling_{kind}"]
        main = result["systems"][f"looped-seed{seed}"]["against"]
        others = {RULES: "_rules"} | {f"{system}-seed{seed}": _key(system) for system in systems if system != "looped"}
        for other, key in others.items():
            lead = main[other]["mix"] or main[other]["macro"]
            for part, prefix in (("mean", "lead"), ("low", "lead_low"), ("high", "lead_high")):
                found[f"{prefix}_{track}{key}"] = round(100 * lead[part], 2)
    took = {name: spread for name, spread in evidence["milliseconds"].items() if spread}
    for name, (middle, low, high) in took.items():
        key = f"window_{name}_ms".replace("_last", "")
        found |= {key: round(middle, 1), f"{key}_low": round(low, 1), f"{key}_high": round(high, 1)}
    for loops, em in evidence["depth"].items():
        found[f"em_at_{loops}_loops"] = round(100 * em["mean"], 2)
    return found
