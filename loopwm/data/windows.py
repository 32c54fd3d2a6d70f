"""Windows of consecutive transitions, drawn at random for training or enumerated for evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from loopwm.data.cache import Columns
from loopwm.errors import UserError


@dataclass(frozen=True)
class Windows:
    """A batch of B windows of K transitions, each inside one episode. float32 unless said.

    Attributes:
        observations: (B, K+1, *S), in environment units; uint8 where they are images, as the device converts faster.
        actions: (B, K, A). Of both, windows of texts may have J more, of what was before.
        rewards, continues: (B, K).
        labels: name -> (B, K).
        episode: (B,) int64, index of the episode in the store.
        start: (B,) int64, the window's transition 0 is the episode's transition `start`.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    continues: torch.Tensor
    labels: dict[str, torch.Tensor]
    episode: torch.Tensor
    start: torch.Tensor

    def __len__(self) -> int:
        return len(self.episode)

    @property
    def past(self) -> int:
        """J: observations and actions before the window's own."""
        return self.observations.shape[1] - 1 - self.rewards.shape[1]

    def __getitem__(self, rows: slice | torch.Tensor) -> Windows:
        """The windows in `rows`, a slice or an index tensor."""
        return self._map(lambda tensor: tensor[rows])

    def last(self) -> Windows:
        """The final transition of every window, as windows of one transition."""
        k = self.rewards.shape[1] - 1
        return Windows(
            self.observations[:, self.past + k :],
            self.actions[:, self.past + k :],
            self.rewards[:, k:],
            self.continues[:, k:],
            {name: label[:, k:] for name, label in self.labels.items()},
            self.episode,
            self.start + k,
        )

    def to(self, device: torch.device | str) -> Windows:
        """The same windows on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Windows:
        """The same windows in page-locked memory, from where an accelerator can copy while it computes."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Windows:
        return Windows(
            function(self.observations),
            function(self.actions),
            function(self.rewards),
            function(self.continues),
            {name: function(label) for name, label in self.labels.items()},
            function(self.episode),
            function(self.start),
        )


@dataclass(frozen=True)
class SamplerState:
    """All a sampler remembers: its seed and how many batches it has drawn. Serialise with `dataclasses.asdict`."""

    seed: int
    draws: int


class Sampler(ABC):
    """Draws windows of episodes, uniformly over every start at which one may begin unless `choose` is another.

    Draw number n depends on the seed, n and the length asked for, and on no earlier draw or its length. So a restored
    sampler continues exactly where it was, also when windows grow, and two systems trained from equal seeds see equal
    windows.

    Args:
        episodes: indices of the episodes to draw from.
        seed: any non-negative integer.

    Raises:
        UserError: there are no episodes, or the seed is negative.
    """

    def __init__(self, episodes: np.ndarray, seed: int) -> None:
        if seed < 0:
            raise UserError(f"A sampler's seed must not be negative, got {seed}.")
        if len(episodes) == 0:
            raise UserError("There is no episode to take windows from; record more episodes.")
        self.episodes = np.asarray(episodes, dtype=np.int64)
        self._seed, self._draws = seed, 0
        self._ends: dict[int, np.ndarray] = {}

    @abstractmethod
    def starts(self, length: int) -> np.ndarray:
        """How many windows of `length` transitions begin in each episode, (episodes,).

        Raises:
            UserError: there are none of this length.
        """

    @abstractmethod
    def cut(self, episode: np.ndarray, start: np.ndarray, length: int, generator: np.random.Generator) -> Windows:
        """The windows that start at transition `start` (B,) of `episode` (B,); `generator` is that of the draw."""

    def sample(self, batch: int, length: int) -> Windows:
        """`batch` windows of `length` transitions, with replacement.

        Raises:
            UserError: there are none of this length.
        """
        windows = self.draw(self._draws, batch, length)
        self.skip()
        return windows

    def skip(self) -> None:
        """Count a draw as made."""
        self._draws += 1

    def draw(self, number: int, batch: int, length: int) -> Windows:
        """Draw `number`, whatever was drawn before; see `sample`."""
        # A counter-based generator: seeking to draw n costs nothing.
        generator = np.random.Generator(np.random.Philox(key=self._seed, counter=[0, 0, 0, number]))
        which, start = self.choose(batch, length, generator)
        return self.cut(self.episodes[which], start, length, generator)

    def choose(self, batch: int, length: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Which of the episodes windows are from, and where they start there, both (batch,)."""
        ends = self.ends(length)
        flat = generator.integers(ends[-1], size=batch)
        which = np.searchsorted(ends, flat, side="right")
        return which, flat - np.where(which > 0, ends[which - 1], 0)

    def ends(self, length: int) -> np.ndarray:
        """How many windows of `length` transitions there are up to and including each episode, (episodes,).

        Raises:
            UserError: there are none of this length.
        """
        if length not in self._ends:
            self._ends[length] = np.cumsum(self.starts(length))
        return self._ends[length]

    def state(self) -> SamplerState:
        """What `restore` needs to continue from here."""
        return SamplerState(self._seed, self._draws)

    def restore(self, state: SamplerState) -> None:
        """Continue as the sampler that gave `state` would."""
        self._seed, self._draws = state.seed, state.draws


class WindowSampler(Sampler):
    """Windows that fit inside an episode of a store with these `columns`."""

    def __init__(self, columns: Columns, episodes: np.ndarray, seed: int) -> None:
        super().__init__(episodes, seed)
        self._columns = columns

    def starts(self, length: int) -> np.ndarray:
        return _num_starts(self._columns, self.episodes, length)

    def cut(self, episode: np.ndarray, start: np.ndarray, length: int, generator: np.random.Generator) -> Windows:
        return gather(self._columns, episode, start, length)


def all_windows(
    columns: Columns, episodes: np.ndarray, length: int, stride: int = 1, start: int = 0, most: int | None = None
) -> Windows:
    """Every window that starts at transition `start`, `start + stride`, ... of each episode and fits inside it.

    Ordered by episode as given, then by start.

    Args:
        most: keep so many, evenly spaced, if there are more; all when None.

    Raises:
        UserError: no episode is long enough.
    """
    if stride < 1 or start < 0:
        raise UserError(f"Windows need a stride of at least 1 and a start of at least 0, got {stride} and {start}.")
    episodes = np.asarray(episodes, dtype=np.int64)
    fits = _num_starts(columns, episodes, start + length)
    counts = -(-fits // stride)
    starts = [np.arange(count) * stride + start for count in counts]
    owner, begin = np.repeat(episodes, counts), np.concatenate(starts)
    if most is not None and len(begin) > most:
        kept = np.linspace(0, len(begin) - 1, most).round().astype(np.int64)
        owner, begin = owner[kept], begin[kept]
    return gather(columns, owner, begin, length)


def gather(columns: Columns, episode: np.ndarray, start: np.ndarray, length: int) -> Windows:
    """The windows of `length` transitions that start at transition `start` (B,) of `episode` (B,)."""
    rows = (columns.ep_offset[episode] + start)[:, None] + np.arange(length + 1)  # (B, K+1)
    steps = rows[:, :-1]

    def take(column: np.ndarray, at: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(column[at])

    return Windows(
        observations=take(columns.observation, rows),
        actions=take(columns.action, steps),
        rewards=take(columns.reward, steps),
        continues=take(columns.continues, steps),
        labels={name: take(label, steps) for name, label in columns.labels.items()},
        episode=torch.from_numpy(np.asarray(episode, dtype=np.int64)),
        start=torch.from_numpy(np.asarray(start, dtype=np.int64)),
    )


def _num_starts(columns: Columns, episodes: np.ndarray, length: int) -> np.ndarray:
    """How many windows of `length` transitions fit in each of `episodes`: (episodes,) int64."""
    if length < 1:
        raise UserError(f"A window needs at least 1 transition, got {length}.")
    if len(episodes) == 0:
        raise UserError("There is no episode to take windows from; record more episodes.")
    lengths = columns.ep_len[episodes]
    if lengths.max() < length:
        raise UserError(
            f"A window of {length} transitions does not fit: the longest of {len(episodes)} episodes has "
            f"{lengths.max()}; ask for a shorter window or record longer episodes."
        )
    return np.maximum(lengths - length + 1, 0)
