"""Choosing the threshold of an exit rule so that a stated excess error holds with a stated confidence."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from loopwm.calibrate.bounds import METHODS, Choice, choose, fewest_episodes
from loopwm.calibrate.config import CalibrateConfig
from loopwm.calibrate.losses import MEASURES, EpisodeErrors, Trial
from loopwm.data.cache import Columns, open_memmap
from loopwm.data.store import Store
from loopwm.errors import UserError
from loopwm.evaluate.bootstrap import Bootstrap, Interval
from loopwm.evaluate.frontier import thresholds
from loopwm.evaluate.segments import tile
from loopwm.evaluate.signals import record_loops
from loopwm.files import write_json
from loopwm.model.config import ExitConfig
from loopwm.model.world_model import WorldModel
from loopwm.progress import Progress, SilentProgress
from loopwm.train.checkpoint import NAME, read_checkpoint, save_checkpoint
from loopwm.train.journal import read_config, versions

FILE = "calibration.json"
ENTRY = "exit"
"""Name of the calibrated exit among the extras of a checkpoint."""
FINE = 400
"""Thresholds that the candidates are picked from."""
TRAINING_EPISODES = 1000
"""Training episodes behind the candidates and behind the limit of harm."""
HEADROOM = 2.0
"""How much more harm than any training episode came to is counted, or than the tolerance where none came to that."""


@dataclass(frozen=True)
class Candidate:
    """One threshold.

    Attributes:
        loops: mean loops per imagined step.
        excess: per measure, mean error over that at full depth, minus 1, with a 95% bootstrap interval over episodes.
        p: of the hypothesis that the excess is not below the tolerance.
    """

    threshold: float
    loops: float
    excess: dict[str, Interval]
    p: float
    accepted: bool


@dataclass(frozen=True)
class Calibration:
    """A calibrated exit and the claim that comes with it.

    Attributes:
        exit: the rule with its threshold.
        loops_share: its mean loops over those of full depth.
        excess, confidence, method, horizon: as asked for.
        episodes: calibration episodes behind the claim.
        largest: per measure, how much extra error an episode counts with at most in the claim.
        full: per measure, mean error at full depth.
        candidates: all of them, from careful to cheap.
        data_digest: of the calibration recording. weights: digest of the weights it holds for.
    """

    exit: ExitConfig
    loops_share: float
    excess: float
    confidence: float
    method: str
    horizon: int
    episodes: int
    largest: dict[str, float]
    full: dict[str, float]
    candidates: tuple[Candidate, ...]
    data_digest: str
    weights: str

    @property
    def claim(self) -> str:
        """What is promised, in words."""
        certain = "" if self.method == "betting" else " (by the central limit theorem, an approximation)"
        cut = " and ".join(f"{value:.3g} {name}" for name, value in self.largest.items())
        return (
            f"With probability {self.confidence:g}{certain}, leaving by '{self.exit.rule}' below "
            f"{self.exit.threshold:g} adds less than {self.excess:.2%} to the mean error of episodes like these "
            f"{self.episodes}, one step ahead and over the model's own rollouts of {self.horizon} steps; an episode's "
            f"extra error counts up to {cut}."
        )


def calibrate(
    run: Path,
    config: CalibrateConfig | None = None,
    data: Path | None = None,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
) -> Calibration:
    """Calibrate a run's exit and write it into its checkpoint, and the table behind it to RUN/calibration.json.

    Arguments and errors as in `calibrate_on`.
    """
    return calibrate_on(run, config, data, progress, overwrite=overwrite)[0]


def calibrate_on(
    run: Path,
    config: CalibrateConfig | None = None,
    data: Path | None = None,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
) -> tuple[Calibration, Tried]:
    """As `calibrate`, together with the errors that it was chosen by.

    Args:
        data: a recording made for this; the held-out episodes of the run's own when left out.
        overwrite: replace a calibration that the run has already.

    Raises:
        UserError: a stack, an exit that is calibrated already, a rule this model cannot follow, episodes that were
            trained on, or too few episodes for the claim.
    """
    run, config, progress = Path(run), config or CalibrateConfig(), progress or SilentProgress()
    checkpoint = read_checkpoint(run / NAME)
    if ENTRY in checkpoint.extras and not overwrite:
        raise UserError(f"{run} holds a calibrated exit already; add --overwrite to replace it.")
    # Not `load`, which refuses a run whose stored exit belongs to other weights, and that can be put right here.
    model = checkpoint.restore(checkpoint.blueprint.build(), "ema").eval()
    checkpoint.restore_gate(model)
    model.exit_rule(ExitConfig(config.rule))
    own = read_config(run / "config.yaml").data
    training, digest = recording(run, own, checkpoint.state["data_digest"], model)
    chosen_from, measured_on, data_digest = training, training.episodes[config.split], digest
    if data is not None:
        chosen_from, measured_on, data_digest = fresh(run, Path(data), training, model)
    trained = np.random.default_rng(config.seed).permutation(training.episodes["train"])[:TRAINING_EPISODES]
    exits = candidates(model, training.columns, trained, config)
    practice = Trial.of(model, config.rule, training.columns, trained, config.horizon)
    counted = np.random.default_rng(config.seed).permutation(measured_on)[: config.episodes]
    trial = Trial.of(model, config.rule, chosen_from.columns, counted, config.horizon)
    tried = try_exits(config, trial, practice, exits, progress)
    found = judged(config, tried)
    result = replace(
        found,
        exit=replace(found.exit, calibrated_loops=model.default_loops),
        data_digest=data_digest,
        weights=checkpoint.exit_digest(found.exit),
    )
    write_json(run / FILE, described(result))
    extras = checkpoint.extras | {ENTRY: entry(result)}
    save_checkpoint(run / NAME, checkpoint.blueprint, checkpoint.tensors, checkpoint.state, extras)
    return result, tried


def try_exits(
    config: CalibrateConfig,
    trial: Trial,
    practice: Trial,
    exits: list[ExitConfig],
    progress: Progress,
) -> Tried:
    """Measure exits from careful to cheap, up to the one that is not accepted: what is cheaper is never chosen.

    Args:
        practice: on training episodes, where the largest harm that is counted is read off.
    """
    tried, usual = Tried([], trial.errors(None), [], []), practice.errors(None).error
    for exit in exits:
        # An exit that did no harm there still has to leave room for some.
        worst = (practice.errors(exit).error - usual).max(axis=0)
        tried = Tried(
            [*tried.exits, exit],
            tried.full,
            [*tried.early, trial.errors(exit)],
            [*tried.largest, HEADROOM * np.maximum(worst, config.excess * usual.mean(axis=0))],
        )
        progress.advance(len(tried.early), len(exits))
        if chosen_among(config, tried).chosen != len(tried.early) - 1:
            break
    return tried


def read_calibration(run: Path) -> Calibration | None:
    """What RUN/calibration.json holds; None if there is none.

    Raises:
        UserError: the file is no calibration.
    """
    path = Path(run) / FILE
    if not path.is_file():
        return None
    try:
        return TypeAdapter(Calibration).validate_python(json.loads(path.read_text()))
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        again = shlex.join(["loopwm", "calibrate", str(run), "--overwrite"])
        raise UserError(f"{path} is not a calibration; make one with: {again}") from error


@dataclass(frozen=True)
class Tried:
    """Errors of exits, from careful to cheap, on the calibration episodes.

    Attributes:
        full: at full depth. early: of each exit.
        largest: of each exit (2,), per measure, how much extra error an episode counts with at most.
    """

    exits: list[ExitConfig]
    full: EpisodeErrors
    early: list[EpisodeErrors]
    largest: list[npt.NDArray[np.float64]]

    def compared(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Errors (E, 2) at full depth, what every exit adds (E, C, 2), and the most that counts (C, 2)."""
        early = np.stack([one.error for one in self.early], axis=1)
        return self.full.error, early - self.full.error[:, None], np.stack(self.largest)


@dataclass(frozen=True)
class Recording:
    """A recording's columns, its episodes by split, and what every episode is recognised by."""

    columns: Columns
    episodes: dict[str, npt.NDArray[np.int64]]
    fingerprints: tuple[bytes, ...]


def read_recording(path: Path, run: Path, model: WorldModel) -> tuple[Recording, str]:
    """A recording of the world that `model` knows, and its digest."""
    with Store.open(path) as store:
        meta = store.meta
        if (model.observation, model.action) != (meta.observation, meta.action):
            raise UserError(f"{run} was trained on another world than '{meta.world}'; give a recording of its own.")
        if model.observation.kind == "image":
            raise UserError(
                f"{run} sees images, and calibration is for rollouts that begin at a single observation, which an "
                "image does not allow: it hides speeds; take a threshold from the frontier of loopwm evaluate instead."
            )
        splits = {name: store.split(name) for name in ("train", "validation", "test")}
        return Recording(open_memmap(store), splits, store.fingerprints), store.digest


def recording(run: Path, path: Path, digest: str, model: WorldModel) -> tuple[Recording, str]:
    """The recording a run was trained on."""
    found, actual = read_recording(path, run, model)
    if actual != digest:
        raise UserError(
            f"{path} is not the recording that {run} was trained on (digest {actual[:12]} against {digest[:12]}); "
            "calibration needs it to keep training episodes out: put it back."
        )
    return found, actual


def fresh(
    run: Path, path: Path, training: Recording, model: WorldModel
) -> tuple[Recording, npt.NDArray[np.int64], str]:
    """A recording made for calibration: all its episodes, none of them a training episode of the run."""
    found, digest = read_recording(path, run, model)
    seen = {training.fingerprints[index] for index in training.episodes["train"]}
    again = sum(mark in seen for mark in found.fingerprints)
    if again:
        raise UserError(
            f"{again} of the {len(found.fingerprints)} episodes in {path} are ones that {run} was trained on; a "
            "threshold that is calibrated on them promises nothing: record others, with another seed."
        )
    return found, np.arange(len(found.fingerprints)), digest


def candidates(
    model: WorldModel, columns: Columns, episodes: npt.NDArray[np.integer], config: CalibrateConfig
) -> list[ExitConfig]:
    """Thresholds that spend evenly spaced numbers of loops, from nearly all to nearly none, on training episodes."""
    segments = tile(columns, episodes, 1, transitions=4000, seed=config.seed)
    mu = model.default_loops
    record = record_loops(model, segments, mu)
    grid = thresholds(record.signals[config.rule][: mu - 1], FINE)
    if not grid:
        raise UserError(f"exit.rule '{config.rule}' never lets a transition leave within {mu} loops; choose another.")
    spent = np.array([record.loops(config.rule, value, mu).mean() for value in grid])
    wanted = np.linspace(spent.max(), spent.min(), config.candidates + 1)[:-1]
    return [ExitConfig(config.rule, grid[i]) for i in sorted({int(np.abs(spent - loops).argmin()) for loops in wanted})]


def chosen_among(config: CalibrateConfig, tried: Tried) -> Choice:
    """`choose` among what was tried."""
    # Episodes are counted in random order: a file may have been recorded in parts.
    order = np.random.default_rng(config.seed).permutation(len(tried.full.error))
    full, harm, largest = tried.compared()
    return choose(full[order], harm[order], largest, config.excess, config.confidence, METHODS[config.method])


def judged(config: CalibrateConfig, tried: Tried) -> Calibration:
    """Choose among the exits.

    Raises:
        UserError: the episodes support the claim for none of them.
    """
    exits, full, early = tried.exits, tried.full, tried.early
    n = len(full.error)
    choice = chosen_among(config, tried)
    bootstrap = Bootstrap(np.arange(n), seed=config.seed)
    table = []
    for index, (exit, one) in enumerate(zip(exits, early, strict=True)):
        ratios = [bootstrap.ratio(one.error[:, m], full.error[:, m]).shifted(-1) for m in range(len(MEASURES))]
        accepted = choice.chosen is not None and index <= choice.chosen
        table.append(
            Candidate(exit.threshold, one.loops, dict(zip(MEASURES, ratios, strict=True)), choice.p[index], accepted)
        )
    if choice.chosen is None:
        raise UserError(refusal(config, full.error.mean(0), tried.largest[0], n, table[0]))
    return Calibration(
        exit=exits[choice.chosen],
        loops_share=early[choice.chosen].loops / full.loops,
        excess=config.excess,
        confidence=config.confidence,
        method=config.method,
        horizon=config.horizon,
        episodes=n,
        largest=dict(zip(MEASURES, tried.largest[choice.chosen].tolist(), strict=True)),
        full=dict(zip(MEASURES, full.error.mean(0).tolist(), strict=True)),
        candidates=tuple(table),
        data_digest="",
        weights="",
    )


def refusal(
    config: CalibrateConfig, error: npt.NDArray[np.float64], largest: npt.NDArray[np.float64], n: int, best: Candidate
) -> str:
    """Why nothing is promised, and what would help."""
    sentence = (
        f"The {n} episodes do not support an excess below {config.excess:.2%} with confidence {config.confidence:g}: "
        f"even the most careful threshold ({best.threshold:g}, p = {best.p:.3g}) is not accepted; "
    )
    if config.method == "betting":
        needed = max(
            fewest_episodes(e, top, config.excess, config.confidence) for e, top in zip(error, largest, strict=True)
        )
        if needed > n:
            return sentence + (
                f"at least {needed} episodes are needed for that, more with an exit that costs anything: record some "
                "with another seed and give them with --data, tolerate more, or take --method normal."
            )
    return sentence + "tolerate more, ask for less confidence, or give more episodes with --data."


def entry(result: Calibration) -> dict[str, Any]:
    """What a checkpoint keeps of a calibration."""
    names = ("exit", "loops_share", "excess", "confidence", "method", "horizon", "episodes", "data_digest", "weights")
    return {"claim": result.claim} | {name: value for name, value in asdict(result).items() if name in names}


def described(result: Calibration) -> dict[str, Any]:
    """A calibration as plain values."""
    return {"claim": result.claim, **asdict(result), "versions": versions()}
