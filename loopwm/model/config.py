"""Sizes and switches of a world model; bad combinations are refused with the reason."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field, replace
from typing import Literal

from loopwm.errors import UserError

System = Literal["looped", "stack-equal-params", "stack-equal-flops"]
SYSTEMS: tuple[System, ...] = ("looped", "stack-equal-params", "stack-equal-flops")
ImageEncoder = Literal["conv", "patch"]
IMAGE_ENCODERS: tuple[ImageEncoder, ...] = ("conv", "patch")
EntityTokens = Literal["each", "together"]
ENTITY_TOKENS: tuple[EntityTokens, ...] = ("each", "together")
CERTIFIED_ABAR = (0.05, 0.95)
"""Range of Abar in a certified core, so that the weighted norm of its theorem stays comparable with the 2-norm."""


@dataclass(frozen=True)
class LoopConfig:
    """The shared block and how often it runs."""

    mu: int = 7
    """Mean number of loops in training, and the default at run time."""
    retention: Literal["zoh", "euler"] = "euler"
    """How Eq. 5 is discretised: exact zero-order hold, or the report's form."""
    abar: float = 0.9
    """Share of the latent that survives one loop, at initialisation."""
    depth_law: Literal["poisson", "lognormal-poisson", "fixed"] = "poisson"
    """Law of the number of loops in training, drawn per sequence."""
    depth_spread: float = 0.7
    """Standard deviation of the log rate under `lognormal-poisson`."""
    depths: int = 0
    """Different numbers of loops in one batch, each drawn from the law and given to an equal part of the sequences; 0
    draws for every sequence alone."""
    gradient: Literal["all", "mu", "last"] = "all"
    """Back-propagate through all loops, through the last mu, or through the last max(4, ceil(mu / 2))."""
    phases: int = 8
    """Leading loops with gains and a shift of their own inside the shared block, 3D numbers a layer; later loops share
    the last's. 0 makes all loops the same."""
    settle: float = 3.0
    """In training, loop t > mu moves the latent by (mu / t)^settle of a whole step, so that however many loops are
    drawn, the latent stays near what the others have seen. 0 never shortens a step."""
    settle_eval: float = 4.0
    """The same outside training, where nothing has to be learned from the loops beyond mu."""
    normalise_input: bool = False
    """Whether e = P(...) is normalised, as Eq. 4 has it. That hides how large a thing was: speed, for example."""
    start: Literal["input", "zero", "previous"] = "input"
    """h^(0): the embedded input e, zeros, or the previous step's latent (a warm start)."""
    certified: bool = False
    """Use an update whose contraction follows from its weights (docs/certificate.md); needs `zoh`."""
    lipschitz: float = 0.9
    """L, most that G of a certified update may stretch the difference of two states."""

    def __post_init__(self) -> None:
        choices = (
            ("retention", ("zoh", "euler")),
            ("gradient", ("all", "mu", "last")),
            ("start", ("input", "zero", "previous")),
        )
        for name, known in choices:
            if getattr(self, name) not in known:
                raise UserError(f"model.loop.{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'.")
        if self.depth_law not in ("poisson", "lognormal-poisson", "fixed"):
            raise UserError(
                f"model.loop.depth_law must be poisson, lognormal-poisson or fixed, got '{self.depth_law}'."
            )
        if self.mu < 1:
            raise UserError(
                f"model.loop.mu must be at least 1, got {self.mu}: a loop that never runs predicts nothing."
            )
        if self.depths < 0:
            raise UserError(f"model.loop.depths must not be negative, got {self.depths}.")
        for name in ("settle", "settle_eval"):
            if getattr(self, name) < 0:
                raise UserError(f"model.loop.{name} must not be negative, got {getattr(self, name)}.")
        if self.phases < 0:
            raise UserError(f"model.loop.phases must not be negative, got {self.phases}.")
        if not 0.01 <= self.abar <= 0.99:
            raise UserError(f"model.loop.abar must lie in [0.01, 0.99], got {self.abar}.")
        if self.depth_spread <= 0:
            raise UserError(f"model.loop.depth_spread must be positive, got {self.depth_spread}.")
        if not 0 < self.lipschitz < 1:
            raise UserError(f"model.loop.lipschitz must lie in (0, 1), got {self.lipschitz}: at 1 nothing contracts.")
        if self.certified:
            self._check_certified()

    def _check_certified(self) -> None:
        if self.retention != "zoh":
            raise UserError(
                f"model.loop.certified needs model.loop.retention 'zoh', got '{self.retention}': only there is an "
                "update a mean of the old state and the new; the preset 'certified' has it."
            )
        low, high = CERTIFIED_ABAR
        if not low <= self.abar <= high:
            raise UserError(
                f"model.loop.certified keeps Abar in [{low}, {high}], so model.loop.abar cannot be {self.abar}."
            )
        for name in ("phases", "settle", "settle_eval"):
            if getattr(self, name):
                raise UserError(
                    f"model.loop.certified needs the same whole step in every loop: set model.loop.{name} to 0, or "
                    "start from the preset 'certified'."
                )

    @property
    def max_loops(self) -> int:
        """Most loops a training sequence can get: 4 mu."""
        return 4 * self.mu

    @property
    def gradient_loops(self) -> int:
        """Loops, counted from the last one, that gradients pass through."""
        if self.gradient == "all":
            return self.max_loops
        return self.mu if self.gradient == "mu" else max(4, math.ceil(self.mu / 2))


CERTIFIED_LOOP = LoopConfig(
    retention="zoh",
    abar=0.607,
    phases=0,
    settle=0.0,
    settle_eval=0.0,
    normalise_input=True,
    start="zero",
    certified=True,
)
"""The starting point of a certified loop."""


ExitRule = Literal["fixed", "residual", "acceleration", "output_delta", "gate", "certified"]
EXIT_RULES: tuple[ExitRule, ...] = ("fixed", "residual", "acceleration", "output_delta", "gate", "certified")


@dataclass(frozen=True)
class ExitConfig:
    """When a row may leave the loop before its maximum number of loops."""

    rule: ExitRule = "fixed"
    """`fixed` never leaves early; `residual` watches the latent's relative change, `acceleration` its second difference
    (two small ones in a row), `output_delta` the change of the decoded observation; `gate` asks a learned gate what
    going on would bring; `certified` bounds the distance of a certified core's latent from its fixed point."""
    threshold: float = 0.0
    """A row leaves after the loop in which its signal falls below this; nothing is below 0."""
    min_loops: int = 1
    """Loops that every row makes."""
    calibrated_loops: int = 0
    """Loops that rows were allowed when the threshold was calibrated; a lower maximum is refused. 0: not calibrated."""

    def __post_init__(self) -> None:
        if self.rule not in EXIT_RULES:
            raise UserError(f"exit.rule must be one of {', '.join(EXIT_RULES)}, got '{self.rule}'.")
        if not self.threshold >= 0:
            raise UserError(f"exit.threshold must not be negative, got {self.threshold}.")
        if self.rule == "fixed" and self.threshold:
            raise UserError(
                f"exit.threshold ({self.threshold}) means nothing to the rule 'fixed'; choose another exit.rule."
            )
        if self.min_loops < 1:
            raise UserError(f"exit.min_loops must be at least 1, got {self.min_loops}.")
        if self.calibrated_loops < 0:
            raise UserError(f"exit.calibrated_loops must not be negative, got {self.calibrated_loops}.")


@dataclass(frozen=True)
class TextConfig:
    """Encoders and decoder where observations and actions are texts."""

    encoder: int = 2
    """Layers in which the words of an observation read each other, before latent tokens read them."""
    decoder: int = 3
    """Layers in which a predicted observation is written, word by word."""
    head: Literal["copy", "bottleneck"] = "copy"
    """What a decoder reads: the latent alone (`bottleneck`), or also the words of the observations that were seen, and
    it may repeat one of them (`copy`)."""
    follow: int = 16
    """A head that copies prefers places before which stands what it has just written; so many words are compared, none
    with 0."""
    recency: bool = True
    """A head that copies may prefer what was read or done lately."""
    trust: bool = False
    """A head that copies may do so the more, the further what it has written agrees with something that was seen."""
    touched: bool = False
    """A head that copies may pass over what an action has named since it was seen: it was taken, opened or moved."""
    expect: bool = False
    """A head that copies is told what would come next if what it has written were gone on with as it was seen."""
    numbers: bool = False
    """Digits that are read come with the value of the number they are part of."""
    heading: int = 0
    """Parts of what is seen, such as the rooms of a complete initial state, are read each on its own, and a head that
    copies prefers parts that begin like what it writes; so many words are compared. With 0, an observation is read as
    one."""

    def __post_init__(self) -> None:
        if self.encoder < 0 or self.decoder < 1:
            raise UserError(
                f"model.text.encoder must not be negative and model.text.decoder be at least 1, got {self.encoder} and "
                f"{self.decoder}."
            )
        if self.head not in ("copy", "bottleneck"):
            raise UserError(f"model.text.head must be copy or bottleneck, got '{self.head}'.")
        for name in ("trust", "touched", "expect"):
            if getattr(self, name) and self.head != "copy":
                raise UserError(f"model.text.{name} is for model.text.head copy, got {self.head}; change either.")
        if self.follow < 0:
            raise UserError(f"model.text.follow must not be negative, got {self.follow}.")
        if self.trust and not self.follow:
            raise UserError("model.text.trust rests on words that agree; give model.text.follow a number of them.")
        if self.expect and not self.follow:
            raise UserError("model.text.expect goes on with words that agree; give model.text.follow a number of them.")
        if self.heading < 0:
            raise UserError(f"model.text.heading must not be negative, got {self.heading}.")


@dataclass(frozen=True)
class ModelConfig:
    """A world model: its size, its core and its loop."""

    system: System = "looped"
    """`looped`, or the ordinary stack with the looped model's parameters, or with its FLOPs at T = mu."""
    width: int = 64
    """D, width of every token."""
    heads: int = 4
    """H, attention heads."""
    mlp_ratio: int = 4
    """Hidden width of the MLP over D."""
    tokens: int = 8
    """N, latent tokens of a vector, an image or a text, and of entities taken together."""
    entity_tokens: EntityTokens = "each"
    """`each`: every entity has a token of its own, and their order does not matter. `together`: all numbers of all
    entities are spread over `tokens`, as those of a vector are; with many entities, such as the points of a mesh, an
    update then costs a small part, and every token sees all of them. Other observations are not concerned."""
    image_encoder: ImageEncoder = "conv"
    """How images become tokens, and tokens images: `conv`, strided convolutions, or `patch`, one linear map for all
    patches, which is faster and blurs more. Other observations are not concerned."""
    prelude: int = 1
    """Layers that build e from the carried latent, the observation and the action."""
    shared: int = 1
    """Layers in the shared block."""
    coda: int = 0
    """Layers after the loop. None costs no accuracy here, and makes looking at the output after every loop cheap."""
    summary: bool = False
    """Build g_w, which tells what a latent stands for without the decoder; deferred decoding trains it."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    text: TextConfig = field(default_factory=TextConfig)
    """Of text worlds; others are not concerned."""

    def __post_init__(self) -> None:
        for name in ("width", "heads", "mlp_ratio", "tokens", "prelude", "shared"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} must be at least 1, got {getattr(self, name)}.")
        if self.coda < 0:
            raise UserError(f"model.coda must not be negative, got {self.coda}.")
        if self.width % self.heads:
            raise UserError(f"model.width ({self.width}) must be a multiple of model.heads ({self.heads}).")
        if self.image_encoder not in IMAGE_ENCODERS:
            raise UserError(
                f"model.image_encoder must be one of {', '.join(IMAGE_ENCODERS)}, got '{self.image_encoder}'."
            )
        if self.entity_tokens not in ENTITY_TOKENS:
            raise UserError(
                f"model.entity_tokens must be one of {', '.join(ENTITY_TOKENS)}, got '{self.entity_tokens}'."
            )
        if self.system not in SYSTEMS:
            raise UserError(f"model.system must be one of {', '.join(SYSTEMS)}, got '{self.system}'.")

        if self.loop.certified and self.system != "looped":
            raise UserError(
                f"model.loop.certified needs model.system 'looped': a {self.system} has no loop to certify."
            )
        if self.loop.certified and self.width * self.mlp_ratio % 4:
            raise UserError(
                f"model.loop.certified sorts hidden units in pairs: model.width ({self.width}) times model.mlp_ratio "
                f"({self.mlp_ratio}) must be a multiple of 4."
            )

    @property
    def contractive_hidden(self) -> int:
        """Q, hidden width of a certified core's layer; the layer then has an ordinary layer's parameters."""
        return self.width * self.mlp_ratio // 2

    @property
    def hidden(self) -> int:
        """Hidden width of every MLP.

        Beside its shared layers a loop has B, a, Delta and the marks of its phases; the stack with equal parameters
        gets as many in wider MLPs.
        """
        plain = self.mlp_ratio * self.width
        if self.system != "stack-equal-params":
            return plain
        beside = self.width * (self.width + 2 + 3 * self.loop.phases * self.shared)
        return plain + round(beside / (2 * self.width * self.stack_depth))

    @property
    def stack_depth(self) -> int:
        """Layers of the ordinary stack that this configuration's loop is compared with."""
        shared = self.shared if self.system == "stack-equal-params" else self.shared * self.loop.mu
        return self.prelude + shared + self.coda


SIZES: dict[str, ModelConfig] = {
    "nano": ModelConfig(width=32, heads=2),
    "tiny": ModelConfig(width=64, heads=4),
    "small": ModelConfig(width=128, heads=4, tokens=16),
    "base": ModelConfig(width=256, heads=8, tokens=16, shared=2),
}


def sized(name: str, base: ModelConfig | None = None) -> ModelConfig:
    """`base` with layers, widths and tokens of the named size; what is no matter of size stays: its system, its loop,
    what it does with entities, images and texts, and whether it has a summary head.

    Raises:
        UserError: no such size; the nearest name is suggested.
    """
    if name not in SIZES:
        near = difflib.get_close_matches(name, SIZES, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(SIZES)}."
        raise UserError(f"There is no model size '{name}'; {hint}")
    base = base or ModelConfig()
    parts = ("system", "loop", "summary", "entity_tokens", "image_encoder", "text")
    return replace(SIZES[name], **{part: getattr(base, part) for part in parts})
