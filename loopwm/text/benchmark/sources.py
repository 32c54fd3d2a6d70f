"""Recordings as the benchmark takes them: several files of one world."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loopwm.errors import UserError
from loopwm.text.recording import TextEpisode, read_recording


def read_world(paths: Sequence[Path]) -> tuple[str, dict[str, str], list[TextEpisode]]:
    """The world, the digest of each file by its name, and all episodes in the order of the files.

    Raises:
        UserError: a file cannot be read, the files are of different worlds, or two have one name.
    """
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"Two of the recordings are called {twice}; rename one, so that results can tell them apart.")
    worlds: dict[str, Path] = {}
    digests: dict[str, str] = {}
    episodes: list[TextEpisode] = []
    for path in paths:
        manifest, found = read_recording(path)
        worlds.setdefault(manifest.world, path)
        digests[path.name] = manifest.digest
        episodes += found
    if len(worlds) > 1:
        named = " and ".join(f"{path} ({world})" for world, path in worlds.items())
        raise UserError(f"The recordings are of different worlds: {named}; give recordings of one.")
    return next(iter(worlds)), digests, episodes
