"""Names that windows spell out, letter by letter, as names are that no training episode holds.

What was never met comes as letters (`loopwm.text.vocabulary`). A model that meets letters only then does not know how
to read or to copy them, so that in training some names of every window are spelled out wherever they stand in it.

Source: the same idea for pieces of words, BPE-dropout, arXiv 1910.13267.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loopwm.text.corpus import Ragged, TextCorpus
from loopwm.text.vocabulary import SPACE

RARE = 0.02
"""Share of the texts below which a word counts as a name."""


@dataclass(frozen=True)
class Spelling:
    """What may be spelled out, and how.

    Attributes:
        name: (V,), which name a word is, with or without a space before it; -1 where it is none.
        letters: of every word, itself where it is no name.
    """

    name: np.ndarray
    letters: Ragged

    @classmethod
    def of(cls, corpus: TextCorpus, episodes: np.ndarray) -> Spelling:
        """Names are the words of letters that stand in few of the texts of `episodes`."""
        vocabulary, count = corpus.vocabulary, np.zeros(len(corpus.vocabulary), np.int64)
        rows = np.concatenate([corpus.ep_offset[e] + np.arange(int(corpus.ep_len[e]) + 1) for e in episodes])
        for row in rows:
            for text in (corpus.observations[row], corpus.actions[row]):
                count[np.unique(text)] += 1
        spelled = [vocabulary.spelled(index) for index in range(len(vocabulary))]
        rare = (count > 0) & (count < RARE * 2 * len(rows)) & (np.array([len(one) for one in spelled]) > 1)
        bare = [word.removeprefix(SPACE) for word in vocabulary.words]
        numbers = {word: number for number, word in enumerate(dict.fromkeys(bare))}
        name = np.array([numbers[word] if is_name else -1 for word, is_name in zip(bare, rare, strict=True)])
        return cls(name, Ragged.of(spelled, max(map(len, spelled))))

    def draw(self, batch: int, share: float, generator: np.random.Generator) -> np.ndarray:
        """Which words each of so many windows spells out, (B, V), a `share` of all names."""
        chosen = generator.random((batch, int(self.name.max(initial=0)) + 1)) < share
        return chosen[:, self.name] & (self.name >= 0)

    def spell(self, text: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Tokens (L,) with the words that are `chosen` (V,) as letters."""
        if not chosen[text].any():
            return text
        return np.concatenate([self.letters[token] if chosen[token] else [token] for token in text]).astype(text.dtype)
