"""A trained text world in use: what was read and done goes in, what would be read next comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from loopwm.errors import UserError
from loopwm.model.text.encoders import TextActionEncoder, TextEncoder
from loopwm.model.text.head import TextHead
from loopwm.model.world_model import WorldModel
from loopwm.text.benchmark.windows import MEMORY, Context, Window
from loopwm.text.config import SimulatorConfig
from loopwm.text.corpus import opening, padded
from loopwm.text.past import Told, aligned
from loopwm.text.scenes import Scenes
from loopwm.text.vocabulary import Vocabulary
from loopwm.train.checkpoint import load
from loopwm.train.journal import read_config
from loopwm.train.published import folders


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
        parts = (
            (model.encoder, TextEncoder),
            (model.action_encoder, TextActionEncoder),
            (model.observation_head, TextHead),
        )
        if not all(isinstance(part, kind) for part, kind in parts):
            raise UserError(
                f"This model observes a {model.observation.kind}, not text; a text world is learned with: "
                "loopwm train text --data FILE.parquet"
            )
        self.model = model.eval()
        self.config = config or SimulatorConfig()
        self.memory = MEMORY if self.config.memory is None else self.config.memory
        self.model.exit_rule(self.config.exit)
        self.vocabulary = Vocabulary(model.observation.names)
        self.device = next(model.parameters()).device

    @classmethod
    def from_run(cls, run: Path | str, config: SimulatorConfig | None = None, device: str = "cpu") -> TextSimulator:
        """The simulator that a run folder has learned, or a model that comes with loopwm, by its name; `memory` is the
        length of its windows where none is given."""
        config, settings = config or SimulatorConfig(), folders().get(str(run), Path(run)) / "config.yaml"
        if config.memory is None and settings.is_file():
            config = replace(config, memory=read_config(settings).train.window)
        return cls(load(run, device=device), config)

    # ---- one world, step by step ----

    def begin(self, observation: str, description: str = "", initial: str = "") -> Scene:
        """An imagined world in which `observation` was just read.

        Args:
            description: the task in words. initial: the complete initial state, which models trained with a share
                `train.initial` of the windows know how to read.
        """
        context = Context(description, (observation,), (), initial)
        return Scene(self, self._after([context]), context)

    # ---- many windows at once ----

    def predict(self, windows: Sequence[Window]) -> list[list[str]]:
        """The K observations of every window of the benchmark, from its context and its actions."""
        return self.foresee_all(windows).texts

    def foresee_all(self, windows: Sequence[Window]) -> Foreseen:
        """What happens in windows, as many at once as is good."""
        # Alike in length, so that little is padded.
        order = sorted(range(len(windows)), key=lambda i: len(windows[i].context.observations))
        groups = [order[first : first + _AT_ONCE] for first in range(0, len(order), _AT_ONCE)]
        parts = [self.foresee([windows[i] for i in group]) for group in groups]
        back = np.argsort(order)
        texts = [row for part in parts for row in part.texts]
        return Foreseen(
            [texts[i] for i in back],
            torch.cat([part.confidence for part in parts])[back],
            torch.cat([part.loops for part in parts])[back],
        )

    def foresee(self, windows: Sequence[Window], last: bool = False) -> Foreseen:
        """What happens in windows that are imagined together.

        Args:
            last: give only what the last action leads to. In the latent the steps before it are not written at all.

        Raises:
            UserError: there is no window or none has an action, or they have different numbers of them.
        """
        steps = {len(window.actions) for window in windows}
        if len(steps) != 1 or 0 in steps:
            raise UserError(f"Windows of {sorted(steps) or 'no'} actions cannot be imagined together.")
        return self.going_on(self.read(windows), [window.actions for window in windows], last)

    def going_on(self, scenes: Scenes, actions: Sequence[Sequence[str]], last: bool = False) -> Foreseen:
        """What K actions in each of B worlds lead to; `last` as in `foresee`."""
        found: list[Foreseen] = []
        told = padded([self._actions(row) for row in actions]).to(self.device)
        scenes, u = scenes.intending(told)
        for step in range(told.shape[1]):
            ends = step == told.shape[1] - 1
            wanted = ends or not last
            scenes, loops = scenes.acted(told[:, step], u[:, step])
            if not wanted and not self.config.decode:
                continue
            written = scenes.written()
            texts = [self.vocabulary.decode(one) for one in written.tokens.tolist()]
            if wanted:
                found.append(
                    Foreseen([[text] for text in texts], written.log_probability.exp()[:, None], loops[:, None])
                )
            if self.config.decode and not ends:
                scenes = scenes.saw(self._words(texts))
        return Foreseen.joined(found)

    def read(self, windows: Sequence[Window]) -> Scenes:
        """The worlds of windows, after all that their contexts tell."""
        return self._after([window.context for window in windows])

    def _after(self, contexts: Sequence[Context]) -> Scenes:
        seen, done, past = aligned([self._told(context) for context in contexts])
        return Scenes.after(self.model, self.config, padded(seen), padded(done), past)

    def readable(self, action: str) -> str:
        """As much of an action as the model can read; something unknown where there is nothing."""
        tokens = self.vocabulary.encode([action])[0][: self.model.action.size]
        # Cut within the number of a character, what is left is more tokens than it was.
        while len(self.vocabulary.encode([self.vocabulary.decode(tokens)])[0]) > self.model.action.size:
            tokens.pop()
        return self.vocabulary.decode(tokens) or "?"

    def _words(self, observations: Sequence[str]) -> Tensor:
        """An observation of every world (B, L)."""
        texts = self.vocabulary.encode(observations)
        return padded([[np.asarray(tokens, np.int32)] for tokens in texts])[:, 0].to(self.device)

    def _tokens(self, actions: Sequence[str]) -> Tensor:
        """An action in every world (B, A)."""
        return padded([[tokens] for tokens in self._actions(actions)])[:, 0].to(self.device)

    def _told(self, context: Context) -> Told:
        task, state = (
            np.asarray(opening(self.vocabulary, context.description, told), np.int32) for told in ("", context.initial)
        )
        seen = [np.asarray(tokens, np.int32) for tokens in self.vocabulary.encode(context.observations)]
        done = self._actions(context.actions)
        start = max(len(done) - self.memory, 0)
        return Told.of(seen, done, start, task, state if context.initial else None)

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

    @classmethod
    def joined(cls, steps: Sequence[Foreseen]) -> Foreseen:
        """Of steps that follow each other."""
        texts = [[text for one in row for text in one] for row in zip(*(step.texts for step in steps), strict=True)]
        confidence, loops = [step.confidence for step in steps], [step.loops for step in steps]
        return cls(texts, torch.cat(confidence, 1), torch.cat(loops, 1))


@dataclass(frozen=True)
class Scene:
    """A moment of an imagined world; acting in it gives another, and leaves this one as it was.

    Attributes:
        scenes: what the model knows of it.
        context: all that was read and done, up to the last action; None once an action was not followed by a text, or
            a text by an action.
        action: the last one, as long as nothing was read after it.
        followed: transitions since the past.
        unread: this moment before the model read its own answer.
    """

    simulator: TextSimulator
    scenes: Scenes
    context: Context | None
    action: str | None = None
    followed: int = 0
    unread: Scene | None = None

    def act(self, action: str) -> tuple[Scene, Answer]:
        """a_k: the world after it, and what is read there."""
        own, model = self.simulator, self.simulator.model
        scenes, loops = self.scenes.acted(own._tokens([action]))
        written = scenes.written()
        with torch.no_grad():
            reward, goes_on = float(model.reward_head(scenes.h)), float(model.continue_head(scenes.h).sigmoid())
        answer = Answer(
            observation=own.vocabulary.decode(written.tokens[0].tolist()),
            confidence=float(written.log_probability.exp()),
            reward=reward,
            goes_on=goes_on,
            loops=int(loops) if model.core.loopable else None,
        )
        after = Scene(own, scenes, None if self.action is not None else self.context, action, self.followed + 1)
        return (replace(after.saw(answer.observation), unread=after) if own.config.decode else after), answer

    def saw(self, observation: str) -> Scene:
        """The same moment, in which `observation` was read, instead of its own answer if the model has read that."""
        at, own = self.unread or self, self.simulator
        context = None
        if at.context is not None and at.action is not None:
            texts, actions = (*at.context.observations, observation), (*at.context.actions, at.action)
            context = replace(at.context, observations=texts, actions=actions)
        if context is not None and at.followed >= own.memory + own.memory // 2:
            # Read anew, as models are not trained to follow more.
            return Scene(own, own._after([context]), context, None, own.memory)
        return Scene(own, at.scenes.saw(own._words([observation])), context, None, at.followed)
