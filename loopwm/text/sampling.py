"""Which windows of a text recording are trained on."""

from __future__ import annotations

import numpy as np

from loopwm.data.windows import Sampler, Windows
from loopwm.errors import UserError
from loopwm.text.corpus import TextCorpus, text_windows
from loopwm.text.spelling import Spelling


class TextSampler(Sampler):
    """Windows of a text world; those of short episodes are padded at their end.

    Args:
        initial: share of the windows that begin with the complete initial state.
        spell: share of the names that a window spells out.
    """

    def __init__(
        self, corpus: TextCorpus, episodes: np.ndarray, seed: int, initial: float = 0.0, spell: float = 0.0
    ) -> None:
        super().__init__(episodes, seed)
        self._corpus, self._initial, self._spell = corpus, initial, spell
        self._spelling = Spelling.of(corpus, self.episodes) if spell else None

    def starts(self, length: int) -> np.ndarray:
        if length < 1:
            raise UserError(f"A window needs at least 1 transition, got {length}.")
        return np.maximum(self._corpus.ep_len[self.episodes] - length + 1, 1)

    def cut(self, episode: np.ndarray, start: np.ndarray, length: int, generator: np.random.Generator) -> Windows:
        told = generator.random(len(start)) < self._initial
        spelling = self._spelling
        if spelling is None:
            return text_windows(self._corpus, episode, start, length, told)
        chosen = spelling.draw(len(start), self._spell, generator)
        return text_windows(
            self._corpus, episode, start, length, told, lambda window, text: spelling.spell(text, chosen[window])
        )
