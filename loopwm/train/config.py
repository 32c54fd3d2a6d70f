"""What can be chosen about training. Importing this needs no torch, so that the command line starts fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from loopwm.errors import UserError
from loopwm.model.config import ExitConfig


def require(ok: bool, sentence: str) -> None:
    """Raise UserError(sentence) unless `ok`."""
    if not ok:
        raise UserError(sentence)


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its schedule."""

    kind: Literal["adamw", "muon"] = "adamw"
    """`adamw`, or `muon` for linear maps, whose updates it makes orthogonal, and AdamW for the rest."""
    lr: float = 1.6e-2
    """Learning rate between warm-up and cooldown. High, because a few hundred thousand parameters get few updates."""
    slow: float = 0.05
    """Learning rate of B, a and Delta over that of the rest. At the full rate B outgrows the branches of the shared
    block within a few hundred updates, and the loop is then hardly more than its prelude seen through B."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's averaging coefficients; the second of them means nothing to Muon, whose momentum is 0.95."""
    weight_decay: float = 0.05
    """On matrices only; never on a, Delta, B, norms, biases or gains."""
    warmup: int = 100
    """Updates of linear warm-up."""
    cooldown: float = 0.5
    """Share of the updates, at the end, over which the rate falls linearly to zero."""
    clip: float = 1.0
    """Largest gradient norm."""
    ema: float = 0.995
    """Averaging of the weights used for evaluation."""

    def __post_init__(self) -> None:
        require(self.kind in ("adamw", "muon"), f"optim.kind must be adamw or muon, got '{self.kind}'.")
        require(self.lr > 0, f"optim.lr must be positive, got {self.lr}.")
        require(0 < self.slow <= 1, f"optim.slow is a share in (0, 1], got {self.slow}.")
        require(all(0 <= beta < 1 for beta in self.betas), f"optim.betas must lie in [0, 1), got {self.betas}.")
        require(self.weight_decay >= 0, f"optim.weight_decay must not be negative, got {self.weight_decay}.")
        require(self.warmup >= 0, f"optim.warmup must not be negative, got {self.warmup}.")
        require(0 <= self.cooldown <= 1, f"optim.cooldown is a share in [0, 1], got {self.cooldown}.")
        require(self.clip > 0, f"optim.clip must be positive, got {self.clip}.")
        require(0 <= self.ema < 1, f"optim.ema must lie in [0, 1), got {self.ema}.")


@dataclass(frozen=True)
class DeferredConfig:
    """Eq. 20-21: what is asked of the latents on the way to the only one that is decoded."""

    alpha: float = 3.0
    """Weight of the consistency of g_w(h_k) with the embedding of what was really seen; 0 leaves it out."""
    beta: float = 0.1
    """Weight of the contraction budget; 0 leaves it out."""
    cmax: float = 0.1
    """Cmax, how far the latent may move per step, |h_{k+1} - h_k| / sqrt(N D), on average over a window; the log has
    `drift` to compare it with."""

    def __post_init__(self) -> None:
        require(min(self.alpha, self.beta) >= 0, "loss.deferred.alpha and loss.deferred.beta must not be negative.")
        require(self.cmax > 0, f"loss.deferred.cmax must be positive, got {self.cmax}: a world that moves needs some.")


@dataclass(frozen=True)
class EmbedConfig:
    """What is asked of embeddings where latents are held to them and no decoder (loopwm/train/embedding.py)."""

    gaussian: float = 10.0
    """Weight of SIGReg, which keeps embeddings distributed as N(0, I); without it they would collapse."""
    slices: int = 256
    """Directions, drawn anew for every update, along which the distribution is compared."""
    knots: int = 17
    """Frequencies at which it is compared, from -5 to 5."""

    def __post_init__(self) -> None:
        require(self.gaussian >= 0, f"loss.embed.gaussian must not be negative, got {self.gaussian}.")
        require(self.slices >= 1, f"loss.embed.slices must be at least 1, got {self.slices}.")
        require(
            self.knots >= 5 and self.knots % 2 == 1, f"loss.embed.knots must be odd and at least 5, got {self.knots}."
        )


Decoding = Literal["each", "deferred"]


@dataclass(frozen=True)
class LossConfig:
    """Eq. 10: observation + reward + continue, over windows that are partly seen and partly imagined."""

    reward: float = 0.1
    """lambda_r, weight of the squared reward error (reward in units of its standard deviation)."""
    continues: float = 1.0
    """lambda_c, weight of the cross-entropy of the continue flag."""
    observed: float = 0.5
    """Share of the windows in which every observation is shown; the others go blind after a random step."""
    imagined: bool = False
    """Show o_0 of every window and no more, whatever `observed` says."""
    decoding: Decoding = "each"
    """Decode `each` step of a window, or imagine it from o_0 and decode its end only (`deferred`, Eq. 16-22)."""
    deferred: DeferredConfig = field(default_factory=DeferredConfig)
    """Of deferred decoding."""
    shown: int = 1
    """Observations that a window shows at least, from its start, before it may go blind. Several where one hides what
    matters, as an image hides speeds."""
    objective: Literal["decode", "embed"] = "decode"
    """Hold latents to the observations they `decode` to, or to the embedding of what comes next (`embed`); a decoder
    then learns beside them, as a probe."""
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    """Of the objective `embed`."""

    def __post_init__(self) -> None:
        require(
            self.objective in ("decode", "embed"),
            f"loss.objective must be decode or embed, got '{self.objective}'.",
        )
        require(
            self.objective == "decode" or self.decoding == "each",
            "loss.objective 'embed' decodes nothing, so loss.decoding must stay 'each'; loss.imagined imagines whole "
            "windows from their start.",
        )
        require(self.shown >= 1, f"loss.shown must be at least 1, got {self.shown}.")
        require(
            self.decoding in ("each", "deferred"), f"loss.decoding must be each or deferred, got '{self.decoding}'."
        )
        require(min(self.reward, self.continues) >= 0, "loss.reward and loss.continues must not be negative.")
        require(0 <= self.observed <= 1, f"loss.observed is a share in [0, 1], got {self.observed}.")

    @property
    def trains_summary(self) -> bool:
        """Whether g_w learns anything."""
        return self.objective == "embed" or (self.decoding == "deferred" and self.deferred.alpha > 0)


@dataclass(frozen=True)
class HaltConfig:
    """A gate trained together with the core (loopwm/train/halting.py). `loopwm train-gate` needs none of it."""

    mode: Literal["off", "ponder", "act", "eq11"] = "off"
    """`ponder`: errors of all loops, weighted by the gate's law of halting (PonderNet, Ouro's first stage); `act`: the
    weighted read-out of Adaptive Computation Time, in training alone: in use the latent of the last loop is read, as of
    every other model; `eq11`: the report's entropy bonus, which no error ever reaches."""
    weight: float = 0.01
    """Of the divergence from the prior (`ponder`, beta), of a loop (`act`, tau), or of the entropy (`eq11`, alpha)."""
    prior: float = 0.2
    """`ponder`: the prior halts with this probability at every loop; 0 makes all loops equally likely, as in Ouro."""

    def __post_init__(self) -> None:
        modes = ("off", "ponder", "act", "eq11")
        require(self.mode in modes, f"halt.mode must be one of {', '.join(modes)}, got '{self.mode}'.")
        require(self.weight >= 0, f"halt.weight must not be negative, got {self.weight}.")
        require(0 <= self.prior < 1, f"halt.prior is a probability in [0, 1), got {self.prior}.")


@dataclass(frozen=True)
class GateTraining:
    """A gate trained afterwards, on a core that does not change."""

    target: Literal["distance", "gain", "ouro"] = "distance"
    """`gain`: how much error is still to be gained by going on to full depth; `distance`: the same, learned from how
    far the prediction will still move, which is less noisy; `ouro`: whether the next loop is worth it, after Ouro's
    second stage."""
    loops: int | None = None
    """T, full depth; mu of the run when left out."""
    updates: int = 400
    """Optimiser updates."""
    batch: int = 64
    """B, windows per update."""
    lr: float = 5e-3
    """Learning rate between warm-up and cooldown."""
    hidden: int = 32
    """Hidden units of the gate, per token."""
    sharpness: float = 50.0
    """`ouro`: k, how sharply an improvement is judged."""
    margin: float = 0.005
    """`ouro`: gamma, improvement that is worth a loop, in units of the mean loss."""
    seed: int = 0
    """Seeds the gate and its windows."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""

    def __post_init__(self) -> None:
        targets = ("distance", "gain", "ouro")
        require(self.target in targets, f"target must be one of {', '.join(targets)}, got '{self.target}'.")
        require(
            self.loops is None or self.loops >= 2, f"loops must be at least 2, got {self.loops}: one leaves no choice."
        )
        for name in ("updates", "batch", "hidden"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("lr", "sharpness"):
            require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}.")
        require(self.margin >= 0, f"margin must not be negative, got {self.margin}.")
        require(self.seed >= 0, f"seed must not be negative, got {self.seed}.")


@dataclass(frozen=True)
class TrainConfig:
    """How long, on what, how often something is written."""

    updates: int = 1500
    """Optimiser updates."""
    batch: int = 128
    """B, windows per update."""
    window: int = 4
    """K, transitions per window."""
    curriculum: int = 0
    """Delta, updates until windows get one transition longer, from 1 up to `window`; 0 starts with whole windows."""
    mixed_horizons: bool = False
    """Give every update windows of another length, drawn from 1 to what the curriculum allows. Where only the end of a
    window is decoded, ends at every distance are then learned; and an update costs about half."""
    refill: bool = False
    """Give updates of shorter windows more of them, so that every update sees `batch` x `window` transitions. More of
    the data is then seen early, for about the same time per update."""
    shift: int = 0
    """Move the images of each window by up to so many pixels, all alike (DrQ has 4), so that an encoder learns what
    things look like and not at which pixel they were recorded; 0 never does, and other observations cannot be moved."""
    initial: float = 0.0
    """Share of the windows of a text world that are told the complete initial state, where it is recorded, and what
    still stands of the past since. Between 0 and 1, a model learns to do with it and without."""
    spell: float = 0.0
    """Share of the names that a window of a text world spells out letter by letter, so that names that are not known
    can be read and written; names are the words that stand in few of the texts."""
    rename: float = 0.0
    """Share of the names in the actions of a window of a text world which that window calls by other such names, so
    that what is said of a thing is taken from what was read and done, and is not known of that name alone."""
    balance: float = 0.0
    """How evenly the task types of a text world are drawn: with 0, each as often as windows can be cut from it, so that
    types of short episodes are rare; with 1, all equally often."""
    changes: float = 0.0
    """Share of the windows of a text world that are drawn among those in which an action is answered otherwise than
    before. Such answers are few, and they are what the state of a world has to be known for."""
    seed: int = 0
    """Seeds the weights, the windows and the depths."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    precision: Literal["auto", "native", "float32", "bfloat16"] = "auto"
    """Of the matrix products; `native` is bfloat16 where the hardware multiplies it, which emulation would take many
    times as long for, else float32. `auto` also measures whether it is faster there."""
    compile: bool = True
    """Compile the block where a compiler is present; costs about a minute at the start, which Ctrl-C waits for."""
    log_every: int = 10
    """Updates between two lines of the log."""
    validate_every: int = 250
    """Updates between two looks at the validation episodes."""
    checkpoint_every: float = 60.0
    """Seconds between two checkpoints."""
    exit: ExitConfig = field(default_factory=ExitConfig)
    """Look at the validation episodes also with this exit rule, and log the loops it leaves."""
    max_skipped: int = 50
    """Give up after so many consecutive updates with a non-finite loss or gradient."""

    def __post_init__(self) -> None:
        for name in ("updates", "batch", "window", "log_every", "validate_every", "max_skipped"):
            require(getattr(self, name) >= 1, f"train.{name} must be at least 1, got {getattr(self, name)}.")
        require(0 <= self.initial <= 1, f"train.initial is a share in [0, 1], got {self.initial}.")
        require(0 <= self.spell <= 1, f"train.spell is a share in [0, 1], got {self.spell}.")
        require(0 <= self.rename <= 1, f"train.rename is a share in [0, 1], got {self.rename}.")
        require(0 <= self.changes <= 1, f"train.changes is a share in [0, 1], got {self.changes}.")
        require(0 <= self.balance <= 1, f"train.balance must be in [0, 1], got {self.balance}.")
        require(self.shift >= 0, f"train.shift must not be negative, got {self.shift}.")
        require(self.checkpoint_every > 0, f"train.checkpoint_every must be positive, got {self.checkpoint_every}.")
        require(self.curriculum >= 0, f"train.curriculum must not be negative, got {self.curriculum}.")
