"""A folder of `.npz` files, an episode each."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from loopwm.data.episode import Episode
from loopwm.data.formats.guess import guessed
from loopwm.data.formats.source import Part, Source, read_side_file, write_side_file
from loopwm.data.meta import StoreMeta
from loopwm.errors import UserError
from loopwm.files import atomic_folder, refuse_existing

ENDED = ("terminated", "terminations", "terminals")
"""Keys that say whether the last transition ended the task: one truth value, or one per transition."""
CUT = ("truncated", "truncations", "timeouts")
"""Keys that say, in the same form, whether time ran out."""
KNOWN = {"observations", "next_observations", "actions", "rewards", "seed", *ENDED, *CUT}


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
        meta = read_side_file(path) or guessed(path, ((str(file), partial(_looked_at, file)) for file in files))
        parts = [Part(str(file), partial(read_episode, file, meta)) for file in files]
        return Source(meta, lambda: iter(parts), lambda: len(parts))

    def write(self, path: Path, meta: StoreMeta, episodes: Iterable[Episode]) -> None:
        """A new folder.

        Raises:
            UserError: `path` exists.
        """
        refuse_existing(path, "choose another folder or remove it")
        with atomic_folder(path) as aside:
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


def _looked_at(file: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    columns = read_columns(file)
    return columns["observations"], columns["actions"], tuple(name for name in columns if name not in KNOWN)


def read_columns(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a file.

    Raises:
        UserError: unreadable, or without observations or actions.
    """
    try:
        with file.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise UserError(
                    "this cannot be read as an .npz file; it is truncated or something else, write it again."
                )
            stream.seek(0)
            # Opened here, because NumPy leaves a file open that it cannot read.
            with np.load(stream, allow_pickle=False) as content:
                columns = {name: content[name] for name in content.files}
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(
            f"this cannot be read as an .npz file ({error}); it is damaged, or holds more than arrays of numbers: "
            "write it again."
        ) from error
    for name in ("observations", "actions"):
        if name not in columns:
            raise UserError(f"there is no array called '{name}', only {', '.join(columns) or 'none'}.")
        if not columns[name].ndim:
            raise UserError(f"'{name}' is a single number instead of one row per step.")
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
    actions, observations = columns["actions"], _with_final(columns)
    length, numbers_each = len(actions), int(np.prod(actions.shape[1:]))
    if observations.shape[1:] != meta.observation.shape:
        raise UserError(f"observations have shape {observations.shape[1:]} and should have {meta.observation.shape}.")
    if numbers_each != meta.action.stored_size:
        raise UserError(f"actions have {numbers_each} number(s) each and should have {meta.action.stored_size}.")
    missing = [name for name in meta.label_names if name not in columns]
    if missing:
        raise UserError(f"there is no label '{missing[0]}', which the others have.")
    if meta.observation.kind == "image" and observations.dtype != np.uint8:
        raise UserError(f"images are of type {observations.dtype} and should be uint8, from 0 to 255.")
    _marked(columns, CUT, length)
    return Episode(
        observations=observations if meta.observation.kind == "image" else _numbers("observations", observations),
        actions=_numbers("actions", actions).reshape(length, numbers_each),
        rewards=_numbers("rewards", columns.get("rewards", np.zeros(length))),
        terminated=_marked(columns, ENDED, length),
        labels={name: _numbers(name, columns[name]) for name in meta.label_names},
        seed=_seed(columns),
    )


def _with_final(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Observations (L+1, *S), the last of which may stand among those that came next."""
    observations, following = columns["observations"], columns.get("next_observations")
    length = len(columns["actions"])
    if following is None or not len(observations) == len(following) == length > 0:
        return observations
    if observations.shape != following.shape:
        raise UserError(f"observations have shape {observations.shape}, next_observations {following.shape}.")
    if not np.allclose(_numbers("observations", observations[1:]), _numbers("next_observations", following[:-1])):
        raise UserError(
            "next_observations are not the observations that come next; the steps of one episode have to be in order."
        )
    return np.concatenate([observations, following[-1:]])


def _marked(columns: dict[str, np.ndarray], keys: tuple[str, ...], length: int) -> bool:
    """Whether the last transition is marked under the one of the keys that is there; nothing before it may be."""
    name = next((name for name in keys if name in columns), None)
    if name is None or not length:
        return False
    marks = np.atleast_1d(_numbers(name, columns[name])) != 0
    if marks.shape not in ((1,), (length,)):
        raise UserError(
            f"{name} has shape {marks.shape}; give one for the episode, or one for each of {length} actions."
        )
    if marks[:-1].any():
        raise UserError(
            f"{name} marks step {int(marks.argmax())} of {length}, after which this goes on: write every episode on "
            "its own."
        )
    return bool(marks.any())


def _numbers(name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        raise UserError(f"'{name}' is of type {values.dtype} instead of numbers; convert it, or leave it out.")
    # What is too large becomes infinite, and is refused as such.
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _seed(columns: dict[str, np.ndarray]) -> int:
    seed = np.asarray(columns.get("seed", -1))
    if seed.size != 1 or seed.dtype.kind not in "iuf" or not np.isfinite(seed).all():
        raise UserError(
            f"'seed' of shape {seed.shape} and type {seed.dtype} is no whole number; give one for the episode."
        )
    return int(seed.reshape(()))
