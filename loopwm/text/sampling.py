"""Which windows of a text recording are trained on."""

from __future__ import annotations

import numpy as np

from loopwm.data.windows import Sampler, Windows
from loopwm.errors import UserError
from loopwm.text.corpus import TextCorpus, text_windows
from loopwm.text.names import Names


class TextSampler(Sampler):
    """Windows of a text world; those of short episodes are padded at their end.

    Args:
        initial: share of the windows that are told the complete initial state, and what still stands of the past
            since. Every other one of them begins where its episode does, so that there is none.
        spell: share of the names that a window spells out. rename: share of those that its actions speak of which it
            calls by others.
        balance: how evenly task types are drawn, in [0, 1]. A type that n windows can be cut from is drawn in
            proportion to n^(1 - balance).
        changes: share of the windows that are drawn among those that hold an action whose answer is another than the
            one before, within the window; those that begin where their episodes do may lose it.
    """

    def __init__(
        self,
        corpus: TextCorpus,
        episodes: np.ndarray,
        seed: int,
        initial: float = 0.0,
        spell: float = 0.0,
        balance: float = 0.0,
        changes: float = 0.0,
        rename: float = 0.0,
    ) -> None:
        super().__init__(episodes, seed)
        self._corpus, self._initial, self._spell, self._balance = corpus, initial, spell, balance
        self._share_of_changes, self._changing = changes, dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]()
        self._kinds = np.unique([corpus.kinds[episode] for episode in self.episodes], return_inverse=True)[1]
        self._rename, self._names = rename, Names.of(corpus, self.episodes) if spell or rename else None

    def starts(self, length: int) -> np.ndarray:
        if length < 1:
            raise UserError(f"A window needs at least 1 transition, got {length}.")
        return np.maximum(self._corpus.ep_len[self.episodes] - length + 1, 1)

    def choose(self, batch: int, length: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Episodes (B,) and starts (B,); a share of them where an action is answered otherwise than before."""
        which, start = self._anywhere(batch, length, generator)
        if not self._share_of_changes:
            return which, start
        owner, begin, likely = self._where_answers_change(length)
        if not len(owner):
            # Windows that grow are too short for it in the beginning.
            return which, start
        chosen = np.searchsorted(likely, generator.random(batch) * likely[-1], side="right")
        there = generator.random(batch) < self._share_of_changes
        return np.where(there, owner[chosen], which), np.where(there, begin[chosen], start)

    def _anywhere(self, batch: int, length: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if not self._balance:
            return super().choose(batch, length, generator)
        starts = self.starts(length)
        likely = np.cumsum(starts * np.bincount(self._kinds, starts)[self._kinds] ** -self._balance)
        which = np.searchsorted(likely, generator.random(batch) * likely[-1], side="right")
        return which, generator.integers(starts[which])

    def _where_answers_change(self, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Windows that hold a changed answer and the one before: owners, starts, and how likely all up to each are."""
        if length not in self._changing:
            found = [
                np.flatnonzero(holding(changed_answers(self._corpus, int(episode)), int(starts), length))
                for episode, starts in zip(self.episodes, self.starts(length), strict=True)
            ]
            owner = np.repeat(np.arange(len(found)), [len(one) for one in found])
            kinds = self._kinds[owner]
            likely = np.cumsum(np.bincount(kinds)[kinds].astype(np.float64) ** -self._balance)
            self._changing[length] = owner, np.concatenate(found), likely
        return self._changing[length]

    def refuse_unchanging(self, length: int) -> None:
        """Raise UserError where windows with changed answers are asked for, and none of this length has one."""
        if self._share_of_changes and not len(self._where_answers_change(length)[0]):
            raise UserError(
                f"No training window of {length} transitions holds an action that is answered otherwise than before; "
                "leave train.changes at 0."
            )

    def cut(self, episode: np.ndarray, start: np.ndarray, length: int, generator: np.random.Generator) -> Windows:
        """Windows (B, K, ...) of them; some are told the initial state, and some names in each otherwise."""
        told = (generator.random(len(start)) < self._initial) & self._corpus.stated[episode]
        # As in use: about as many games are younger than a window as are older.
        start = np.where(told & (generator.random(len(start)) < 0.5), 0, start)
        if self._names is None:
            return text_windows(self._corpus, episode, start, length, told)
        corpus = self._corpus
        first, end = corpus.ep_offset[episode] + start, corpus.ep_offset[episode] + corpus.ep_len[episode]
        rows = zip(first, np.minimum(first + length, end), strict=True)
        done = [[corpus.actions[r] for r in range(*window)] for window in rows]
        tell = self._names.draw(done, self._spell, self._rename, generator)
        return text_windows(corpus, episode, start, length, told, tell)


def changed_answers(corpus: TextCorpus, episode: int) -> list[tuple[int, int]]:
    """Transitions (p, k) of an episode: the action of k is that of p, was not taken between, and is answered otherwise.

    What a world answers to the same action changes with its state, so that here copying is not enough.
    """
    answers, found = dict[bytes, tuple[int, bytes]](), []
    first = int(corpus.ep_offset[episode])
    for k in range(int(corpus.ep_len[episode])):
        action, answer = corpus.actions[first + k].tobytes(), corpus.observations[first + k + 1].tobytes()
        before, known = answers.get(action, (k, answer))
        if known != answer:
            found.append((before, k))
        answers[action] = k, answer
    return found


def holding(pairs: list[tuple[int, int]], starts: int, length: int) -> np.ndarray:
    """Which of the windows that start at 0 ... starts - 1 hold both transitions of one of `pairs`: (starts,) bool."""
    found = np.zeros(starts, bool)
    for first, last in pairs:
        found[max(last - length + 1, 0) : first + 1] = True
    return found
