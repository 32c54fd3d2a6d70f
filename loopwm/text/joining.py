"""Several recordings of one text world as one, such as of experts and of actors that err."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loopwm.errors import UserError
from loopwm.files import refuse_existing
from loopwm.text.recording import TextEpisode, TextManifest, read_recording, write_recording


def join(sources: Sequence[Path], out: Path) -> TextManifest:
    """Write the episodes of all `sources`, in their order, to the new recording `out`.

    Raises:
        UserError: a file cannot be read, `out` exists, the worlds or the versions they were recorded with differ, an
            episode is there twice, or a game is trained on in one file and held out in another.
        LoopwmError: the disk refused.
    """
    refuse_existing(out, "choose another path or remove it")
    manifests: list[tuple[Path, TextManifest]] = []
    episodes: list[TextEpisode] = []
    for path in sources:
        manifest, found = read_recording(path)
        manifests.append((path, manifest))
        episodes += found
    for field in ("world", "versions"):
        (first, one), *others = manifests
        for path, other in others:
            if getattr(other, field) != getattr(one, field):
                raise UserError(
                    f"{first} and {path} differ in {field}: {getattr(one, field)} and {getattr(other, field)}; join "
                    "recordings of one world, made with the same versions."
                )
    _check(episodes)
    command = " && ".join(
        [
            *(one.command for _, one in manifests),
            shlex.join(["loopwm", "data", "join", *map(str, sources), "--out", str(out)]),
        ]
    )
    return write_recording(out, episodes, replace(manifests[0][1], command=command))


def _check(episodes: Sequence[TextEpisode]) -> None:
    known: set[TextEpisode] = set()
    splits: dict[str, str] = {}
    for episode in episodes:
        if episode in known:
            raise UserError(f"An episode of {episode.game} by {episode.actor} is there twice; leave one file out.")
        known.add(episode)
        split = splits.setdefault(episode.game, episode.split)
        if split != episode.split:
            raise UserError(
                f"{episode.game} is of the split {split} in one recording and of {episode.split} in another, so what "
                "is held out would be trained on; record them with the same splits."
            )
