"""Recorded text as tokens, in memory, and windows of it for training.

A text recording is small: all its words are held at once, one after the other, and a window is padded no further than
its own longest text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from loopwm.data.statistics import Statistics
from loopwm.data.windows import Windows
from loopwm.errors import UserError
from loopwm.spaces import ActionSpec, ObservationSpec
from loopwm.text.past import Told, aligned
from loopwm.text.recording import TextEpisode, TextManifest, read_recording
from loopwm.text.vocabulary import SEEN, STATE, TASK, Vocabulary

Tell = Callable[[np.ndarray], np.ndarray]
VALID = "valid"
"""The label of a window that says which of its transitions exist."""


@dataclass(frozen=True)
class Ragged:
    """Sequences of tokens, one after the other: number i is `flat[begin[i] : begin[i + 1]]`."""

    flat: np.ndarray
    begin: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], most: int) -> Ragged:
        """Sequences, cut after `most` tokens."""
        cut = [row[:most] for row in rows]
        begin = np.concatenate([[0], np.cumsum([len(row) for row in cut])]).astype(np.int64)
        flat = np.fromiter((token for row in cut for token in row), np.int32, int(begin[-1]))
        return cls(flat, begin)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.flat[self.begin[index] : self.begin[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every sequence."""
        return np.diff(self.begin)


@dataclass(frozen=True)
class TextCorpus:
    """A recording as tokens. Row layout as in a store: an episode of L transitions has L + 1 rows.

    Attributes:
        observations: of every row. actions: of every row, empty in the final ones.
        openings: of every episode, what comes before the first observation that is seen: the task.
        states: the same with the complete initial state, where it is recorded; `stated` says of which that is.
        rewards, continues: (rows,) float32.
        ep_len, ep_offset: (episodes,) int64.
        splits, kinds: of every episode; kinds are types of task.
    """

    vocabulary: Vocabulary
    manifest: TextManifest
    observations: Ragged
    actions: Ragged
    openings: Ragged
    states: Ragged
    stated: np.ndarray
    rewards: np.ndarray
    continues: np.ndarray
    ep_len: np.ndarray
    ep_offset: np.ndarray
    splits: tuple[str, ...]
    kinds: tuple[str, ...]

    @classmethod
    def of(
        cls,
        episodes: Sequence[TextEpisode],
        manifest: TextManifest,
        vocabulary: Vocabulary | None = None,
        most: int = 512,
    ) -> TextCorpus:
        """Tokens of episodes.

        Args:
            vocabulary: that of the training episodes when None.
            most: tokens of a text beyond which it is cut off.

        Raises:
            UserError: there is no episode to take words from.
        """
        if vocabulary is None:
            vocabulary = Vocabulary.of(words_of([one for one in episodes if one.split == "train"]))
        seen = vocabulary.encode([text for one in episodes for text in one.observations])
        done = vocabulary.encode([text for one in episodes for text in (*one.actions, "")])
        lengths = np.array([one.length for one in episodes], np.int64)
        gains = [
            gain for one in episodes for gain in (*np.diff(np.asarray(one.scores, np.float64)).astype(np.float32), 0.0)
        ]
        going = [float(not (one.terminated and k == one.length - 1)) for one in episodes for k in range(one.length + 1)]
        return cls(
            vocabulary=vocabulary,
            manifest=manifest,
            observations=Ragged.of(seen, most),
            actions=Ragged.of(done, most),
            openings=Ragged.of([closed(opening(vocabulary, one.description), most) for one in episodes], most),
            states=Ragged.of(
                [closed(opening(vocabulary, one.description, one.initial), 8 * most) for one in episodes], 8 * most
            ),
            stated=np.array([bool(one.initial) for one in episodes]),
            rewards=np.array(gains, np.float32),
            continues=np.array(going, np.float32),
            ep_len=lengths,
            ep_offset=np.cumsum(lengths + 1) - (lengths + 1),
            splits=tuple(one.split for one in episodes),
            kinds=tuple(one.task_type for one in episodes),
        )

    @classmethod
    def read(cls, path: Path, vocabulary: Vocabulary | None = None, most: int = 512) -> TextCorpus:
        """The recording at `path`; see `of`."""
        manifest, episodes = read_recording(path)
        return cls.of(episodes, manifest, vocabulary, most)

    def told(self, episode: int, start: int, initial: bool, length: int, tell: Tell = lambda text: text) -> Told:
        """What a window of an episode tells, without padding; see `text_windows`."""
        first = int(self.ep_offset[episode])
        end = first + min(int(start) + length, int(self.ep_len[episode]))
        # Of a past that nobody is told nothing is needed.
        begin = first if initial else first + int(start)
        seen = [tell(self.observations[r]) for r in range(begin, end + 1)]
        done = [tell(self.actions[r]) for r in range(begin, end)]
        state = tell(self.states[episode]) if initial else None
        return Told.of(seen, done, first + int(start) - begin, tell(self.openings[episode]), state)

    def split(self, name: str) -> np.ndarray:
        """Indices of the episodes of a split."""
        return np.flatnonzero(np.array(self.splits) == name)

    @property
    def observation(self) -> ObservationSpec:
        """Up to L tokens; the names are the vocabulary."""
        longest = int(max(self.observations.lengths.max(), 1))
        return ObservationSpec("text", (longest,), self.vocabulary.words)

    @property
    def action(self) -> ActionSpec:
        """Up to A tokens of the same vocabulary."""
        return ActionSpec("text", int(max(self.actions.lengths.max(), 1)))

    def statistics(self, episodes: np.ndarray) -> Statistics:
        """Of rewards; tokens have no scale."""
        rows = np.concatenate([self.ep_offset[e] + np.arange(int(self.ep_len[e])) for e in episodes])
        spread = float(self.rewards[rows].std())
        shape, size = self.observation.num_features, self.action.stored_size
        seen = np.zeros(shape, np.float32), np.ones(shape, np.float32), np.ones(shape, bool)
        done = np.zeros(size, np.float32), np.ones(size, np.float32)
        return Statistics(*seen, *done, float(self.rewards[rows].mean()), spread or 1.0)


def words_of(episodes: Iterable[TextEpisode]) -> Iterable[str]:
    """Every text of episodes."""
    found = [text for one in episodes for text in (*one.observations, *one.actions, one.description, one.initial)]
    if not found:
        raise UserError("There is no training episode to take words from; record the split 'train' as well.")
    return found


def opening(vocabulary: Vocabulary, description: str, initial: str = "") -> list[int]:
    """What comes before the first observation: <task> ... <state> ... <state> ... <seen>, a state for every paragraph
    of the initial one, if any."""
    task, state, seen = (vocabulary.index(special) for special in (TASK, STATE, SEEN))
    words, *parts = vocabulary.encode([description, *(part for part in initial.split("\n\n") if part)])
    return [task, *words, *(word for part in parts for word in (state, *part)), seen]


def closed(opening: list[int], most: int) -> list[int]:
    """An opening of at most `most` tokens, which still ends with <seen>."""
    return opening if len(opening) <= most else [*opening[: most - 1], opening[-1]]


def text_windows(
    corpus: TextCorpus,
    episode: np.ndarray,
    start: np.ndarray,
    length: int,
    initial: np.ndarray | None = None,
    tell: Sequence[Tell] | None = None,
) -> Windows:
    """Windows of `length` transitions that start at transition `start` (B,) of `episode` (B,).

    Observations are tokens (B, J+K+1, L), actions (B, J+K, A), both padded with 0 as far as these windows need. The
    opening of the episode is part of the first observation of a window. The label `valid` (B, K) says which transitions
    exist.

    Args:
        initial: (B,), which windows are told the initial state of their episodes, where it is recorded, and the J texts
            and actions of what still stands of the past since.
        tell: of every window, makes of a recorded text the one that is in the window.
    """
    steps = start[:, None] + np.arange(length + 1)
    rows = corpus.ep_offset[episode][:, None] + np.minimum(steps, corpus.ep_len[episode][:, None])
    valid = steps[:, :-1] < corpus.ep_len[episode][:, None]
    told = np.zeros(len(episode), bool) if initial is None else initial & corpus.stated[episode]
    asked = zip(episode, start, told, tell or [lambda text: text] * len(episode), strict=True)
    seen, done, _ = aligned([corpus.told(e, t, known, length, telling) for e, t, known, telling in asked], length)
    where = torch.from_numpy(valid.astype(np.float32))
    return Windows(
        observations=padded(seen),
        actions=padded(done),
        rewards=torch.from_numpy(corpus.rewards[rows[:, :-1]]) * where,
        continues=torch.from_numpy(corpus.continues[rows[:, :-1]]),
        labels={VALID: where},
        episode=torch.from_numpy(np.asarray(episode, np.int64)),
        start=torch.from_numpy(np.asarray(start, np.int64)),
    )


def padded(rows: Sequence[Sequence[np.ndarray]]) -> torch.Tensor:
    """Sequences (B x K) of tokens as one tensor (B, K, L) int32, L the longest, at least 1."""
    longest = max((len(tokens) for row in rows for tokens in row), default=0)
    found = np.zeros((len(rows), len(rows[0]), max(longest, 1)), np.int32)
    for b, row in enumerate(rows):
        for k, tokens in enumerate(row):
            found[b, k, : len(tokens)] = tokens
    return torch.from_numpy(found)
