"""`loopwm study capacity`: one shared model for several worlds, against a model for each and against ordinary stacks.

All runs make the same number of updates. The shared model draws its windows from the mixture, a model of one world as
many as fall to that world, so that both have seen equally much of it; it need not compute the entities that fill the
mixture's observations up to the same shape. Resumable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from loopwm.data.cache import open_memmap
from loopwm.data.mix import MIXED, MixConfig, mix, part_name
from loopwm.data.statistics import compute_statistics
from loopwm.data.store import Store
from loopwm.errors import UserError
from loopwm.evaluate.evaluation import plain
from loopwm.evaluate.speed import processor
from loopwm.files import refuse_existing, write_json
from loopwm.model.config import SYSTEMS, ModelConfig, System
from loopwm.model.world_model import WorldModel
from loopwm.presets import RunConfig, preset
from loopwm.progress import TerminalProgress
from loopwm.studies.capacity_scores import Field, Scores, figures_of, kept, measured
from loopwm.studies.config import CapacityStudyConfig, WorldStudyConfig
from loopwm.studies.jobs import Job, train_all
from loopwm.studies.systems import RateChoice, pick_rates, with_system
from loopwm.studies.world import recording
from loopwm.train.hardware import resolve_device
from loopwm.train.journal import config_as_dict, versions

SHARED: dict[str, System] = {
    "shared": "looped",
    "shared-equal-flops": "stack-equal-flops",
    "shared-equal-params": "stack-equal-params",
}
"""Models of all worlds at once."""
EACH, PARTS = "each", "parts"
"""Looped models of one world each: as large as the shared one, or all together as large."""


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        base: settings of the shared looped model.
        parts: world -> its store. rates: the grid.
        narrow: the size at which one model per world has, all together, the shared model's parameters.
    """

    config: CapacityStudyConfig
    base: RunConfig
    parts: dict[str, Path]
    rates: tuple[float, ...]
    narrow: ModelConfig

    def alone(self, world: str, kind: str) -> RunConfig:
        """Settings of a model of one world."""
        model = self.narrow if kind == PARTS else self.base.model
        train = replace(self.base.train, batch=self.config.windows)
        return replace(self.base, data=self.parts[world], model=model, train=train)


def run_capacity_study(config: CapacityStudyConfig) -> Path:
    """Do all of it and write `config.out`.

    Raises:
        UserError: a world that cannot be mixed, an unknown preset, or the result exists.
        LoopwmError: a step failed; Ctrl-C exits with code 130 after saving.
    """
    refuse_existing(config.out, "move it away or choose another file with --out")
    plan = prepared(config)
    choices = chosen_rates(plan)
    runs, jobs = all_jobs(plan, choices)
    with TerminalProgress("training", "update") as progress:
        train_all(jobs, progress, again=config.command)
    with Store.open(plan.base.data) as store:
        entities = store.meta.observation.shape[0]
    alone = {world: Field.of(world, path, config) for world, path in plan.parts.items()}
    together = {world: field.filled(entities) for world, field in alone.items()}
    scores: dict[str, Scores] = {}
    with TerminalProgress("evaluating", "run") as progress:
        total = sum(map(len, runs.values()))
        for name, folders in runs.items():
            fields = together if name in SHARED else alone
            of = [fields[world] for world in worlds_of(name, plan)]
            path = config.folder / "scores" / f"{part_name(name.replace(' ', '-'))}.json"
            scores[name] = kept(path, config.command, partial(measured, folders, of, deep=name == "shared"))
            progress.advance(sum(len(one.runs) for one in scores.values()), total)
    write_json(config.out, plain(summary(plan, choices, runs, scores)))
    return config.out


def prepared(config: CapacityStudyConfig) -> Plan:
    """Recordings and mixture, made if they are not there, and what is to be trained on them."""
    settings = preset(config.preset)
    sources = tuple(
        recording(
            WorldStudyConfig(
                world, steps=config.recorded, recording_seed=config.recording_seed, folder=config.recordings
            )
        )
        for world in config.worlds
    )
    parts = mixture(config, sources)
    base = replace(
        settings.config,
        data=config.folder / "data" / MIXED,
        train=replace(settings.config.train, updates=config.updates, batch=config.windows * len(config.worlds)),
    )
    return Plan(config, base, parts, settings.rates, narrowed(base.model, parts[config.worlds[0]], len(parts)))


def mixture(config: CapacityStudyConfig, sources: tuple[Path, ...]) -> dict[str, Path]:
    """World -> its part of the mixture.

    Raises:
        UserError: another mixture is there.
    """
    wanted = MixConfig(sources, config.folder / "data", config.steps)
    parts = {world: wanted.out / f"{part_name(world)}.h5" for world in config.worlds}
    if not (wanted.out / MIXED).exists():
        # Parts without their mixture are what an interruption leaves.
        for path in parts.values():
            path.unlink(missing_ok=True)
        with TerminalProgress("mixing", "recording") as progress:
            mix(wanted, progress.advance)
    with Store.open(wanted.out / MIXED) as store:
        if store.meta.command != wanted.command:
            raise UserError(f"{wanted.out} holds another mixture ({store.meta.command}); choose another --folder.")
    return parts


def narrowed(model: ModelConfig, part: Path, worlds: int) -> ModelConfig:
    """As wide as makes `worlds` models come closest to the parameters of one `model`; two heads, as it is narrow."""
    with Store.open(part) as store:
        columns = open_memmap(store)
        spec, action = store.meta.observation, store.meta.action
        statistics = compute_statistics(columns, store.split("train"))

    def parameters(config: ModelConfig) -> int:
        return WorldModel(config, spec, action, statistics).num_parameters()

    aim = parameters(model)
    widths = range(8, model.width + 1, 4)
    candidates = [replace(model, width=width, heads=2) for width in widths]
    return min(candidates, key=lambda config: abs(worlds * parameters(config) - aim))


def chosen_rates(plan: Plan) -> dict[str, RateChoice]:
    """The learning rate of every kind of run, picked on its own validation episodes."""
    config, folder = plan.config, plan.config.folder / "rates"
    with TerminalProgress("choosing learning rates", "update") as progress:
        picked = pick_rates(
            plan.base,
            folder / "shared",
            plan.rates,
            config.rate_updates,
            progress,
            config.command,
            SYSTEMS,
            by="open_loop",
        )
        choices = {name: picked[system] for name, system in SHARED.items()}
        for kind in (EACH, PARTS):
            for world in config.worlds:
                name = f"{kind} {world}"
                choices[name] = pick_rates(
                    plan.alone(world, kind),
                    folder / kind / part_name(world),
                    plan.rates,
                    config.rate_updates,
                    progress,
                    config.command,
                    ("looped",),
                    by="open_loop",
                )["looped"]
    return choices


def all_jobs(plan: Plan, choices: dict[str, RateChoice]) -> tuple[dict[str, list[Path]], list[Job]]:
    """Name -> run folders, one per seed, and what is to be trained in them."""
    runs: dict[str, list[Path]] = {}
    jobs: list[Job] = []
    for name, choice in choices.items():
        kind, _, world = name.partition(" ")
        base = plan.alone(world, kind) if world else plan.base
        system = SHARED.get(name, "looped")
        runs[name] = [plan.config.folder / f"{part_name(name.replace(' ', '-'))}-seed{s}" for s in plan.config.seeds]
        pairs = zip(runs[name], plan.config.seeds, strict=True)
        jobs += [Job(run, with_system(base, system, choice.rate, seed)) for run, seed in pairs]
    return runs, jobs


def worlds_of(name: str, plan: Plan) -> Sequence[str]:
    """The worlds that a kind of run is a model of."""
    _, _, world = name.partition(" ")
    return (world,) if world else plan.config.worlds


def summary(
    plan: Plan, choices: dict[str, RateChoice], runs: dict[str, list[Path]], scores: dict[str, Scores]
) -> dict[str, Any]:
    """The published file."""
    config = plan.config
    intervals = figures_of(scores, config.worlds)
    with Store.open(plan.base.data) as store:
        mixed = {"transitions": store.num_transitions, "digest": store.digest, "command": store.meta.command}
    return {
        "command": config.command,
        "versions": versions(),
        "processor": processor(resolve_device(plan.base.train.device)),
        "seeds": list(config.seeds),
        "updates": config.updates,
        "worlds": list(config.worlds),
        "data": mixed,
        "learning_rates": {
            name: {"picked": choice.rate, "validation": {f"{r:g}": e for r, e in choice.errors.items()}}
            for name, choice in choices.items()
        },
        "figures": {
            **{name: one.mean for name, one in intervals.items()},
            **{f"params {name}": one.parameters for name, one in scores.items()},
            **{f"flops_step {name}": one.flops_step for name, one in scores.items()},
            **{f"training_minutes {name}": one.minutes for name, one in scores.items()},
        },
        "intervals": intervals,
        "depth_of_shared": scores["shared"].depth,
        "runs": {name: [str(run) for run in folders] for name, folders in runs.items()},
        "config": config_as_dict(plan.base),
        "narrow": config_as_dict(plan.alone(config.worlds[0], PARTS))["model"],
    }
