"""A trained text world in use: what was read and done goes in, what would be read next comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from loopwm.errors import UserError
from loopwm.model.text.encoders import Memory, TextActionEncoder, TextEncoder
from loopwm.model.text.head import TextHead
from loopwm.model.text.writing import Written, write
from loopwm.model.trace import Trace
from loopwm.model.world_model import WorldModel
from loopwm.text.benchmark.windows import Window
from loopwm.text.config import SimulatorConfig
from loopwm.text.corpus import opening, padded
from loopwm.text.vocabulary import Vocabulary
from loopwm.train.checkpoint import load


@dataclass(frozen=True)
class Answer:
    """What the model says an action leads to.

    Attributes:
        observation: o_{k+1}.
        confidence: the probability that the model gives to this text, word for word.
        reward: r_k. goes_on: the probability that the episode does.
        loops: that the step took; None of a stack.
    """

    observation: str
    confidence: float
    reward: float
    goes_on: float
    loops: int | None


class TextSimulator:
    """Holds a model and its words.

    Args:
        model: trained on a text recording.

    Raises:
        UserError: the model does not read text.
    """

    def __init__(self, model: WorldModel, config: SimulatorConfig | None = None) -> None:
        encoder, acting, head = model.encoder, model.action_encoder, model.observation_head
        if not (
            isinstance(encoder, TextEncoder) and isinstance(acting, TextActionEncoder) and isinstance(head, TextHead)
        ):
            raise UserError(
                f"This model observes a {model.observation.kind}, not text; a text world is learned with: "
                "loopwm train text --data FILE.parquet"
            )
        self.model, self.encoder, self.acting, self.head = model.eval(), encoder, acting, head
        self.config = config or SimulatorConfig()
        self.model.exit_rule(self.config.exit)
        self.vocabulary = Vocabulary(model.observation.names)
        self.device = next(model.parameters()).device

    @classmethod
    def from_run(cls, run: Path | str, config: SimulatorConfig | None = None, device: str = "cpu") -> TextSimulator:
        """The simulator that a run folder has learned."""
        return cls(load(run, device=device), config)

    # ---- one world, step by step ----

    def begin(self, observation: str, description: str = "", initial: str = "") -> Scene:
        """An imagined world in which `observation` was just read.

        Args:
            description: the task in words. initial: the complete initial state, which models trained with a share
                `train.initial` of the windows know how to read.
        """
        before = opening(self.vocabulary, description, initial)
        return Scene(self, self.model.initial(1)).saw(observation, before)

    # ---- many windows at once ----

    def predict(self, windows: Sequence[Window]) -> list[list[str]]:
        """The K observations of every window of the benchmark, from its context and its actions."""
        return self.foresee_all(windows).texts

    def foresee_all(self, windows: Sequence[Window]) -> Foreseen:
        """What happens in windows, as many at once as is good."""
        # Alike in length, so that little is padded.
        order = sorted(range(len(windows)), key=lambda i: len(windows[i].context.observations))
        foresee = self._word_by_word if self.config.decode else self.foresee
        parts = [
            foresee([windows[i] for i in order[first : first + _AT_ONCE]]) for first in range(0, len(order), _AT_ONCE)
        ]
        back = np.argsort(order)
        texts = [row for part in parts for row in part.texts]
        return Foreseen(
            [texts[i] for i in back],
            torch.cat([part.confidence for part in parts])[back],
            torch.cat([part.loops for part in parts])[back],
        )

    @torch.no_grad()
    def foresee(self, windows: Sequence[Window], last: bool = False) -> Foreseen:
        """What happens in windows that are imagined together.

        Args:
            last: write only what the last action leads to; the steps before it stay latents.
        """
        seen = [self._seen(window) for window in windows]
        now = torch.tensor([len(texts) - 1 for texts in seen], device=self.device)
        done = [self._actions([*window.context.actions, *window.actions]) for window in windows]
        steps = {len(window.actions) for window in windows}
        if len(steps) > 1:
            raise UserError(f"Windows of {sorted(steps)} actions cannot be imagined together.")
        observations = padded(_even(seen)).to(self.device)
        actions = padded(_even(done)).to(self.device)
        causes = torch.cat([torch.zeros_like(actions[:, :1]), actions], 1)[:, : observations.shape[1]]
        e, read = self.encoder.window(observations, causes)
        u, said = self.acting.window(actions)
        memory = read.and_also(said)
        trace = Trace(residuals=False)
        h, latents = self.model.initial(len(windows)), []
        for k in range(actions.shape[1]):
            shown = (k <= now)[:, None, None]
            embedding = e[:, k] * shown if k < e.shape[1] else torch.zeros_like(h)
            h = self.model.advance(
                h, u[:, k], embedding, num_loops=self.config.num_loops, exit=self.config.exit, trace=trace
            )
            latents.append(h)
        path, rows = torch.stack(latents, 1), torch.arange(len(windows), device=self.device)
        texts, confidence = [], []
        first = max(steps) - 1 if last else 0
        for step in range(first, max(steps)):
            written = self.written(path[rows, now + step], memory, now + step)
            texts.append([self.vocabulary.decode(one) for one in written.tokens.tolist()])
            confidence.append(written.log_probability.exp())
        loops = trace.loops[rows[:, None], now[:, None] + torch.arange(first, max(steps), device=self.device)]
        return Foreseen([list(one) for one in zip(*texts, strict=True)], torch.stack(confidence, 1), loops)

    def _word_by_word(self, windows: Sequence[Window]) -> Foreseen:
        """As `foresee`, but every answer is read as if it had happened."""
        steps = [
            [replace(window, actions=window.actions[:1]) for window in windows],
        ]
        found: list[Foreseen] = []
        for step in range(max(len(window.actions) for window in windows)):
            found.append(self.foresee(steps[-1]))
            answers = [texts[0] for texts in found[-1].texts]
            steps.append(
                [
                    replace(
                        before,
                        context=replace(
                            before.context,
                            observations=(*before.context.observations, answer),
                            actions=(*before.context.actions, *before.actions),
                        ),
                        actions=window.actions[step + 1 : step + 2],
                    )
                    for before, window, answer in zip(steps[-1], windows, answers, strict=True)
                ]
            )
        texts = [[one.texts[row][0] for one in found] for row in range(len(windows))]
        return Foreseen(
            texts, torch.cat([one.confidence for one in found], 1), torch.cat([one.loops for one in found], 1)
        )

    def readable(self, action: str) -> str:
        """As much of an action as the model can read; something unknown where there is nothing."""
        tokens = self.vocabulary.encode([action])[0][: self.model.action.size]
        return self.vocabulary.decode(tokens) or "?"

    def written(self, latents: Tensor, memory: Memory, step: Tensor) -> Written:
        """Latents (B, N, D) as texts."""
        return write(self.head, latents, memory, step, beam=self.config.beam)

    def _seen(self, window: Window) -> list[np.ndarray]:
        context = window.context
        before = opening(self.vocabulary, context.description, context.initial)
        texts = [np.asarray(tokens, np.int32) for tokens in self.vocabulary.encode(context.observations)]
        return [np.concatenate([np.asarray(before, np.int32), texts[0]]), *texts[1:]]

    def _actions(self, actions: Sequence[str]) -> list[np.ndarray]:
        """Tokens of actions.

        Raises:
            UserError: one has no words, or more than the model was ever given.
        """
        found = [np.asarray(tokens, np.int32) for tokens in self.vocabulary.encode(actions)]
        longest = self.model.action.size
        for text, tokens in zip(actions, found, strict=True):
            if not 0 < len(tokens) <= longest:
                raise UserError(
                    f"The action '{text}' has {len(tokens)} tokens; this model reads actions of 1 to {longest}."
                )
        return found


_AT_ONCE = 32
"""Windows that are imagined together."""


def _even(rows: Sequence[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Rows of texts, made equally long with texts that say nothing."""
    longest = max(len(row) for row in rows)
    return [[*row, *[np.zeros(0, np.int32)] * (longest - len(row))] for row in rows]


@dataclass(frozen=True)
class Foreseen:
    """What was imagined of B windows of K actions.

    Attributes:
        texts: K for each window, or the last alone. confidence: (B, K), the probability of each, word for word.
        loops: (B, K).
    """

    texts: list[list[str]]
    confidence: Tensor
    loops: Tensor


@dataclass(frozen=True)
class Scene:
    """A moment of an imagined world; acting in it gives another, and leaves this one as it was.

    Attributes:
        h: (1, N, D), the latent after the last action.
        memory: what was read and done so far. step: actions so far.
        unread: e (1, N, D) of what was read since the last action; None after an imagined one.
        action: the words (1, A) of the last action.
    """

    simulator: TextSimulator
    h: Tensor
    memory: Memory | None = None
    step: int = 0
    unread: Tensor | None = None
    action: Tensor | None = field(default=None, repr=False)

    @torch.no_grad()
    def act(self, action: str) -> tuple[Scene, Answer]:
        """a_k: the world after it, and what is read there."""
        own = self.simulator
        tokens = torch.from_numpy(own._actions([action])[0])[None].to(own.device)
        trace = Trace(residuals=False)
        u, said = own.acting.window(tokens[:, None])
        h = own.model.advance(
            self.h, u[:, 0], self.unread, num_loops=own.config.num_loops, exit=own.config.exit, trace=trace
        )
        assert self.memory is not None
        memory = self.memory.and_also(replace(said, step=said.step + self.step))
        written = own.written(h, memory, torch.tensor([self.step], device=own.device))
        answer = Answer(
            observation=own.vocabulary.decode(written.tokens[0].tolist()),
            confidence=float(written.log_probability.exp()),
            reward=float(own.model.reward_head(h)),
            goes_on=float(own.model.continue_head(h).sigmoid()),
            loops=int(trace.loops) if own.model.core.loopable else None,
        )
        after = Scene(own, h, memory, self.step + 1, None, tokens)
        return (after.saw(answer.observation) if own.config.decode else after), answer

    @torch.no_grad()
    def saw(self, observation: str, before: Sequence[int] = ()) -> Scene:
        """The same moment, in which `observation` was read."""
        own = self.simulator
        words = [*before, *own.vocabulary.encode([observation])[0]]
        tokens = torch.tensor(words, dtype=torch.int32, device=own.device)[None, None]
        causes = torch.zeros_like(tokens[..., :1]) if self.action is None else self.action[:, None]
        e, seen = own.encoder.window(tokens, causes)
        seen = replace(seen, step=seen.step + self.step)
        memory = seen if self.memory is None else self.memory.and_also(seen)
        return replace(self, memory=memory, unread=e[:, 0])
