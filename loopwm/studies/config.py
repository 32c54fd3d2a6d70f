"""What can be chosen about a study. Importing this needs no torch, so that the command line starts fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from loopwm.certify.config import AdversaryConfig
from loopwm.errors import UserError
from loopwm.evaluate.config import LyapunovConfig
from loopwm.model.config import SYSTEMS, ExitRule, System
from loopwm.studies.repeat import command_of


@dataclass(frozen=True)
class DeferredStudyConfig:
    """The ablation of deferred decoding: what is repeated, and how often."""

    preset: str = "deferred"
    """Starting point of every run: data, model, windows, curriculum, updates, weights of the terms."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of weights, windows and depths; the recording is the same."""
    recording_seed: int = 1
    """Of the recording. Settings were chosen on other recordings."""
    horizons: tuple[int, ...] = (1, 2, 5, 10, 20, 40)
    """K at which the end of an imagined future is compared with what happened."""
    rollouts: int = 1200
    """At most so many imagined futures, from every 20th step of the test episodes."""
    rounds: int = 20
    """Turns that each way of decoding gets when time is measured."""
    folder: Path = Path("runs/study-deferred")
    """Where the recording and the runs go."""
    out: Path = Path("runs/study-deferred/deferred.json")
    """The result."""

    @property
    def command(self) -> str:
        """What to type to get this result."""
        return command_of("deferred", self)

    def __post_init__(self) -> None:
        if not self.seeds:
            raise UserError("A study needs at least one seed; give --seeds.")
        if self.recording_seed < 0:
            raise UserError(f"recording_seed must not be negative, got {self.recording_seed}.")
        if not self.horizons or min(self.horizons) < 1:
            raise UserError(f"horizons count steps from 1, got {self.horizons}.")
        if min(self.rollouts, self.rounds) < 1:
            raise UserError(f"rollouts and rounds must be at least 1, got {self.rollouts} and {self.rounds}.")


@dataclass(frozen=True)
class StudyConfig:
    """What is repeated, and how often."""

    preset: str = "billiards"
    """Starting point of every run."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of weights, windows and depths; the recording is the same."""
    recording_seed: int = 1
    """Of the recording. Presets were chosen on the recording of seed 0; this is one that nobody has tuned on."""
    long_updates: int = 5000
    """Updates of the long training; 0 leaves it out."""
    long_seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the long training."""
    stability_steps: int = 10_000
    """Imagined steps over which every number must stay finite."""
    folder: Path = Path("runs/study")
    """Where the recording and the runs go."""
    out: Path = Path("runs/study/billiards.json")
    """The result; `results/billiards.json` of this repository is a copy of it."""

    @property
    def command(self) -> str:
        """What to type to get this result."""
        return command_of("billiards", self)

    def __post_init__(self) -> None:
        if not self.seeds or (self.long_updates and not self.long_seeds):
            raise UserError("A study needs at least one seed; give --seeds and --long-seeds.")
        if self.recording_seed < 0:
            raise UserError(f"recording_seed must not be negative, got {self.recording_seed}.")


@dataclass(frozen=True)
class AdaptiveStudyConfig:
    """What leaving the loop early saves: what is measured, and on how much."""

    preset: str = "billiards"
    """Starting point of every run."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of weights, windows and depths; the recording is the same."""
    recording_seed: int = 1
    """Of the recording that the runs are trained and tested on."""
    calibration_seed: int = 2
    """Of the recording that exits are calibrated on."""
    calibration_episodes: int = 2000
    """Its episodes."""
    excess: float = 0.01
    """Tolerated excess over T = mu."""
    confidence: float = 0.95
    """Of the calibrated claim."""
    horizon: int = 10
    """Steps of own rollouts."""
    settle: tuple[float, ...] = (0.0, 3.0, 6.0)
    """Exponents of the shrinking steps beyond mu that are compared with the model's own at 8 mu."""
    resamplings: int = 200
    """Repeated calibrations behind the coverage."""
    rounds: int = 15
    """Turns of each when time is measured."""
    rules: tuple[ExitRule, ...] = ("output_delta", "gate")
    """Exit rules to calibrate; figures are those of the one that then spends fewest loops."""
    gate_updates: int = 400
    """Updates of the learned gate."""
    runs: Path = Path("runs/study")
    """Folder of `loopwm study billiards`: its looped runs are used, and trained if they are not there."""
    folder: Path = Path("runs/study-adaptive")
    """Where the copies of the runs and the calibration recording go."""
    out: Path = Path("runs/study-adaptive/adaptive-depth.json")
    """The result; `results/adaptive-depth.json` of this repository is a copy of it."""

    @property
    def base(self) -> StudyConfig:
        """The study whose runs are used."""
        return StudyConfig(
            preset=self.preset, seeds=self.seeds, recording_seed=self.recording_seed, long_updates=0, folder=self.runs
        )

    @property
    def command(self) -> str:
        """What to type to get this result."""
        return command_of("adaptive", self)

    def __post_init__(self) -> None:
        if not self.seeds or not self.settle or not self.rules:
            raise UserError(
                "A study needs at least one seed, one rule and one exponent; give --seeds, --rules and --settle."
            )
        if self.calibration_seed == self.recording_seed:
            raise UserError("calibration_seed must differ from recording_seed: those episodes were trained on.")
        counts = (self.calibration_episodes, self.horizon, self.resamplings, self.rounds, self.gate_updates)
        if min(counts) < 1:
            raise UserError("calibration_episodes, horizon, resamplings, rounds and gate_updates must be at least 1.")


@dataclass(frozen=True)
class StabilityStudyConfig:
    """Certified loops beside ordinary ones, and imagination over thousands of steps."""

    preset: str = "billiards"
    """Starting point of every run; the certified ones take another loop and nothing else."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of weights, windows and depths; the recording is the same."""
    recording_seed: int = 1
    """Of the recording that the runs are trained and tested on."""
    imagined_steps: int = 10_000
    """Steps of the long imagination."""
    starts: int = 256
    """Futures imagined over all these steps."""
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    """How hard certified rates are tried to be broken."""
    lyapunov: LyapunovConfig = field(default_factory=LyapunovConfig)
    """How exponents are measured."""
    runs: Path = Path("runs/study")
    """Folder of `loopwm study billiards`: its looped runs are used, and trained if they are not there."""
    folder: Path = Path("runs/study-stability")
    """Where the certified runs go."""
    out: Path = Path("runs/study-stability/stability.json")
    """The result."""

    @property
    def base(self) -> StudyConfig:
        """The study whose runs are used."""
        return StudyConfig(
            preset=self.preset, seeds=self.seeds, recording_seed=self.recording_seed, long_updates=0, folder=self.runs
        )

    @property
    def command(self) -> str:
        """What to type to get this result."""
        return command_of("stability", self)

    def __post_init__(self) -> None:
        if not self.seeds:
            raise UserError("A study needs at least one seed; give --seeds.")
        if min(self.imagined_steps, self.starts) < 1:
            raise UserError(
                f"imagined_steps and starts must be at least 1, got {self.imagined_steps} and {self.starts}."
            )


@dataclass(frozen=True)
class WorldStudyConfig:
    """One world, recorded, learned by three systems, and measured by the same yardsticks as every other."""

    world: Positional[str] = "gym:Acrobot-v1"
    """As of `loopwm collect`."""
    preset: str = "worlds"
    """Starting point of every run."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of weights, windows and depths; the recording is the same."""
    steps: int = 60_000
    """Transitions to record, at least."""
    max_steps: int = 0
    """Transitions after which an episode is cut short; 0 takes the world's own limit."""
    hold: int = 1
    """Steps that each random action is kept for."""
    updates: int = 500
    """Of every run."""
    rate_updates: int = 100
    """Of the short runs that the learning rates are picked by."""
    batch: int = 64
    """Windows per update; fewer where an observation has many tokens."""
    window: int = 0
    """Transitions per window; 0 takes the preset's."""
    curriculum: int = 0
    """Updates until windows get one transition longer, from 1 up to `window`; the shorter they are, the more an update
    has, so that all see as many transitions. 0 starts with whole windows."""
    transitions: int = 5000
    """Test transitions that are predicted one step ahead, at most; rollouts are a tenth as many. Fewer where an
    observation has many tokens, as they take longer."""
    rounds: int = 10
    """Turns of each system when training speed is measured."""
    recording_seed: int = 1
    """Of the recording."""
    folder: Path = Path("runs/study-worlds")
    """Where recordings and runs go, a folder for each world."""
    out: Path | None = None
    """The result; WORLD.json in `folder` when left out."""

    @property
    def name(self) -> str:
        """The world's name without what a file name may not hold."""
        return self.world.replace(":", "-").replace("/", "-")

    @property
    def home(self) -> Path:
        """Folder of this world's recording and runs."""
        return self.folder / self.name

    @property
    def result(self) -> Path:
        """The file to write."""
        return self.out or self.folder / f"{self.name}.json"

    @property
    def command(self) -> str:
        """What to type to get this result."""
        return command_of("world", self, out=self.result)

    def __post_init__(self) -> None:
        if not self.seeds:
            raise UserError("A study needs at least one seed; give --seeds.")
        for option in ("steps", "hold", "updates", "rate_updates", "batch", "transitions", "rounds"):
            if getattr(self, option) < 1:
                raise UserError(f"{option} must be at least 1, got {getattr(self, option)}.")
        for option in ("max_steps", "window", "curriculum"):
            if getattr(self, option) < 0:
                raise UserError(f"{option} must not be negative, got {getattr(self, option)}.")


@dataclass(frozen=True)
class TextStudyConfig:
    """A text world, learned by up to three systems and measured beside rules, on every track."""

    world: Positional[Literal["scienceworld", "alfworld"]] = "scienceworld"
    """Decides how answers are compared and averaged."""
    data: Path = Path("data/scienceworld.parquet")
    """The recording that is learned from, training and held-out episodes together."""
    further: tuple[Path, ...] = ()
    """Recordings of held-out episodes that `data` lacks."""
    preset: str = "text"
    """Starting point of every run."""
    start: Path | None = None
    """Weights that the one system goes on from: of a run, a checkpoint file, or a model that comes with loopwm."""
    systems: tuple[System, ...] = SYSTEMS
    """What is trained."""
    seeds: tuple[int, ...] = (0,)
    """Of weights, windows and depths."""
    updates: int = 3000
    """Of every run."""
    batch: int = 12
    """Windows per update."""
    window: int = 16
    """Transitions per window."""
    threads: int = 1
    """Of every run that is trained. More make a lone one faster, and another one in the last digits."""
    precision: Literal["native", "float32", "bfloat16"] | None = None
    """Of the matrix products, the preset's when left out; `native` is bfloat16 where the hardware multiplies it, which
    is not faster everywhere."""
    initial: float = 0.4
    """Share of the windows that are told the complete initial state, where it is recorded, and the past since."""
    spell: float = 0.3
    """Share of the names that a window spells out letter by letter."""
    rename: float = 0.0
    """Share of the names in the actions of a window which it calls by other such names."""
    balance: float = 0.5
    """How evenly task types are drawn, from 0, by how much there is of them, to 1, equally often."""
    changes: float = 0.0
    """Share of the windows that hold an action which is answered otherwise than before."""
    numbers: bool = True
    """Digits that are read come with the value of their number."""
    trust: bool = False
    """A head that copies does so the more, the further what it has written agrees with something that was seen."""
    touched: bool = False
    """A head that copies may pass over what an action has named since it was seen."""
    expect: bool = False
    """A head that copies is told what would come next if what it has written were gone on with as it was seen."""
    head: Literal["copy", "bottleneck"] = "copy"
    """What a decoder reads: the latent alone (`bottleneck`), or also what was seen, which it may repeat (`copy`)."""
    split: Literal["validation", "test"] = "validation"
    """Episodes asked about: `test` once, when nothing is changed any more."""
    per_type: int = 200
    """Windows of every task type and track."""
    beam: int = 4
    """Texts kept while a model writes: where contents cannot be known, the likeliest text is not the one that begins
    with the likeliest word."""
    decode: bool = False
    """Every predicted observation is read as if it had happened, instead of going on in the latent."""
    looping_per_type: int = 40
    """Windows of every task type on which looping is measured, with greedy decoding."""
    beside: Path | None = None
    """A result of this study, whose systems are compared with those that are trained now: neither trained nor asked
    again. All that is said about training and asking must be the same; only threads may differ."""
    folder: Path = Path("runs/study-text")
    """Where the runs go, a folder for each world."""
    out: Path | None = None
    """The result; WORLD.json in `folder` when left out, or WORLD-bottleneck.json."""

    @property
    def home(self) -> Path:
        """Folder of this world's runs with this head."""
        return self.folder / f"{self.world}{self._kind}"

    @property
    def _kind(self) -> str:
        return "" if self.head == "copy" else f"-{self.head}"

    @property
    def result(self) -> Path:
        """The file to write."""
        return self.out or self.folder / f"{self.world}{self._kind}.json"

    @property
    def command(self) -> str:
        """What to type to get this result."""
        return command_of("text", self, out=self.result)

    def __post_init__(self) -> None:
        if not self.seeds or not self.systems:
            raise UserError("A study needs at least one seed and one system; give --seeds and --systems.")
        if "looped" not in self.systems and self.beside is None:
            raise UserError(
                "A study compares stacks with the looped system; name it among --systems, or give a result with it by "
                "--beside."
            )
        for option in ("updates", "batch", "window", "threads", "per_type", "beam", "looping_per_type"):
            if getattr(self, option) < 1:
                raise UserError(f"{option} must be at least 1, got {getattr(self, option)}.")


@dataclass(frozen=True)
class CapacityStudyConfig:
    """One shared block for several worlds against one model for each of them."""

    worlds: tuple[str, ...] = ("billiards", "three-bodies", "soft-cube", "fluid", "cloth")
    """As of `loopwm collect`; entities or vectors, continuous actions."""
    preset: str = "worlds"
    """Starting point of every run."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of weights, windows and depths; the recordings are the same."""
    recorded: int = 60_000
    """Transitions recorded of each world, at least; what `loopwm study world` recorded there is used."""
    steps: int = 20_000
    """Transitions of each world that go into the mixture."""
    updates: int = 500
    """Of every run."""
    rate_updates: int = 100
    """Of the short runs that the learning rates are picked by."""
    windows: int = 8
    """Windows of each world per update: the shared model sees this many of each at a time, on average."""
    horizon: int = 10
    """Steps imagined for the open-loop error."""
    transitions: int = 4000
    """Test transitions of each world, at most."""
    recording_seed: int = 1
    """Of the recordings."""
    recordings: Path = Path("runs/study-worlds")
    """Folder of `loopwm study world`, whose recordings are used, and made if they are not there."""
    folder: Path = Path("runs/study-capacity")
    """Where mixture and runs go."""
    out: Path = Path("runs/study-capacity/capacity.json")
    """The result."""

    @property
    def command(self) -> str:
        """What to type to get this result."""
        return command_of("capacity", self)

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.worlds)) < 2:
            raise UserError("This study needs at least one seed and two worlds; give --seeds and --worlds.")
        for option in ("recorded", "steps", "updates", "rate_updates", "windows", "horizon", "transitions"):
            if getattr(self, option) < 1:
                raise UserError(f"{option} must be at least 1, got {getattr(self, option)}.")
        if self.steps > self.recorded:
            raise UserError(f"steps ({self.steps}) cannot exceed what is recorded ({self.recorded}).")


@dataclass(frozen=True)
class GatherConfig:
    """Results of several studies in one file."""

    parts: Positional[tuple[Path, ...]]
    """Result files of studies."""
    out: Path = Path("runs/adaptive-depth.json")
    """The file to write; `results/adaptive-depth.json` of this repository is one."""

    @property
    def command(self) -> str:
        """What to type to get this file."""
        return command_of("gather", self)
