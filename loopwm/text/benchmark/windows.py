"""Windows over recorded episodes: what a system is shown, which actions follow, and what it is asked for.

A window of an episode begins at some t: its context ends at o_t, its actions are a_t ... a_{t+K-1} and its targets
o_{t+1} ... o_{t+K}. A track says how much of the episode the context holds, and what K is.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from loopwm.errors import UserError
from loopwm.text.recording import SPLITS, TextEpisode

STEPS = 5
"""K of every track but the one-step ones."""
MEMORY = 16
"""Transitions before o_t that the tracks `history` and `one-step` show."""


@dataclass(frozen=True)
class Track:
    """How much of an episode a system may see, and how far it is to predict.

    Attributes:
        name: what it is called on the command line.
        memory: transitions before o_t that are shown; None for all of them.
        initial: the complete initial state in words is shown as well.
        steps: K, the number of actions.
    """

    name: str
    memory: int | None
    initial: bool
    steps: int


TRACKS = {
    track.name: track
    for track in (
        Track("markov", memory=0, initial=False, steps=STEPS),
        Track("history", memory=MEMORY, initial=False, steps=STEPS),
        Track("full", memory=None, initial=True, steps=STEPS),
        Track("one-step", memory=MEMORY, initial=False, steps=1),
        Track("one-step-full", memory=None, initial=True, steps=1),
    )
}


def find_track(name: str) -> Track:
    """The track of that name.

    Raises:
        UserError: there is none.
    """
    if name not in TRACKS:
        raise UserError(f"There is no track '{name}'; choose one of {', '.join(TRACKS)}.")
    return TRACKS[name]


@dataclass(frozen=True)
class Context:
    """All that a system may read before it predicts. Nothing after o_t is in it.

    Attributes:
        description: the task in words.
        observations: o_{t-m} ... o_t, m + 1 texts with m = min(memory, t).
        actions: a_{t-m} ... a_{t-1}, m texts.
        initial: the complete initial state in words; empty where the track does not show it.
    """

    description: str
    observations: tuple[str, ...]
    actions: tuple[str, ...]
    initial: str = ""

    @property
    def now(self) -> str:
        """o_t, the latest observation."""
        return self.observations[-1]


@dataclass(frozen=True)
class Window:
    """One question to a system, with its answer.

    Attributes:
        episode: index of the episode in the sequence that was sampled from; what intervals resample.
        time: t.
        game, task_type: of the episode.
        context: what may be read.
        actions: a_t ... a_{t+K-1}.
        targets: o_{t+1} ... o_{t+K}.
    """

    episode: int
    time: int
    game: str
    task_type: str
    context: Context
    actions: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class WindowConfig:
    """Which windows are asked for.

    Attributes:
        track: how much of an episode is shown: markov, history, full, one-step or one-step-full.
        split: episodes of this split: `validation` while tuning, `test` once per release.
        actors: episodes of these actors; none named is all.
        per_type: windows drawn of every task type, all of them where there are fewer; 0 for all.
        seed: of the draw of windows.
    """

    track: str = "history"
    split: str = "validation"
    actors: tuple[str, ...] = ("gold", "expert")
    per_type: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        find_track(self.track)
        if self.split not in SPLITS:
            raise UserError(f"There is no split '{self.split}'; choose one of {', '.join(SPLITS)}.")
        if self.per_type < 0:
            raise UserError(f"{self.per_type} windows of every task type cannot be drawn; 0 takes all.")


def cut(episode: TextEpisode, number: int, time: int, track: Track) -> Window:
    """The window of `episode` (the `number`-th of its sequence) whose context ends at o_time.

    Raises:
        UserError: fewer than K actions follow.
    """
    end = time + track.steps
    if not 0 <= time <= episode.length - track.steps:
        raise UserError(
            f"The episode of {episode.game} has {episode.length} actions; a window of {track.steps} cannot begin at "
            f"step {time}."
        )
    first = 0 if track.memory is None else max(0, time - track.memory)
    context = Context(
        description=episode.description,
        observations=episode.observations[first : time + 1],
        actions=episode.actions[first:time],
        initial=episode.initial if track.initial else "",
    )
    return Window(
        episode=number,
        time=time,
        game=episode.game,
        task_type=episode.task_type,
        context=context,
        actions=episode.actions[time:end],
        targets=episode.observations[time + 1 : end + 1],
    )


def sample_windows(episodes: Sequence[TextEpisode], config: WindowConfig | None = None) -> list[Window]:
    """A frozen sample: the same windows for the same episodes and config, whatever the order of the episodes.

    Windows are ranked by a digest of seed, episode and t, and the first of every task type are taken, so a larger
    sample holds the smaller one. The order of the result is that of the episodes.

    Raises:
        UserError: no episode of that split is long enough, or the track needs initial states that were not recorded.
    """
    config = config or WindowConfig()
    track = find_track(config.track)
    places: dict[str, list[tuple[bytes, int, int]]] = defaultdict(list)
    eligible = [
        (number, episode)
        for number, episode in enumerate(episodes)
        if episode.split == config.split and (not config.actors or episode.actor in config.actors)
    ]
    for number, episode in eligible:
        if track.initial and not episode.initial:
            raise UserError(
                f"The track '{track.name}' shows the complete initial state, which the episode of {episode.game} does "
                "not have; record it again with the initial state, or choose another track."
            )
        key = _identity(episode, config.seed)
        for time in range(episode.length - track.steps + 1):
            rank = hashlib.blake2b(b"%d" % time, key=key, digest_size=8).digest()
            places[episode.task_type].append((rank, number, time))
    if not places:
        whose = " or ".join(config.actors) or "anyone"
        raise UserError(
            f"There is no window of {track.steps} actions: {len(eligible)} of the {len(episodes)} episodes are of the "
            f"split {config.split} and by {whose}; record more, or choose another split."
        )
    taken = [place for found in places.values() for place in sorted(found)[: config.per_type or None]]
    return [cut(episodes[number], number, time, track) for _, number, time in sorted(taken, key=lambda one: one[1:])]


def refuse_overlap(windows: Sequence[Window], training: Sequence[TextEpisode]) -> None:
    """Refuse windows of games that were trained on.

    Raises:
        UserError: there are such windows.
    """
    known = {episode.game for episode in training}
    shared = sorted({window.game for window in windows} & known)
    if shared:
        raise UserError(
            f"{len(shared)} of the games asked about are among the training episodes, such as {shared[0]}; take "
            "windows of another split."
        )


def hold_out(episodes: Sequence[TextEpisode], share: float, seed: int = 0) -> list[TextEpisode]:
    """The training episodes again, those of about `share` of the games now of the split `validation`.

    For recordings without held-out games of their own. A game is held out by its name and the seed alone.

    Raises:
        UserError: `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise UserError(f"A share of {share} of the games cannot be held out; give one between 0 and 1.")
    training = [episode for episode in episodes if episode.split == "train"]
    return [
        replace(episode, split="validation") if is_held_out(episode.game, share, seed) else episode
        for episode in training
    ]


def is_held_out(game: str, share: float, seed: int = 0) -> bool:
    """Whether a game is among those that `hold_out` holds out; what records worlds asks the same."""
    digest = hashlib.blake2b(f"{seed}:{game}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


def _identity(episode: TextEpisode, seed: int) -> bytes:
    """What sets an episode apart from all others, 32 bytes."""
    words = "\n".join((str(seed), episode.game, episode.actor, str(episode.seed), *episode.actions))
    return hashlib.blake2b(words.encode(), digest_size=32).digest()
