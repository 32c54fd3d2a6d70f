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
        balance: how evenly task types are drawn, in [0, 1]. A type that n windows can be cut from is drawn in
            proportion to n^(1 - balance).
    """

    def __init__(
        self,
        corpus: TextCorpus,
        episodes: np.ndarray,
        seed: int,
        initial: float = 0.0,
        spell: float = 0.0,
        balance: float = 0.0,
    ) -> None:
        super().__init__(episodes, seed)
        self._corpus, self._initial, self._spell, self._balance = corpus, initial, spell, balance
        self._kinds = np.unique([corpus.kinds[episode] for episode in self.episodes], return_inverse=True)[1]
        self._spelling = Spelling.of(corpus, self.episodes) if spell else None

    def starts(self, length: int) -> np.ndarray:
        if length < 1:
            raise UserError(f"A window needs at least 1 transition, got {length}.")
        return np.maximum(self._corpus.ep_len[self.episodes] - length + 1, 1)

    def choose(self, batch: int, length: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if not self._balance:
            return super().choose(batch, length, generator)
        starts = self.starts(length)
        likely = np.cumsum(starts * np.bincount(self._kinds, starts)[self._kinds] ** -self._balance)
        which = np.searchsorted(likely, generator.random(batch) * likely[-1], side="right")
        return which, generator.integers(starts[which])

    def cut(self, episode: np.ndarray, start: np.ndarray, length: int, generator: np.random.Generator) -> Windows:
        told = generator.random(len(start)) < self._initial
        spelling = self._spelling
        if spelling is None:
            return text_windows(self._corpus, episode, start, length, told)
        chosen = spelling.draw(len(start), self._spell, generator)
        return text_windows(
            self._corpus, episode, start, length, told, lambda window, text: spelling.spell(text, chosen[window])
        )
