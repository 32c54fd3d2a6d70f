"""A folder of `.npz` files, an episode each."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from loopwm.data.episode import Episode
from loopwm.data.formats.guess import ActionRange, action_spec, observation_spec
from loopwm.data.formats.source import Part, Source, read_side_file, write_side_file
from loopwm.data.meta import StoreMeta
from loopwm.errors import LoopwmError, UserError
from loopwm.files import refuse_existing

ENDED = ("terminated", "terminations", "terminals")
"""Keys that say whether the last transition ended the task: one truth value, or one per transition."""
KNOWN = {"observations", "next_observations", "actions", "rewards", "truncations", "timeouts", "seed", *ENDED}


class NpzFormat:
    """`observations` (L+1, *S) and `actions` (L, A) or (L,), and if there are any `rewards` (L,), `terminated`, `seed`;
    every other array (L,) is a label."""

    name = "npz"

    def detect(self, path: Path) -> bool:
        """A folder with `.npz` files in it, or a folder still to be written."""
        return any(path.glob("*.npz")) if path.is_dir() else not path.exists() and path.suffix == ""

    def read(self, path: Path) -> Source:
        """In the order of the names.

        Raises:
            UserError: there is no episode, or files that do not fit each other.
        """
        files = sorted(path.glob("*.npz"))
        if not files:
            raise UserError(f"{path} holds no .npz files.")
        meta = read_side_file(path) or guessed(path, files)
        parts = [Part(str(file), partial(read_episode, file, meta)) for file in files]
        return Source(meta, lambda: iter(parts), lambda: len(parts))

    def write(self, path: Path, meta: StoreMeta, episodes: Iterable[Episode]) -> None:
        """A new folder.

        Raises:
            UserError: `path` exists.
        """
        refuse_existing(path, "choose another folder or remove it")
        aside = path.with_name(path.name + ".part")
        try:
            aside.mkdir(parents=True)
            write_side_file(aside, meta)
            for index, episode in enumerate(episodes):
                columns = {
                    "observations": episode.observations,
                    "actions": episode.actions,
                    "rewards": episode.rewards,
                    "terminated": np.bool_(episode.terminated),
                    "seed": np.int64(episode.seed),
                }
                arrays: dict[str, Any] = {**columns, **episode.labels}
                np.savez_compressed(aside / f"episode{index:06d}.npz", **arrays)
            aside.rename(path)
        except OSError as error:
            raise LoopwmError(f"{path} could not be written: {error}.") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def guessed(path: Path, files: list[Path]) -> StoreMeta:
    """What the files say themselves. All of them are looked at, as any may hold the largest action."""
    spec, labels, ranges = None, (), []
    for file in files:
        columns = read_columns(file)
        found = observation_spec(columns["observations"])
        if spec is None:
            spec = found
            labels = tuple(name for name in columns if name not in KNOWN)
        elif found.shape != spec.shape or found.kind != spec.kind:
            raise UserError(
                f"{files[0]} has observations of shape {spec.shape} and {file} of shape {found.shape}; one folder "
                "holds one world."
            )
        ranges.append(ActionRange.of(columns["actions"]))
        if ranges[-1].size != ranges[0].size:
            raise UserError(
                f"{files[0]} has {ranges[0].size} number(s) per action and {file} has {ranges[-1].size}; one folder "
                "holds one world."
            )
    assert spec is not None
    return StoreMeta(f"logs:{path.name}", spec, action_spec(ranges), labels)


def read_columns(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a file.

    Raises:
        UserError: unreadable, or without observations or actions.
    """
    try:
        # Opened here, because NumPy leaves a file open that it cannot read.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            columns = {name: content[name] for name in content.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(
            f"{file} cannot be read as an .npz file ({error}); it may be truncated: write it again."
        ) from error
    for name in ("observations", "actions"):
        if name not in columns:
            raise UserError(f"{file} has no array called '{name}'; it has {', '.join(columns) or 'none'}.")
        if not columns[name].ndim:
            raise UserError(f"{file} has a single number called '{name}' instead of one row per step.")
    return columns


def read_episode(file: Path, meta: StoreMeta) -> Episode:
    """The episode of a file.

    Raises:
        UserError: it is none, or it does not fit `meta`.
    """
    columns = read_columns(file)
    return episode_of(columns, meta)


def episode_of(columns: dict[str, np.ndarray], meta: StoreMeta) -> Episode:
    """An episode from named arrays, with the names that logs have.

    Raises:
        UserError: arrays that do not fit each other, or `meta`.
    """
    actions = np.asarray(columns["actions"])
    length = len(actions)
    observations = np.asarray(columns["observations"])
    if len(observations) == length and len(columns.get("next_observations", ())) == length > 0:
        observations = np.concatenate([observations, columns["next_observations"][-1:]])
    if observations.shape[1:] != meta.observation.shape:
        raise UserError(f"observations have shape {observations.shape[1:]}, those before {meta.observation.shape}.")
    missing = [name for name in meta.label_names if name not in columns]
    if missing:
        raise UserError(f"there is no label '{missing[0]}', which the others have.")
    kind = np.uint8 if meta.observation.kind == "image" else np.float32
    ended = next((np.atleast_1d(columns[name]) for name in ENDED if name in columns), np.zeros(1, bool))
    return Episode(
        observations=observations.astype(kind),
        actions=actions.reshape(length, int(np.prod(actions.shape[1:]))).astype(np.float32),
        rewards=np.asarray(columns.get("rewards", np.zeros(length)), np.float32),
        terminated=bool(ended[-1]) if len(ended) else False,
        labels={name: np.asarray(columns[name], np.float32) for name in meta.label_names},
        seed=int(columns.get("seed", -1)),
    )
