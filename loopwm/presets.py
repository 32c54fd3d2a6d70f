"""Everything a run is made of, and the named starting points."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from pathlib import Path

from loopwm.errors import UserError
from loopwm.evaluate.config import EvaluateConfig, SpeedConfig
from loopwm.model.config import CERTIFIED_LOOP, LoopConfig, ModelConfig, TextConfig
from loopwm.train.config import HaltConfig, LossConfig, OptimConfig, TrainConfig


@dataclass(frozen=True)
class RunConfig:
    """One training run. Every field can be overridden on the command line: `--model.loop.mu 6`."""

    data: Path = Path("data/billiards.h5")
    """Recorded episodes."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Size, core and loop."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and schedule."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of the terms, and how much of a window is shown."""
    halt: HaltConfig = field(default_factory=HaltConfig)
    """A gate trained together with the core; off."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Length, batch, seed, device, precision."""
    start: Path | None = None
    """Go on from the averaged weights of this run, checkpoint file or model that comes with loopwm, instead of from new
    ones; the optimiser begins anew. Model, scales and vocabulary are those that it has."""

    def __post_init__(self) -> None:
        if self.optim.warmup > self.train.updates:
            raise UserError(
                f"optim.warmup ({self.optim.warmup}) is longer than the whole training (train.updates = "
                f"{self.train.updates}); lower it."
            )
        self._check_summary()
        self._check_halting()

    def _check_summary(self) -> None:
        if self.loss.trains_summary and not self.model.summary:
            raise UserError(
                "loss.objective 'embed' trains the summary head, and this model has none: set model.summary."
                if self.loss.objective == "embed"
                else "loss.decoding 'deferred' trains the summary head, and this model has none: start from the preset "
                "'deferred', set model.summary, or set loss.deferred.alpha to 0."
            )
        if self.model.summary and not self.loss.trains_summary:
            raise UserError(
                "model.summary builds a head that nothing here trains: it needs loss.decoding 'deferred' with "
                "loss.deferred.alpha above 0, or loss.objective 'embed'."
            )

    def _check_halting(self) -> None:
        mode = self.halt.mode
        if mode == "off":
            return
        if self.model.system != "looped":
            raise UserError(
                f"halt.mode '{mode}' needs model.system 'looped': a {self.model.system} has no loop to leave."
            )
        if self.model.loop.gradient != "all":
            raise UserError(
                f"halt.mode '{mode}' reads every loop, so it needs model.loop.gradient 'all', not "
                f"'{self.model.loop.gradient}'."
            )
        if self.loss.decoding != "each" or self.loss.imagined or self.loss.objective != "decode":
            raise UserError(
                f"halt.mode '{mode}' decodes every step of a partly observed window, so it needs loss.decoding 'each' "
                "without loss.imagined, and loss.objective 'decode'."
            )


@dataclass(frozen=True)
class Preset:
    """A named starting point.

    Attributes:
        intent: what it is for, one line.
        config: the run.
        episodes: how many episodes `demo` and `study` record for it.
        rates: learning rates that every system may choose from, on validation; a single one is taken as it is.
        rate_updates: length of the short runs behind that choice.
        evaluation: how much is evaluated.
        world: what they record; its episodes are what `episodes` counts.
    """

    intent: str
    config: RunConfig
    episodes: int
    rates: tuple[float, ...]
    rate_updates: int
    evaluation: EvaluateConfig
    world: str = "billiards"


# One precision for all systems: no comparison may depend on which one a busy machine happened to measure as faster.
_BILLIARDS = RunConfig(train=TrainConfig(precision="float32"))

_WORLDS = Preset(
    "the billiards model for any world, on longer windows: what `loopwm study world` starts from",
    # Trained on windows of 4, imagined locomotion was worse than a linear map from nine steps on; of 8, nowhere. An
    # imagined walker was worse than a linear map from eight steps on with AdamW; in one trial with Muon it was not.
    replace(
        _BILLIARDS,
        optim=OptimConfig(kind="muon", lr=1e-2, warmup=50),
        train=replace(_BILLIARDS.train, window=8, batch=64, updates=500),
    ),
    episodes=4000,
    rates=(5e-3, 1e-2, 2e-2),
    rate_updates=100,
    evaluation=EvaluateConfig(transitions=5000, horizon=20, rollouts=500, stability_steps=1000),
)

PRESETS: dict[str, Preset] = {
    "billiards": Preset(
        "the measured configuration: six discs, 0.11M parameters, 1500 updates, minutes on two CPU cores",
        _BILLIARDS,
        episodes=4000,
        rates=(8e-3, 1.6e-2, 2.4e-2),
        # As long as the real thing: the rate that is ahead early is not the rate that ends lowest.
        rate_updates=1500,
        evaluation=EvaluateConfig(transitions=20_000),
    ),
    "certified": Preset(
        "the billiards preset with a loop whose contraction follows from its weights",
        replace(_BILLIARDS, model=replace(_BILLIARDS.model, loop=CERTIFIED_LOOP)),
        episodes=4000,
        rates=(8e-3, 1.6e-2),
        rate_updates=300,
        evaluation=EvaluateConfig(transitions=20_000),
    ),
    "deferred": Preset(
        "the billiards model trained to be decoded at the end of an imagined future only",
        replace(
            _BILLIARDS,
            model=replace(_BILLIARDS.model, summary=True),
            loss=LossConfig(decoding="deferred"),
            train=replace(_BILLIARDS.train, window=10, curriculum=50, mixed_horizons=True),
        ),
        episodes=4000,
        rates=(8e-3, 1.6e-2),
        rate_updates=1500,
        evaluation=EvaluateConfig(transitions=20_000),
    ),
    "worlds": _WORLDS,
    "meshes": replace(
        _WORLDS,
        intent="the same for worlds of many entities, such as the points of a cloth: all of them together on 8 tokens",
        config=replace(_WORLDS.config, model=ModelConfig(entity_tokens="together")),
    ),
    "pixels": Preset(
        "billiards seen as images of 64 by 64: windows long enough to remember in, and random shifts",
        RunConfig(
            data=Path("data/billiards-pixels.h5"),
            model=ModelConfig(tokens=16, loop=LoopConfig(mu=4)),
            optim=OptimConfig(lr=4e-3),
            loss=LossConfig(shown=4),
            train=TrainConfig(batch=16, window=8, shift=4, precision="float32"),
        ),
        episodes=2000,
        rates=(4e-3,),
        rate_updates=300,
        evaluation=EvaluateConfig(),
        world="billiards-pixels",
    ),
    "text": Preset(
        "a text world: words in, words out, 6M parameters, hours on two CPU cores",
        RunConfig(
            data=Path("data/scienceworld.parquet"),
            model=ModelConfig(
                width=192, heads=6, tokens=16, loop=LoopConfig(mu=4, phases=4), text=TextConfig(numbers=True, heading=6)
            ),
            optim=OptimConfig(kind="muon", lr=2e-3),
            # Rewards are rare and then large: at the usual weight a single one would outweigh all words of a batch.
            loss=LossConfig(reward=0.01, continues=0.1, shown=4),
            train=TrainConfig(
                updates=6000,
                batch=12,
                window=16,
                initial=0.4,
                spell=0.3,
                balance=0.5,
                validate_every=250,
                precision="native",
            ),
        ),
        episodes=0,
        rates=(2e-3,),
        rate_updates=300,
        evaluation=EvaluateConfig(),
        world="scienceworld",
    ),
    "demo": Preset(
        "the same model, fewer updates, so that three systems and their report take less than ten minutes",
        replace(
            _BILLIARDS,
            optim=replace(_BILLIARDS.optim, warmup=30),
            train=replace(_BILLIARDS.train, updates=500, validate_every=100),
        ),
        episodes=2000,
        rates=(8e-3, 1.6e-2),
        rate_updates=100,
        evaluation=EvaluateConfig(),
    ),
    "debug": Preset(
        "everything tiny: does it run, in seconds; the numbers mean nothing",
        RunConfig(
            model=ModelConfig(width=16, heads=2, mlp_ratio=2, loop=LoopConfig(mu=2)),
            optim=OptimConfig(warmup=2),
            train=TrainConfig(
                updates=20, batch=8, window=3, log_every=5, validate_every=10, precision="float32", compile=False
            ),
        ),
        episodes=60,
        rates=(2e-3, 4e-3),
        rate_updates=5,
        evaluation=EvaluateConfig(
            transitions=200,
            rollouts=40,
            training_rollouts=100,
            stability_steps=100,
            resamples=100,
            speed=SpeedConfig(rounds=3, seconds=0.01),
        ),
    ),
}


def preset(name: str) -> Preset:
    """The named preset.

    Raises:
        UserError: no such preset; the nearest names are suggested.
    """
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name, PRESETS, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(PRESETS)}."
    raise UserError(f"There is no preset '{name}'; {hint}")
