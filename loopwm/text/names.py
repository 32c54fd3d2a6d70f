"""Names that a window tells otherwise than they were recorded, so that names are read and not known by heart.

`spell` writes names out, letter by letter, as names come that no training episode holds (`loopwm.text.vocabulary`): a
model that meets letters only then does not know how to read or to copy them. `rename` calls things that the window's
actions speak of by the names of others: what an answer says of "mercury" has then to be taken from the action, and
holds for "rubber", which no training episode measures.

Source: spelling is to words what BPE-dropout is to their pieces, arXiv 1910.13267.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loopwm.text.corpus import Ragged, TextCorpus
from loopwm.text.vocabulary import SPACE

RARE = 0.02
"""Share of the texts below which a word counts as a name."""


@dataclass(frozen=True)
class Names:
    """Which words are names, and how each can be told.

    Attributes:
        name: (V,), which name a word is, with or without a space before it; -1 where it is none.
        spaced: (V,), which words have that space.
        words, letters: number 2 n of them is name n without a space before it, 2 n + 1 with one; as one word, where
            there is such a word, and as letters.
        spoken: names that actions speak of; what is done, the word that an action begins with, is none of them, nor
            are words that stand in many texts with a space before them and in few without one.
    """

    name: np.ndarray
    spaced: np.ndarray
    words: Ragged
    letters: Ragged
    spoken: np.ndarray

    @classmethod
    def of(cls, corpus: TextCorpus, episodes: np.ndarray) -> Names:
        """Names are the words of letters that stand in few of the texts of `episodes`."""
        vocabulary, count = corpus.vocabulary, np.zeros(len(corpus.vocabulary), np.int64)
        done, begun = np.zeros(len(vocabulary), bool), np.zeros(len(vocabulary), bool)
        rows = np.concatenate([corpus.ep_offset[e] + np.arange(int(corpus.ep_len[e]) + 1) for e in episodes])
        for row in rows:
            action = corpus.actions[row]
            for text in (corpus.observations[row], action):
                count[np.unique(text)] += 1
            done[action[1:]] = True
            begun[action[:1]] = True
        bare = [word.removeprefix(SPACE) for word in vocabulary.words]
        is_name = np.array([len(vocabulary.spelled(index)) > 1 for index in range(len(vocabulary))])
        often = count >= RARE * 2 * len(rows)
        is_name &= (count > 0) & ~often
        numbers = {word: number for number, word in enumerate(dict.fromkeys(bare))}
        name = np.array([numbers[word] if rare else -1 for word, rare in zip(bare, is_name, strict=True)])
        ways = [(word, space) for word in numbers for space in ("", SPACE)]
        known = {word for word, rare in zip(bare, is_name, strict=True) if rare}
        told = [vocabulary.of_word(space + word) if word in known else [] for word, space in ways]
        spelled = [vocabulary.letters(space + word) if word in known else [] for word, space in ways]
        usual = [numbers[word] for word, no_name in zip(bare, begun | often, strict=True) if no_name]
        spoken = np.setdiff1d(name[done & is_name], usual)
        spaced = np.array([word.startswith(SPACE) for word in vocabulary.words])
        longest = max(map(len, spelled))
        return cls(name, spaced, Ragged.of(told, longest), Ragged.of(spelled, longest), spoken)

    def draw(
        self, actions: Sequence[Sequence[np.ndarray]], spell: float, rename: float, generator: np.random.Generator
    ) -> list[Telling]:
        """How each window, of which these are the actions, tells a share of its names."""
        many = int(self.name.max(initial=0)) + 1
        spelled = generator.random((len(actions), many)) < spell
        return [
            Telling(self, chosen, self._renamed(done, many, rename, generator))
            for chosen, done in zip(spelled, actions, strict=True)
        ]

    def _renamed(
        self, actions: Sequence[np.ndarray], many: int, share: float, generator: np.random.Generator
    ) -> np.ndarray:
        """Which name each is called by (N,), no two by one."""
        others = np.arange(many)
        if not share:
            return others
        spoken = np.intersect1d(self.name[np.concatenate([*actions, np.zeros(0, np.int32)])], self.spoken)
        for one in spoken[generator.random(len(spoken)) < share]:
            other = generator.choice(self.spoken)
            others[[one, other]] = others[[other, one]]
        return others


@dataclass(frozen=True)
class Telling:
    """How a window tells names: which it spells out (N,), and by which other each is called (N,)."""

    names: Names
    spelled: np.ndarray
    others: np.ndarray

    def __call__(self, text: np.ndarray) -> np.ndarray:
        """Tokens (L,), names told in this way."""
        names, found = self.names, self.names.name[text]
        changed = (found >= 0) & (self.spelled[found] | (self.others[found] != found))
        if not changed.any():
            return text
        parts = []
        for token, name, otherwise in zip(text, found, changed, strict=True):
            if otherwise:
                table = names.letters if self.spelled[name] else names.words
                parts.append(table[int(2 * self.others[name] + names.spaced[token])])
            else:
                parts.append([token])
        return np.concatenate(parts).astype(text.dtype)
