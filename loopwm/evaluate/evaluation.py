"""`loopwm evaluate RUN`: every measurement of one run."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from loopwm.data.cache import Columns, open_memmap
from loopwm.data.store import Store
from loopwm.errors import UserError
from loopwm.evaluate import depth, diagnostics
from loopwm.evaluate.bootstrap import Bootstrap, Interval
from loopwm.evaluate.config import EvaluateConfig
from loopwm.evaluate.controls import Control, fit_controls
from loopwm.evaluate.early import EarlyErrors, early_errors
from loopwm.evaluate.frontier import Frontier, frontier
from loopwm.evaluate.rollout import StepErrors, control_errors, control_single, one_step, open_loop
from loopwm.evaluate.run_info import RunInfo, run_info
from loopwm.evaluate.samples import Samples
from loopwm.evaluate.scores import Scorer
from loopwm.evaluate.segments import Segments
from loopwm.evaluate.speed import ExitTime, StepTime, exit_time, processor, step_times
from loopwm.files import write_json
from loopwm.model.config import ExitConfig
from loopwm.model.world_model import WorldModel
from loopwm.progress import Progress, SilentProgress
from loopwm.train.checkpoint import load
from loopwm.train.hardware import resolve_device
from loopwm.train.journal import read_config

FILE = "evaluation.json"

_REMEDY = "move it away, or add --overwrite to replace it."

Existing = Literal["refuse", "reuse", "replace"]
"""What becomes of an evaluation that is there already: `refuse` measures nothing and says why, `reuse` gives it back if
it is the one asked for and replaces it otherwise, `replace` replaces it."""


@dataclass(frozen=True)
class Curve:
    """Open-loop error against the horizon, one interval per step.

    Attributes:
        name: who predicts. kind: the model, its floor (every observation in view), or a control.
        error: normalised mean squared error at horizon 1, 2, ...
        rmse: group -> root mean square error per coordinate in environment units.
    """

    name: str
    kind: Literal["model", "floor", "control"]
    error: tuple[Interval, ...]
    rmse: dict[str, tuple[Interval, ...]]


@dataclass(frozen=True)
class EpisodeErrors:
    """Sums per episode, from which any interval can be taken again, paired with another run on the same episodes."""

    episode: tuple[int, ...]
    count: tuple[int, ...]
    error_sum: tuple[float, ...]

    @classmethod
    def of(cls, episode: np.ndarray, error: np.ndarray) -> EpisodeErrors:
        """Of errors (n,) and the episodes (n,) they belong to."""
        ids, row = np.unique(episode, return_inverse=True)
        sums = np.bincount(row, error, minlength=len(ids))
        return cls(tuple(ids.tolist()), tuple(np.bincount(row).tolist()), tuple(sums.tolist()))


@dataclass(frozen=True)
class Evaluation:
    """Everything measured of one run.

    Attributes:
        one_step: normalised one-step error at the default T. controls: the same of each control.
        task: reward and continue. depth: scores at every T. difficulty: one table per label.
        horizon: open-loop curves. settling, contraction, retention: None for a stack.
        early: errors with the exit rule asked for; None when that is `fixed`.
        frontier: error against loops for every exit rule. exit_speed: time of the one with fewest loops.
        speed: of this run alone; compare runs with `compare`, which interleaves them.
        nonfinite: predicted numbers that were NaN or infinite in all measurements except `stability`.
        one_step_episodes: per-episode sums behind `one_step`. open_loop_episodes: of the open-loop error, all steps.
    """

    run: RunInfo
    one_step: Interval
    controls: dict[str, Interval]
    task: depth.TaskScores
    depth: tuple[depth.DepthPoint, ...]
    difficulty: tuple[depth.DifficultyTable, ...]
    horizon: tuple[Curve, ...]
    settling: diagnostics.Settling | None
    contraction: diagnostics.Contraction | None
    retention: diagnostics.RetentionSpread | None
    early: EarlyErrors | None
    frontier: Frontier | None
    exit_speed: ExitTime | None
    tokens: diagnostics.TokenHealth
    stability: diagnostics.Stability
    speed: tuple[StepTime, ...]
    processor: str
    nonfinite: int
    one_step_episodes: EpisodeErrors
    open_loop_episodes: EpisodeErrors
    config: EvaluateConfig

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, plain(self))


def read_evaluation(run: Path) -> Evaluation:
    """The evaluation stored in a run folder.

    Raises:
        UserError: there is none, or another version of loopwm wrote it.
    """
    path = Path(run) / FILE
    again = shlex.join(["loopwm", "evaluate", str(run)])
    if not path.is_file():
        raise UserError(f"{run} has not been evaluated; run: {again}")
    try:
        return TypeAdapter(Evaluation).validate_python(json.loads(path.read_text()))
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not an evaluation this loopwm reads; run again: {again} --overwrite") from error


def evaluate(
    run: Path,
    data: Path | None = None,
    config: EvaluateConfig | None = None,
    progress: Progress | None = None,
    *,
    device: str = "auto",
    existing: Existing = "refuse",
) -> Evaluation:
    """Measure a run on held-out episodes and write RUN/evaluation.json.

    Args:
        run: a trained run folder.
        data: the recording; the one the run was trained on when None.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        existing: what becomes of an evaluation that is there already.

    Raises:
        UserError: no run there, no data, too few episodes, data of another shape than the model's, no such device, an
            exit rule that the model cannot follow, no calibrated exit, or an evaluation that is not to be replaced.
    """
    run, config = Path(run), config or EvaluateConfig()
    model = load(run, device=resolve_device(device))
    if config.calibrated:
        config = replace(config, exit=calibrated_exit(model, run), calibrated=False)
    # Refused here, not minutes later.
    model.exit_rule(config.exit)
    data = data or read_config(run / "config.yaml").data
    with Store.open(data) as store:
        columns = open_memmap(store)
        held_out, training = store.split(config.split), store.split("train")
    _check_spaces(model, columns, run)
    if not len(held_out) or not len(training):
        raise UserError(
            f"{data} has {len(held_out)} {config.split} episodes to measure on and {len(training)} train episodes to "
            "fit the controls on, and needs at least one of each; record more."
        )
    info = run_info(run, model, data, columns, held_out)
    kept = None if existing == "replace" else _kept(run, info, config, reuse=existing == "reuse")
    if kept is not None:
        return kept
    result = measure(model, columns, held_out, training, info, config, progress)
    result.save(run / FILE)
    return result


def calibrated_exit(model: WorldModel, run: Path) -> ExitConfig:
    """The exit that was calibrated for a run.

    Raises:
        UserError: none was.
    """
    if model.exit is None:
        again = shlex.join(["loopwm", "calibrate", str(run)])
        raise UserError(f"{run} has no calibrated exit; make one with: {again}")
    return model.exit


def _kept(run: Path, info: RunInfo, config: EvaluateConfig, reuse: bool) -> Evaluation | None:
    """The stored evaluation if it may be reused and is the one asked for; None if there is room to measure.

    Raises:
        UserError: there is one, and `reuse` does not say that it belongs to the caller.
    """
    path = run / FILE
    if not path.is_file():
        return None
    try:
        found = read_evaluation(run)
    except UserError as error:
        if reuse:
            return None
        raise UserError(f"{path} is not an evaluation this loopwm reads, and is not overwritten; {_REMEDY}") from error
    others = differences(found, info, config)
    if reuse:
        return None if others else found
    made = f"was made {', '.join(others)}" if others else "holds just this evaluation"
    raise UserError(f"{path} {made}, and is not overwritten; {_REMEDY}")


def differences(before: Evaluation, info: RunInfo, config: EvaluateConfig) -> list[str]:
    """In words, what an evaluation of `info` under `config` does not share with one made before."""
    found = []
    if before.run.checkpoint != info.checkpoint:
        found.append("from another checkpoint")
    if before.run.data_digest != info.data_digest:
        found.append("on another recording")
    was, now = ({"device": run.device} | run.versions for run in (before.run, info))
    was, now = was | _flat(before.config), now | _flat(config)
    found += [f"with {name} {was.get(name)} instead of {now[name]}" for name in now if was.get(name) != now[name]]
    return found


def _flat(config: EvaluateConfig) -> dict[str, str]:
    """Option -> value, as on the command line."""
    options: dict[str, Any] = {}
    for name, value in asdict(config).items():
        options |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return {name.replace("_", "-"): str(value) for name, value in options.items()}


def measure(
    model: WorldModel,
    columns: Columns,
    held_out: np.ndarray,
    training: np.ndarray,
    info: RunInfo,
    config: EvaluateConfig,
    progress: Progress | None = None,
) -> Evaluation:
    """All measurements of a model; `held_out` and `training` are episode indices."""
    stages = _Stages(progress or SilentProgress(), 10)
    scorer, mu = Scorer.of(model), model.default_loops
    samples = Samples.of(columns, held_out, training, config)
    steps, few, long = samples.steps, samples.few, samples.rollouts
    bootstrap = Bootstrap(steps.transition_episode, resamples=config.resamples, seed=config.seed)
    sweep = depth.depth_sweep(model, steps, depth.depth_grid(model))
    stages.done()
    controls = fit_controls(samples.fitting, scorer, model.action)
    stages.done()
    blind, seeing = open_loop(model, long), one_step(model, long)
    curves = horizon_curves(scorer, long, blind, seeing, controls, config)
    stages.done()
    early = early_errors(model, steps, sweep[mu], long, blind, config)
    stages.done()
    exits = frontier(model, steps, config.tolerance, resamples=config.resamples, seed=config.seed)
    stages.done()
    tables = tuple(
        depth.by_difficulty(scorer, sweep, steps, mu, label, bootstrap) for label in columns.meta.label_names
    )
    stages.done()
    settling = diagnostics.settling(model, few, 4 * mu)
    contraction = diagnostics.contraction(model, few, 4 * mu, seed=config.seed)
    tokens = diagnostics.token_health(model, few)
    stages.done()
    stability = diagnostics.stability(model, long, steps=config.stability_steps, seed=config.seed)
    stages.done()
    speed = step_times([model], config.speed)[0]
    exit_speed = exits and exit_time(model, long, exits.fewest_loops, exits.fewest_loops_cap, config.speed)
    stages.done()
    error = sweep[mu].observation[steps.valid]
    result = Evaluation(
        run=info,
        one_step=bootstrap.mean(error),
        controls={control.name: bootstrap.mean(control_single(control, steps, scorer)) for control in controls},
        task=depth.task_scores(sweep[mu], steps, bootstrap),
        depth=depth.depth_curve(sweep, steps, mu, bootstrap),
        difficulty=tables,
        horizon=curves,
        settling=settling,
        contraction=contraction,
        retention=diagnostics.retention_spread(model),
        early=early,
        frontier=exits,
        exit_speed=exit_speed,
        tokens=tokens,
        stability=stability,
        speed=speed,
        processor=processor(model.device),
        nonfinite=sum(errors.nonfinite for errors in (*sweep.values(), blind, seeing, *([early] if early else []))),
        one_step_episodes=EpisodeErrors.of(steps.transition_episode, error),
        open_loop_episodes=EpisodeErrors.of(long.transition_episode, blind.observation[long.valid]),
        config=config,
    )
    stages.done()
    return result


def horizon_curves(
    scorer: Scorer,
    segments: Segments,
    blind: StepErrors,
    seeing: StepErrors,
    controls: list[Control],
    config: EvaluateConfig,
) -> tuple[Curve, ...]:
    """The model's open-loop curve, its floor (the same segments with every observation in view), every control's."""
    bootstrap = Bootstrap(segments.episode, resamples=config.resamples, seed=config.seed)

    def curve(name: str, kind: Literal["model", "floor", "control"], errors: StepErrors) -> Curve:
        rmse = {
            group: tuple(one.root() for one in bootstrap.means(squared[:, segments.warmup :]))
            for group, squared in errors.groups.items()
        }
        return Curve(name, kind, tuple(bootstrap.means(errors.observation[:, segments.warmup :])), rmse)

    return (
        curve("imagined", "model", blind),
        curve("floor, every observation in view", "floor", seeing),
        *(curve(control.name, "control", control_errors(control, segments, scorer)) for control in controls),
    )


def plain(value: Any) -> Any:
    """Dataclasses as JSON values; NaN and infinity, which JSON lacks, become strings that can be read back."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else str(value)
    return value


def _check_spaces(model: WorldModel, columns: Columns, run: Path) -> None:
    if (model.observation, model.action) != (columns.meta.observation, columns.meta.action):
        raise UserError(
            f"{run} was trained on another world than '{columns.meta.world}' (observations of shape "
            f"{model.observation.shape} against {columns.meta.observation.shape}); give the recording it was "
            "trained on with --data."
        )


class _Stages:
    """Counts finished stages for the progress bar."""

    def __init__(self, progress: Progress, total: int):
        self._progress, self._total, self._finished = progress, total, 0

    def done(self) -> None:
        self._finished += 1
        self._progress.advance(self._finished, self._total)
