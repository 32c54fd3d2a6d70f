"""What is wrong with a recording, all of it: what training would refuse, and what it would learn without complaint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from loopwm.data.episode import Episode, identity
from loopwm.data.formats.source import Source
from loopwm.data.split import assign
from loopwm.errors import UserError
from loopwm.spaces import ActionSpec

SPLITS = ("train", "validation", "test")


@dataclass
class Report:
    """What was found.

    Attributes:
        problems: one sentence each, with the file and the episode.
        episodes, transitions: that could be read. lengths: of the episodes. sound: episodes without a problem.
        splits: episodes in train, validation, test.
    """

    problems: list[str] = field(default_factory=list)
    episodes: int = 0
    sound: int = 0
    transitions: int = 0
    lengths: list[int] = field(default_factory=list)
    splits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))


def check(source: Source) -> Report:
    """Read everything and report what is wrong with it."""
    report = Report()
    seen: dict[bytes, str] = {}
    begun: dict[bytes, str] = {}
    for part in source.parts():
        try:
            episode = part.load()
        except UserError as error:
            report.problems.append(f"{part.where}: {error}")
            continue
        report.episodes += 1
        report.transitions += episode.length
        report.lengths.append(episode.length)
        mark = identity(episode, source.meta.observation)
        report.splits[SPLITS[int(assign([mark])[0])]] += 1
        found = of_episode(episode, source.meta.action)
        twin = seen.setdefault(mark, part.where)
        # Two copies of which one was cut short are different to a hash, and may end up in train and in test.
        other = begun.setdefault(beginning(episode), part.where)
        if twin != part.where:
            found.append(f"the same episode as {twin}.")
        elif other != part.where:
            found.append(
                f"begins exactly like {other}, for {min(COMPARED, episode.length)} transitions; copies cut short may "
                "be in train and in test at once."
            )
        report.sound += not found
        report.problems += [f"{part.where}: {problem}" for problem in found]
    if not report.episodes and not report.problems:
        report.problems.append("There are no episodes.")
    for split, count in report.splits.items():
        if report.episodes and not count:
            report.problems.append(f"No episode falls into {split}; record more.")
    return report


COMPARED = 4
"""Transitions by which episodes are compared."""


def beginning(episode: Episode) -> bytes:
    """A hash of the first transitions."""
    steps = min(COMPARED, episode.length)
    start = episode.observations[: steps + 1].tobytes() + episode.actions[:steps].tobytes()
    return hashlib.blake2b(start, digest_size=16).digest()


def of_episode(episode: Episode, action: ActionSpec) -> list[str]:
    """What is wrong with a single episode, beyond what makes it none."""
    problems = []
    if action.choices:
        wrong = (episode.actions % 1 != 0) | (episode.actions < 0) | (episode.actions >= np.array(action.choices))
        what = f"choices are whole numbers below {', '.join(map(str, action.choices))}"
    else:
        # Bounds are stored in float32 and float64 by turns.
        slack = 1e-5 * np.maximum(1.0, np.abs(episode.actions))
        wrong = (episode.actions < np.array(action.low) - slack) | (episode.actions > np.array(action.high) + slack)
        what = "it lies outside the action space"
    if wrong.any():
        step = int(wrong.any(axis=1).argmax())
        problems.append(f"the action of step {step} is {episode.actions[step].tolist()}: {what}.")
    still = (episode.observations[1:] == episode.observations[:-1]).reshape(episode.length, -1).all(axis=1)
    if still.all() and episode.length > 1:
        problems.append("nothing is ever seen to change.")
    elif still[-1] and not still[:-1].any() and episode.length > 2:
        problems.append(
            "the last observation is the one before it again, and no other is: was the final observation lost, and the "
            "last one written twice?"
        )
    return problems
