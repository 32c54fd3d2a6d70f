"""The world model as verbs: encode, step, decode, observe, imagine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from loopwm.data.statistics import Statistics
from loopwm.errors import UserError
from loopwm.model.accounting import FlopCount, count_parameters, layers_flops, linear_flops
from loopwm.model.certified import CertifiedCore
from loopwm.model.compiled import for_any_batch
from loopwm.model.config import ExitConfig, ModelConfig
from loopwm.model.core import LoopedCore
from loopwm.model.encoders import action_encoder, observation_encoder
from loopwm.model.exits import Exit, exit_for
from loopwm.model.gate import Gate
from loopwm.model.heads import Prediction, RewardHead, ScalarHead, SummaryHead, observation_head
from loopwm.model.text.head import TextHead
from loopwm.model.text.writing import write
from loopwm.model.trace import Trace
from loopwm.spaces import ActionSpec, ObservationSpec
from loopwm.variants.stack import StackCore

Policy = Callable[[Tensor, Tensor | None], Tensor]
"""(h (B, N, D), embedding of the current observation or None) -> actions (B, A)."""


def new_core(config: ModelConfig) -> LoopedCore | StackCore:
    """The dynamics that a configuration asks for."""
    if config.system != "looped":
        return StackCore(config)
    return CertifiedCore(config) if config.loop.certified else LoopedCore(config)


class WorldModel(nn.Module):
    """h_k = L(h_{k-1}, E(o_k), U(a_k)) and (o_{k+1}, r_k, c_k) = D(h_k).

    Observations and actions go in, and predictions come out, in environment units; the statistics of the training data
    travel with the weights. h_{-1} is zero. `step` and `decode` are separate: deferring the decoder is not calling it.

    Source: arXiv 2606.18208, Eq. 1-3.
    """

    core: LoopedCore | StackCore
    gate: Gate | None
    exit: ExitConfig | None
    observation_mean: Tensor
    observation_std: Tensor
    observation_changes: Tensor
    action_mean: Tensor
    action_std: Tensor

    def __init__(
        self, config: ModelConfig, observation: ObservationSpec, action: ActionSpec, statistics: Statistics
    ) -> None:
        super().__init__()
        self.config, self.observation, self.action = config, observation, action
        self.encoder = observation_encoder(config, observation)
        self.action_encoder = action_encoder(config, action, observation)
        self.core = new_core(config)
        self.observation_head = observation_head(config, observation)
        self.reward_head = RewardHead(config, statistics)
        self.continue_head = ScalarHead(config)
        # Last, so that with it or without it the other weights begin alike.
        self.summary_head = SummaryHead(config) if config.summary else None
        self.gate = None
        self.exit = None
        self._register_statistics(statistics)

    def _register_statistics(self, statistics: Statistics) -> None:
        for name in ("observation_mean", "observation_std", "action_mean", "action_std"):
            self.register_buffer(name, torch.as_tensor(getattr(statistics, name), dtype=torch.float32))
        self.register_buffer("observation_changes", torch.as_tensor(statistics.observation_changes))

    @property
    def reads_text(self) -> bool:
        """Whether observations and actions are words."""
        return self.observation.kind == "text"

    @property
    def tokens(self) -> int:
        """N, latent tokens."""
        return self.encoder.tokens

    @property
    def default_loops(self) -> int:
        """mu for the looped core, 1 for a stack."""
        return self.config.loop.mu if self.core.loopable else 1

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.observation_mean.device

    def normalise(self, observation: Tensor) -> Tensor:
        """Environment units -> zero mean and unit variance over the training data; same shape."""
        return (observation - self.observation_mean) / self.observation_std

    def initial(self, batch: int) -> Tensor:
        """h_{-1} = 0, (B, N, D)."""
        return self.observation_mean.new_zeros(batch, self.tokens, self.config.width)

    def encode(self, observation: Tensor) -> Tensor:
        """e = E(o): (..., *S) in environment units -> (..., N, D). Texts are words (..., L), padded with 0.

        Raises:
            UserError: the observation does not have the shape the model was trained on.
        """
        if self.reads_text:
            return self.encoder(observation)
        self._check_trailing(observation, self.observation.shape, "observation")
        return self.encoder(self.normalise(observation))

    def encode_action(self, action: Tensor) -> Tensor:
        """u = U(a): (B, A) in environment units -> (B, 1, D); an action in words -> (B, N, D).

        Raises:
            UserError: the action does not have the shape the model was trained on.
        """
        if self.reads_text:
            return self.action_encoder(action)
        self._check_trailing(action, (self.action.stored_size,), "action")
        return self.action_encoder((action - self.action_mean) / self.action_std)

    def step(
        self,
        h: Tensor,
        action: Tensor,
        embedding: Tensor | None = None,
        *,
        num_loops: int | Tensor | None = None,
        exit: ExitConfig | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """h_k from h_{k-1}, a_k and, unless imagining, e_k.

        Args:
            h: (B, N, D).
            action: (B, A) in environment units.
            embedding: (B, N, D) from `encode`, or None to imagine.
            num_loops: T, for all rows or (B,) per row; mu when left out.
            exit: lets a row stop before T; `num_loops` is then the most it may take.
            trace: collects loops used, residuals and norms.
        """
        return self.advance(h, self.encode_action(action), embedding, num_loops=num_loops, exit=exit, trace=trace)

    def advance(
        self,
        h: Tensor,
        u: Tensor,
        embedding: Tensor | None = None,
        *,
        num_loops: int | Tensor | None = None,
        exit: ExitConfig | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """As `step`, with u = U(a_k) from `encode_action`."""
        loops = self.default_loops if num_loops is None else num_loops
        if exit is not None and exit.calibrated_loops:
            self._check_calibrated(exit, loops)
        return self.core(h, embedding, u, loops, trace, self.exit_rule(exit))

    def _check_calibrated(self, exit: ExitConfig, loops: int | Tensor) -> None:
        allowed = int(torch.as_tensor(loops).min())
        if allowed < exit.calibrated_loops:
            raise UserError(
                f"This exit was calibrated with up to {exit.calibrated_loops} loops a step; num_loops = {allowed} cuts "
                "it short, and its guarantee would not hold: leave num_loops out, or the exit."
            )

    def exit_rule(self, config: ExitConfig | None) -> Exit | None:
        """The rule as the core applies it; None where every loop is made.

        Raises:
            UserError: this model cannot follow the rule, such as a stack, or `certified` without a certified core.
        """
        if config is None or config.rule == "fixed":
            return None
        if not self.core.loopable:
            raise UserError("A stack has no loop to leave early; leave the exit rule out.")
        contraction = self.core.contraction() if isinstance(self.core, CertifiedCore) else None
        return exit_for(config, self.read_state, contraction, self.gate)

    def read_state(self, h: Tensor) -> Tensor:
        """What a loop state h^(t) (B, N, D) would decode to: (B, ...) changing features, in standard deviations.

        Writing takes too long to be done after every loop; of a text, it is the latent that a writer would read.
        """
        assert isinstance(self.core, LoopedCore)
        if self.reads_text:
            return self.core.finish(h)
        return self.observation_head(self.core.finish(h))[..., self.observation_changes]

    def read_error(self, read: Tensor, observations: Tensor) -> Tensor:
        """Squared errors of what `read_state` gives (..., features) against observations (..., *S); of entities, those
        that are not there count nothing."""
        error = (read - self.normalise(observations)[..., self.observation_changes]).square()
        return error if self.observation.presence is None else error * self.observation.weights(observations)

    def judge(self, path: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """What the gate says after every loop, and what it saw decoded.

        Args:
            path, e: h^(0) .. h^(T) (T+1, B, N, D) and the loop's input (B, N, D), from `LoopedCore.path`.

        Returns:
            (T, B), and the predictions of `read_state`, flat: (T+1, B, outputs).
        """
        assert self.gate is not None
        # A coda knows one leading axis.
        outputs = self.read_state(path.flatten(0, 1)).flatten(1).unflatten(0, path.shape[:2])
        return self.gate.along(path, outputs, e), outputs

    def decode(self, h: Tensor) -> Prediction:
        """(o_{k+1}, r_k, c_k) from h_k (..., N, D), in environment units."""
        return Prediction(self.decode_observation(h), self.reward_head(h), self.continue_head(h))

    def decode_observation(self, h: Tensor) -> Tensor:
        """o_{k+1} alone, from h_k (..., N, D): (..., *S) in environment units.

        Of a text (..., L) the likeliest words, without looking back at what was seen; `loopwm.text.simulator` does.
        """
        if isinstance(self.observation_head, TextHead):
            return write(self.observation_head, h.flatten(0, -3)).tokens.unflatten(0, h.shape[:-2])
        return self.observation_head(h) * self.observation_std + self.observation_mean

    def summary(self, h: Tensor) -> Tensor:
        """g_w(h_k): (..., N, D) -> (..., N, D), an estimate of E(o_{k+1}) without the decoder; Eq. 20.

        `loopwm.model.readout.Readout` turns it into environment units.

        Raises:
            UserError: the model has no summary head.
        """
        if self.summary_head is None:
            raise UserError(
                "This model was trained without a summary head, so its latents can only be decoded; train one with "
                "deferred decoding: loopwm train deferred"
            )
        return self.summary_head(h)

    def observe(
        self,
        observations: Tensor,
        actions: Tensor,
        *,
        h: Tensor | None = None,
        num_loops: int | Tensor | None = None,
        exit: ExitConfig | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """Filter a recorded sequence: o_k is seen before a_k is taken.

        Args:
            observations: (B, K, *S). actions: (B, K, A). h: (B, N, D) carried so far.

        Returns:
            (B, K, N, D): h_0 ... h_{K-1}; decoding h_k predicts o_{k+1}.
        """
        self._check_pair(observations, actions)
        embeddings = self.encode(observations)
        h = self.initial(len(actions)) if h is None else h
        latents = []
        for k in range(actions.shape[1]):
            h = self.step(h, actions[:, k], embeddings[:, k], num_loops=num_loops, exit=exit, trace=trace)
            latents.append(h)
        return torch.stack(latents, dim=1)

    def imagine(
        self,
        actions: Tensor | Policy,
        *,
        observation: Tensor | None = None,
        h: Tensor | None = None,
        horizon: int | None = None,
        num_loops: int | Tensor | None = None,
        exit: ExitConfig | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """Roll the latent forward without looking at the world; nothing is decoded.

        Args:
            actions: (B, K, A), or a policy (h, e) -> (B, A) together with `horizon`; e is None once imagining.
            observation: (B, *S), o_0, if the present is visible; only the step that uses a_0 sees it.
            h: (B, N, D) carried from the past; zeros when left out.

        Returns:
            (B, K, N, D): h_0 ... h_{K-1}.

        Raises:
            UserError: neither `observation` nor `h`; a policy without `horizon`, or actions with another one; no step.
        """
        steps = self._roll(actions, observation, h, horizon, num_loops, exit, trace)
        return torch.stack(list(steps), dim=1)

    def foresee(
        self,
        actions: Tensor | Policy,
        *,
        observation: Tensor | None = None,
        h: Tensor | None = None,
        horizon: int | None = None,
        num_loops: int | Tensor | None = None,
        exit: ExitConfig | None = None,
        trace: Trace | None = None,
    ) -> Prediction:
        """Where K actions lead: `imagine`, with the end alone decoded and the latents on the way forgotten; Eq. 16-18.

        Arguments and errors as in `imagine`.

        Returns:
            (o_K, r_{K-1}, c_{K-1}), every part with the leading axis (B,).
        """
        for latent in self._roll(actions, observation, h, horizon, num_loops, exit, trace):
            h = latent
        assert h is not None
        return self.decode(h)

    def _roll(
        self,
        actions: Tensor | Policy,
        observation: Tensor | None,
        h: Tensor | None,
        horizon: int | None,
        num_loops: int | Tensor | None,
        exit: ExitConfig | None,
        trace: Trace | None,
    ) -> Iterator[Tensor]:
        """h_0, h_1, ..., h_{K-1}, each (B, N, D); see `imagine`."""
        if observation is None and h is None:
            raise UserError("imagine needs a start: pass observation=o_0, or h from observe, or both.")
        steps = horizon if callable(actions) else actions.shape[1]
        if steps is None or (horizon is not None and horizon != steps):
            raise UserError(
                "imagine needs horizon=K with a policy, and with an action sequence no horizon other than its length."
            )
        if steps < 1:
            raise UserError("imagine needs at least one action: nothing follows from none.")
        embedding = None if observation is None else self.encode(observation)
        if h is None:
            assert embedding is not None
            h = self.initial(len(embedding))
        for k in range(steps):
            action = actions(h, embedding) if callable(actions) else actions[:, k]
            h = self.step(h, action, embedding, num_loops=num_loops, exit=exit, trace=trace)
            embedding = None
            yield h

    def _check_trailing(self, value: Tensor, shape: tuple[int, ...], what: str) -> None:
        if tuple(value.shape[value.ndim - len(shape) :]) != shape:
            raise UserError(
                f"This model expects every {what} to have shape {shape}, but the tensor given has shape "
                f"{tuple(value.shape)}; check that it comes from the world the model was trained on."
            )

    def _check_pair(self, observations: Tensor, actions: Tensor) -> None:
        if observations.shape[:2] != actions.shape[:2]:
            raise UserError(
                f"observe needs one action per observation: got {tuple(observations.shape[:2])} observations and "
                f"{tuple(actions.shape[:2])} actions (batch, steps); drop the final observation of the sequence."
            )

    def project(self) -> None:
        """Put the weights back where a certified core needs them. To be called after every optimiser step."""
        if isinstance(self.core, CertifiedCore):
            self.core.project()

    def num_parameters(self) -> int:
        """Trainable numbers; neither statistics are counted, nor a gate, which only the exit rule `gate` reads."""
        return count_parameters(self) - (count_parameters(self.gate) if self.gate is not None else 0)

    def flops(self, num_loops: int | None = None) -> FlopCount:
        """Operations of one environment step of one row at T loops (mu when left out)."""
        width, n, core = self.config.width, self.tokens, self.core
        heads = self.observation_head.flops() + 2 * linear_flops(self.reward_head, 1)
        looped = isinstance(core, LoopedCore)
        return FlopCount(
            encoder=self.encoder.flops(),
            action=self.action_encoder.flops(),
            prelude=linear_flops(core.prelude.from_latent, n) + layers_flops(core.prelude.layers, n, width),
            held_input=core.held_flops(n) if looped else 0,
            block=core.loop_flops(n) if looped else 0,
            loops=(num_loops or self.default_loops) if looped else 0,
            coda=layers_flops(core.coda, n, width) if looped else 0,
            heads=heads,
            summary=0 if self.summary_head is None else linear_flops(self.summary_head, n),
        )

    def compile_blocks(self) -> None:
        """Compile the parts that repeat, never the loop around them, so that no number of loops recompiles anything."""
        for layers in (self.core.prelude.layers, getattr(self.core, "coda", None)):
            for block in layers.blocks if layers is not None else ():
                block.forward = torch.compile(block.forward, dynamic=True)
        if isinstance(self.core, LoopedCore):
            self.core.move = for_any_batch(torch.compile(self.core.move, dynamic=True))

    def __repr__(self) -> str:
        flops, core = self.flops(), self.core
        parts: list[tuple[str, list[nn.Module], int, int]] = [
            ("encoder", [self.encoder], flops.encoder, 1),
            ("actions", [self.action_encoder], flops.action, 1),
            ("prelude", [core.prelude], flops.prelude, 1),
        ]
        if isinstance(core, LoopedCore):
            cost = {"held": flops.held_input, "retention": 0, "block": flops.block, "coda": flops.coda}
            times = {"retention": flops.loops, "block": flops.loops}
            parts += [(name, part, cost[name], times.get(name, 1)) for name, part in core.sections().items()]
        parts.append(("heads", [self.observation_head, self.reward_head, self.continue_head], flops.heads, 1))
        if self.summary_head is not None:
            parts.append(("summary", [self.summary_head], flops.summary, 1))
        lines = [f"WorldModel({self.config.system}, N={self.tokens} tokens, D={self.config.width})"]
        for name, modules, cost, times in parts:
            repeated = f" x {times} loops" if times > 1 else ""
            lines.append(
                f"  {name:<10}{sum(map(count_parameters, modules)):>10,} parameters {cost:>12,} FLOPs{repeated}"
            )
        lines.append(f"  {'total':<10}{self.num_parameters():>10,} parameters {flops.total:>12,} FLOPs per step")
        if self.gate is not None:
            cost = self.gate.loop_flops(self.tokens)
            lines.append(
                f"  {'gate':<10}{count_parameters(self.gate):>10,} parameters {cost:>12,} FLOPs a loop if used"
            )
        return "\n".join(lines)
