"""Imagined text worlds at one moment, many at once: read, act, write, as tensors of words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from loopwm.model.text.encoders import Memory, TextActionEncoder, TextEncoder
from loopwm.model.text.head import TextHead
from loopwm.model.text.writing import Written, write
from loopwm.model.trace import Trace
from loopwm.model.world_model import WorldModel
from loopwm.text.config import SimulatorConfig


@dataclass(frozen=True)
class Scenes:
    """B worlds, each after as many actions as it has seen; what happens in them gives others, and leaves these.

    Attributes:
        h: (B, N, D), the latent after the last action.
        memory: what was read and done so far. step: (B,), actions so far.
        unread: e (B, N, D) of what was read since the last action; None after an imagined one.
        action: the words (B, A) of the last action; None before any.
    """

    model: WorldModel
    config: SimulatorConfig
    h: Tensor
    memory: Memory
    step: Tensor
    unread: Tensor | None
    action: Tensor | None

    @classmethod
    @torch.inference_mode()
    def after(
        cls, model: WorldModel, config: SimulatorConfig, observations: Tensor, actions: Tensor, past: int = 0
    ) -> Scenes:
        """Worlds in which all of this was read and done.

        Args:
            observations: the words (B, J+K+1, L) of o_0 ... o_K, after J of what was before; a world that has seen
                fewer ends in texts without words, one with a shorter past begins with them.
            actions: the words (B, J+K or more, A) of a_0 ... a_{K-1}, of all worlds likewise.
            past: J. What was before is remembered, and not part of latents, as in training.
        """
        device = next(model.parameters()).device
        observations, actions = observations.to(device), actions.to(device)[:, : observations.shape[1] - 1]
        step = past + (actions[:, past:] != 0).any(-1).sum(1)
        causes = torch.cat([torch.zeros_like(actions[:, :1]), actions], 1) if actions.shape[1] else None
        e, memory = cast(TextEncoder, model.encoder).window(observations, causes, past)
        h = model.initial(len(observations))
        rows, path = torch.arange(len(h), device=device), [h]
        if actions.shape[1]:
            u, said = cast(TextActionEncoder, model.action_encoder).window(actions, past)
            memory = memory.and_also(said)
            for k in range(u.shape[1]):
                h = model.advance(h, u[:, k], e[:, k], num_loops=config.num_loops, exit=config.exit)
                path.append(h)
        last = actions[rows, step - 1] if actions.shape[1] else None
        return cls(model, config, torch.stack(path, 1)[rows, step - past], memory, step, e[rows, step - past], last)

    @torch.inference_mode()
    def intending(self, actions: Tensor) -> tuple[Scenes, Tensor]:
        """The same moment, with the words of the next actions (B, K, A) read together, and their u (B, K, N, D).

        What is written before an action is taken does not look back at its words.
        """
        u, said = cast(TextActionEncoder, self.model.action_encoder).window(actions)
        return replace(self, memory=self.memory.and_also(_later(said, self.step))), u

    @torch.inference_mode()
    def acted(self, action: Tensor, u: Tensor | None = None) -> tuple[Scenes, Tensor]:
        """After one more action (B, A) in each of them, and the loops (B,) that this took.

        Args:
            u: (B, N, D), of an action that was `intending`; the action is read here when None.
        """
        if u is None:
            ahead, one = self.intending(action[:, None])
            return ahead.acted(action, one[:, 0])
        trace = Trace(residuals=False)
        h = self.model.advance(
            self.h, u, self.unread, num_loops=self.config.num_loops, exit=self.config.exit, trace=trace
        )
        return replace(self, h=h, step=self.step + 1, unread=None, action=action), trace.loops[:, 0]

    @torch.inference_mode()
    def written(self) -> Written:
        """What is read after the last action, or was, before any."""
        head = cast(TextHead, self.model.observation_head)
        # A text is written from what was seen before it: o_k+1 looks back at o_0 ... o_k and a_0 ... a_k.
        return write(head, self.h, self.memory, (self.step - 1).clamp(min=0), beam=self.config.beam)

    @torch.inference_mode()
    def saw(self, observation: Tensor) -> Scenes:
        """The same moment, in which the words (B, L) were read."""
        causes = None if self.action is None else self.action[:, None]
        e, seen = cast(TextEncoder, self.model.encoder).window(observation[:, None], causes)
        return replace(self, memory=self.memory.and_also(_later(seen, self.step)), unread=e[:, 0])


def _later(memory: Memory, step: Tensor) -> Memory:
    """As many steps later as `step` (B,) says for every world."""
    return replace(memory, step=memory.step + step.repeat_interleave(memory.window))
