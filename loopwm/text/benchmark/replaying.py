"""Replay noise: how often the world itself answers otherwise when the same actions are taken once more.

A model that knows everything cannot do better than the world repeats itself. Every recorded episode is played from its
beginning in the real world; an answer that differs counts, and so do those that follow from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loopwm.errors import LoopwmError, UserError
from loopwm.text.benchmark.aggregate import Aggregate, Aggregator
from loopwm.text.benchmark.listings import normalised, unordered
from loopwm.text.crew import Crew, Job, LeftOut, MakeWorld
from loopwm.text.recording import TextEpisode
from loopwm.text.worlds.world import TextWorld


@dataclass(frozen=True)
class ReplayNoise:
    """How often replaying the same actions gives another observation.

    Attributes:
        differs: share of the steps. unordered: the same, lists sorted.
        games: task type -> episodes played again.
    """

    differs: Aggregate
    unordered: Aggregate
    games: dict[str, int]


class Replaying:
    """A `TextWorld` whose games are recorded episodes, and whose players do what was done there.

    Args:
        make: makes the world they are from. episodes: of it; game k is the k-th.
    """

    def __init__(self, make: MakeWorld, episodes: Sequence[TextEpisode]) -> None:
        self._world: TextWorld = make()
        self._episodes = episodes
        self.name, self.packages, self.patience = self._world.name, self._world.packages, self._world.patience

    def games(self) -> list[str]:
        """Their numbers."""
        return [str(number) for number in range(len(self._episodes))]

    def play(self, game: str, actor: str, seed: int) -> TextEpisode:
        """The episode as it goes now; scores, and what is beside the observations, stay as recorded.

        Raises:
            LoopwmError: the world cannot be played so, or ends earlier than it did.
        """
        recorded = self._episodes[int(game)]
        answers = self._world.replay(recorded.game, recorded.actions)
        if len(answers) != recorded.length:
            raise LoopwmError(f"{recorded.game} ended after {len(answers)} of {recorded.length} actions.")
        return replace(recorded, observations=(recorded.observations[0], *answers))

    def replay(self, game: str, actions: Sequence[str]) -> list[str]:
        """Of the world itself."""
        return self._world.replay(game, actions)

    def close(self) -> None:
        """Close the world."""
        self._world.close()


def replayed(
    make: Callable[[], Replaying], episodes: Sequence[TextEpisode], workers: int, advance: Callable[[int, int], None]
) -> tuple[dict[int, TextEpisode], list[LeftOut]]:
    """Episodes as they go now, by their numbers, and those that could not be played.

    Args:
        make: makes the world of these episodes; picklable. advance: called with (done, in total) after each.

    Raises:
        UserError: the world cannot be made.
    """
    world = make()
    patience = world.patience
    world.close()
    jobs = [Job(number, str(number), one.actor, one.seed) for number, one in enumerate(episodes)]
    again: dict[int, TextEpisode] = {}
    left_out: list[LeftOut] = []
    advance(0, len(jobs))
    for done in Crew(make, workers, patience).play(jobs):
        if isinstance(done, LeftOut):
            left_out.append(done)
        else:
            again[done[0].number] = done[1]
        advance(len(again) + len(left_out), len(jobs))
    return again, left_out


def replay_noise(
    recorded: Sequence[TextEpisode],
    again: Mapping[int, TextEpisode],
    mix: Mapping[str, float],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> ReplayNoise:
    """Compare episodes with how they went again, by their numbers.

    Args:
        mix: task type -> weight.

    Raises:
        UserError: none went again.
    """
    types: list[str] = []
    owners: list[int] = []
    differ: list[tuple[bool, bool]] = []
    for number, other in sorted(again.items()):
        one = recorded[number]
        for first, second in zip(one.observations[1:], other.observations[1:], strict=True):
            types.append(one.task_type)
            owners.append(number)
            differ.append((normalised(first) != normalised(second), unordered(first) != unordered(second)))
    if not differ:
        raise UserError("None of the episodes could be played again, so there is no replay to compare.")
    aggregator = Aggregator(types, owners, mix, resamples=resamples, seed=seed)
    plain, sorted_lists = aggregator.aggregate(np.array(differ, dtype=np.float64))
    return ReplayNoise(plain, sorted_lists, aggregator.episodes)


def read_noise(path: Path, digests: Mapping[str, str], split: str) -> ReplayNoise:
    """What `loopwm benchmark replay` wrote.

    Args:
        digests: of recordings, one of which it has to be of. split: of them, which it has to be of.

    Raises:
        UserError: the file is not there or not such a file, or is of another recording or split.
    """
    # Takes long to import, and the options of the command need the rest of this module.
    from pydantic import TypeAdapter

    try:
        content = json.loads(path.read_text())
        noise = TypeAdapter(ReplayNoise).validate_python(content["noise"])
        known, replayed = dict(content["recordings"]), str(content["split"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not what loopwm benchmark replay writes ({error}).") from None
    if not set(known.values()) & set(digests.values()):
        raise UserError(f"{path} is of another recording, {' '.join(known)}; replay this one.")
    if replayed != split:
        raise UserError(f"{path} is of the split {replayed}, not of {split}; replay that one.")
    return noise
