"""What a text recording holds, and what is wrong with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loopwm.text.recording import SPLITS, TextEpisode, TextManifest

if TYPE_CHECKING:
    from rich.table import Table


def tables(path: Path, manifest: TextManifest, episodes: Sequence[TextEpisode]) -> list[Table]:
    """Where it is from, who played what, how long texts are, and the kinds of tasks."""
    return [_origin(path, manifest, episodes), _played(episodes), _words(episodes), _tasks(episodes)]


def problems(episodes: Sequence[TextEpisode]) -> list[str]:
    """One sentence for each: episodes that are there twice, games in several splits, texts without a word."""
    found: list[str] = []
    known: set[TextEpisode] = set()
    splits: dict[str, set[str]] = defaultdict(set)
    for number, episode in enumerate(episodes):
        where = f"episode {number} ({episode.game} by {episode.actor})"
        if episode in known:
            found.append(f"{where} is there twice.")
        known.add(episode)
        splits[episode.game].add(episode.split)
        for kind, texts in (("observation", episode.observations), ("action", episode.actions)):
            empty = [step for step, text in enumerate(texts) if not text.strip()]
            if empty:
                found.append(f"{where} has no words in {kind} {empty[0]}.")
    shared = [f"{game} ({', '.join(sorted(where))})" for game, where in splits.items() if len(where) > 1]
    return found + [f"The game {one} is in several splits, so what is held out is trained on." for one in shared]


def _table(title: str, *heads: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left")
    return table


def _origin(path: Path, manifest: TextManifest, episodes: Sequence[TextEpisode]) -> Table:
    table = _table(str(path), "", "what")
    table.columns[1].justify = "left"
    features = {
        "initial state": all(one.initial for one in episodes),
        "look": all(one.looks for one in episodes),
        "inventory": all(one.inventories for one in episodes),
    }
    table.add_row("world", manifest.world)
    table.add_row("digest", manifest.digest)
    table.add_row("made by", manifest.command)
    table.add_row("versions", ", ".join(f"{name} {one}" for name, one in manifest.versions.items()) or "-")
    table.add_row("also recorded", ", ".join(name for name, there in features.items() if there) or "-")
    return table


def _played(episodes: Sequence[TextEpisode]) -> Table:
    table = _table(
        "Episodes", "split, actor", "games", "episodes", "transitions", "length, median", "longest", "ended", "score"
    )
    groups: dict[tuple[int, str], list[TextEpisode]] = defaultdict(list)
    for episode in episodes:
        groups[SPLITS.index(episode.split), episode.actor].append(episode)
    for (split, actor), some in sorted(groups.items()):
        lengths = [one.length for one in some]
        table.add_row(
            f"{SPLITS[split]}, {actor}",
            f"{len({one.game for one in some}):,}",
            f"{len(some):,}",
            f"{sum(lengths):,}",
            f"{np.median(lengths):.0f}",
            f"{max(lengths)}",
            f"{np.mean([one.terminated for one in some]):.0%}",
            f"{np.mean([one.scores[-1] for one in some]):.1f}",
        )
    return table


def _words(episodes: Sequence[TextEpisode]) -> Table:
    table = _table(
        "Words, separated by space", "text", "texts", "different texts", "median", "longest", "different words"
    )
    rows = {
        "observation": [text for one in episodes for text in one.observations],
        "action": [text for one in episodes for text in one.actions],
        "task": [one.description for one in episodes],
        "initial state": [one.initial for one in episodes if one.initial],
    }
    for name, texts in rows.items():
        if texts:
            counts = [len(text.split()) for text in texts]
            different = set(texts)
            words = {word for text in different for word in text.split()}
            row = len(texts), len(different), int(np.median(counts)), max(counts), len(words)
            table.add_row(name, *(f"{number:,}" for number in row))
    return table


def _tasks(episodes: Sequence[TextEpisode]) -> Table:
    table = _table("Episodes by task type", "task type", *SPLITS)
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * len(SPLITS))
    for episode in episodes:
        counts[episode.task_type][SPLITS.index(episode.split)] += 1
    for kind, row in sorted(counts.items()):
        table.add_row(kind, *(f"{count:,}" for count in row))
    return table
