"""The trajectory store: one HDF5 file of flat columns, written atomically and checked completely when opened.

An episode of L transitions occupies L + 1 consecutive rows; `ep_offset` is the row of its o_0 and `ep_len` is L.
Row `ep_offset + k` holds o_k and the transition that leaves it: a_k, r_k, c_k and the labels. The final row holds only
an observation; its transition columns are zero and never read.

    observation (rows, *S)   action (rows, A)   reward (rows,)   continue (rows,)   label/<name> (rows,)      float32
                             (an observation that is an image: uint8, gzip)
    ep_len  ep_offset  ep_seed  (episodes,) int64       ep_terminated (episodes,) bool       attribute `loopwm`: JSON
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import h5py
import numpy as np

from loopwm.data import split as splits
from loopwm.data.episode import Episode, first_not_finite, identity
from loopwm.data.meta import ATTRIBUTE, TIME_CONVENTION, StoreMeta, read_meta
from loopwm.errors import UserError
from loopwm.files import atomic_write, refuse_existing
from loopwm.interrupts import interrupted_between
from loopwm.text.recording import is_recording, missing

if TYPE_CHECKING:
    from typing_extensions import Buffer

_ROWS_PER_FLUSH = 4096


class EpisodeWriter:
    """Appends episodes to an open HDF5 file, holding at most a few thousand rows in memory.

    Use `write_store`, which adds atomicity; call `finish` after the last episode.
    """

    def __init__(self, file: h5py.File, meta: StoreMeta) -> None:
        self._file, self._meta = file, meta
        self._pending: list[Episode] = []
        self._pending_rows = 0
        self._lengths: list[int] = []
        self._seeds: list[int] = []
        self._terminated: list[bool] = []
        file.attrs[ATTRIBUTE] = meta.to_json()
        for name, shape in meta.column_shapes().items():
            size, dtype = int(np.prod(shape, dtype=np.int64)), meta.column_type(name)
            # About 64 KiB a chunk; the checksum turns a damaged disk into an error instead of a wrong number. Frames of
            # an episode resemble each other, so more of them together compress better; any reader knows gzip.
            image = dtype == np.uint8
            file.create_dataset(
                name,
                (0, *shape),
                dtype,
                maxshape=(None, *shape),
                chunks=(max(1, (2**18 if image else 2**14) // size), *shape),
                compression="gzip" if image else None,
                compression_opts=1 if image else None,
                fletcher32=True,
            )

    def append(self, episode: Episode) -> None:
        """Add one episode.

        Raises:
            UserError: its shapes or labels disagree with the metadata.
        """
        meta, number = self._meta, len(self._lengths)
        expected = (episode.length, meta.action.stored_size)
        if episode.observations.shape[1:] != meta.observation.shape or episode.actions.shape != expected:
            raise UserError(
                f"Episode {number} has observations of shape {episode.observations.shape[1:]} and actions of shape "
                f"{episode.actions.shape[1:]}, the store expects {meta.observation.shape} and {expected[1:]}."
            )
        if meta.observation.kind == "image" and episode.observations.dtype != np.uint8:
            raise UserError(
                f"Episode {number} has images of type {episode.observations.dtype}, the store expects uint8, from 0 to "
                "255; scale and round them."
            )
        if set(episode.labels) != set(meta.label_names):
            raise UserError(
                f"Episode {number} has the labels {sorted(episode.labels)}, the store expects {list(meta.label_names)}."
            )
        self._pending.append(episode)
        self._pending_rows += episode.length + 1
        self._lengths.append(episode.length)
        self._seeds.append(episode.seed)
        self._terminated.append(episode.terminated)
        if self._pending_rows >= min(_ROWS_PER_FLUSH, meta.rows_at_once):
            self._flush()

    def finish(self) -> None:
        """Write what is pending and the episode table.

        Raises:
            UserError: no episode was appended.
        """
        if not self._lengths:
            raise UserError("A store needs at least one episode, none was given.")
        self._flush()
        lengths = np.array(self._lengths, dtype=np.int64)
        self._file["ep_len"] = lengths
        self._file["ep_offset"] = np.cumsum(lengths + 1) - (lengths + 1)
        self._file["ep_seed"] = np.array(self._seeds, dtype=np.int64)
        self._file["ep_terminated"] = np.array(self._terminated, dtype=bool)

    def _flush(self) -> None:
        if not self._pending:
            return
        for name, shape in self._meta.column_shapes().items():
            block = np.zeros((self._pending_rows, *shape), dtype=self._meta.column_type(name))
            row = 0
            for episode in self._pending:
                values = _column(episode, name)
                block[row : row + len(values)] = values
                row += episode.length + 1
            dataset = _dataset(self._file, name)
            start = len(dataset)
            dataset.resize(start + len(block), axis=0)
            dataset[start:] = block
        self._pending, self._pending_rows = [], 0


def _column(episode: Episode, name: str) -> np.ndarray:
    match name.split("/"):
        case ["observation"]:
            return episode.observations
        case ["action"]:
            return episode.actions
        case ["reward"]:
            return episode.rewards
        case ["continue"]:
            return episode.continues
        case [_, label]:
            return episode.labels[label]
    raise KeyError(name)


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise KeyError(name)
    return dataset


def write_store(path: Path, episodes: Iterable[Episode], meta: StoreMeta) -> None:
    """Write `episodes`, as they come, to a new store at `path`; on any error nothing is left behind.

    Raises:
        UserError: `path` exists, no episode came, or one disagrees with `meta`.
        LoopwmError: the disk refused.
    """
    path = Path(path)
    refuse_existing(path, "choose another path or remove it")
    # HDF5 swallows an interrupt that comes while it writes, and goes on with zeros in place of what it was to write.
    with (
        atomic_write(path) as aside,
        _ForgivingFile(aside, "w+") as disk,
        interrupted_between(episodes) as remaining,
    ):
        with h5py.File(disk, "w") as file:
            writer = EpisodeWriter(file, meta)
            for episode in remaining:
                writer.append(episode)
                disk.check()
            writer.finish()
        disk.check()


class _ForgivingFile(io.FileIO):
    """A file that remembers that the disk refused and pretends to go on, until `check` raises what happened.

    The HDF5 library crashes the process when a write fails, at the latest when it closes its files on exit. So it never
    hears of it.
    """

    refusal: OSError | None = None

    def write(self, data: Buffer, /) -> int:
        """Write what is given to the file object; a refusal by the disk is kept for the caller."""
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view) and self.refusal is None:
            try:
                written += super().write(view[written:]) or 0
            except OSError as error:
                self.refusal = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.refusal = self.refusal or error
            return size or 0

    def check(self) -> None:
        """Raise the OSError that the disk answered with, if it did."""
        if self.refusal is not None:
            raise self.refusal


class Store:
    """A checked, read-only store. Use as a context manager, or `close` it."""

    def __init__(self, path: Path, file: h5py.File, meta: StoreMeta) -> None:
        self.path, self.meta = path, meta
        self._file = file
        self.ep_len = _read(file, "ep_len").astype(np.int64)
        self.ep_offset = _read(file, "ep_offset").astype(np.int64)
        self.seeds = _read(file, "ep_seed").astype(np.int64)
        self.terminated = _read(file, "ep_terminated").astype(bool)

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """Open and check everything: schema version, shapes, episode table, time convention, finiteness.

        Raises:
            UserError: the file is missing, unreadable, truncated, not a store, or breaks one of these rules.
        """
        path = Path(path)
        if not path.exists() and path.suffix == ".parquet":
            raise UserError(missing(path))
        if not path.exists():
            raise UserError(
                f"There is no store at {path}; record one with: loopwm collect billiards --out {shlex.quote(str(path))}"
            )
        if path.is_dir():
            raise UserError(
                f"{path} is a folder and no store; make one of the logs in it with: loopwm data convert "
                f"{shlex.quote(str(path))} {shlex.quote(path.name)}.h5"
            )
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            if is_recording(path):
                raise UserError(
                    f"{path} is a recording of texts, which this command does not read; a run that was trained on "
                    "texts is measured with: loopwm evaluate RUN --benchmark scienceworld"
                ) from None
            raise UserError(
                f"{path} is not a readable HDF5 file ({_last_line(error)}); it may be truncated or something else "
                f"entirely: record it again."
            ) from error
        try:
            store = cls(path, file, read_meta(path, file.attrs.get(ATTRIBUTE)))
            _check_table(store)
            _check_rows(store)
        except KeyError as error:
            file.close()
            raise UserError(f"{path} lacks the dataset {error}; the file is damaged: record it again.") from error
        except (OSError, RuntimeError) as error:
            file.close()
            raise UserError(f"{path} is damaged ({_last_line(error)}); record it again.") from error
        except BaseException:
            file.close()
            raise
        return store

    def close(self) -> None:
        """Close the file; metadata and the episode table stay readable."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self.ep_len)

    @property
    def num_transitions(self) -> int:
        """Number of transitions, over all episodes."""
        return int(self.ep_len.sum())

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Rows of a flat column, by its dataset path: (rows, ...) float32, or uint8 where they are images."""
        return _read(self._file, name, rows)

    def episode(self, index: int) -> Episode:
        """Episode `index`.

        Raises:
            UserError: no such episode.
        """
        if not 0 <= index < self.num_episodes:
            raise UserError(f"{self.path} has {self.num_episodes} episodes, numbered from 0; there is no {index}.")
        start, length = int(self.ep_offset[index]), int(self.ep_len[index])
        rows = slice(start, start + length)
        return Episode(
            observations=self.read("observation", slice(start, start + length + 1)),
            actions=self.read("action", rows),
            rewards=self.read("reward", rows),
            terminated=bool(self.terminated[index]),
            labels={name: self.read(f"label/{name}", rows) for name in self.meta.label_names},
            seed=int(self.seeds[index]),
        )

    def split(self, name: splits.Split) -> np.ndarray:
        """Indices of the episodes in `train`, `validation` or `test` (80/10/10, by content): int64, ascending."""
        return splits.members(self.fingerprints, name)

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that change when any number, label or space of the store does."""
        meta = self.meta
        described = [meta.world, asdict(meta.observation), asdict(meta.action), meta.label_names, meta.schema_version]
        digest = hashlib.blake2b(json.dumps(described).encode(), digest_size=16)
        for whole in self.fingerprints if meta.observation.presence is None else self._whole_fingerprints():
            digest.update(whole)
        for name in meta.label_names:
            digest.update(np.ascontiguousarray(self.read(f"label/{name}"), dtype="<f4").data)
        return digest.hexdigest()

    def _whole_fingerprints(self) -> Iterator[bytes]:
        return (episode.fingerprint for episode in self._stream())

    @cached_property
    def fingerprints(self) -> tuple[bytes, ...]:
        """Of every episode, without what only fills it up."""
        return tuple(identity(episode, self.meta.observation) for episode in self._stream())

    def _stream(self) -> Iterator[Episode]:
        """Every episode in order, without labels, reading large blocks: one small read per episode is slow."""
        for first, last in _blocks(self.ep_len, self.meta.rows_at_once):
            begin = int(self.ep_offset[first])
            rows = slice(begin, int(self.ep_offset[last - 1] + self.ep_len[last - 1]) + 1)
            observation, action, reward = (self.read(name, rows) for name in ("observation", "action", "reward"))
            for index in range(first, last):
                start = int(self.ep_offset[index]) - begin
                stop = start + int(self.ep_len[index])
                yield Episode(
                    observation[start : stop + 1],
                    action[start:stop],
                    reward[start:stop],
                    bool(self.terminated[index]),
                    seed=int(self.seeds[index]),
                )


def _blocks(lengths: np.ndarray, rows: int) -> Iterator[tuple[int, int]]:
    """Ranges of episodes [first, last) of about `rows` rows each."""
    block = np.cumsum(lengths + 1) // rows
    edges = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(lengths)]
    yield from itertools.pairwise(edges)


def _read(file: h5py.File, name: str, rows: slice = slice(None)) -> np.ndarray:
    return np.asarray(_dataset(file, name)[rows])


def _check_table(store: Store) -> None:
    lengths, columns = store.ep_len, (store.ep_offset, store.seeds, store.terminated)
    if len(lengths) == 0 or lengths.min() < 1 or any(len(column) != len(lengths) for column in columns):
        raise UserError(f"{store.path} has a damaged episode table; record it again.")
    if not np.array_equal(store.ep_offset, np.cumsum(lengths + 1) - (lengths + 1)):
        raise UserError(
            f"{store.path} has an episode table in which ep_offset does not follow from ep_len (an episode of L "
            "transitions occupies L + 1 rows); record it again."
        )
    rows = int((lengths + 1).sum())
    for name, shape in store.meta.column_shapes().items():
        dataset = _dataset(store._file, name)
        if dataset.shape != (rows, *shape):
            raise UserError(
                f"{store.path} has '{name}' of shape {dataset.shape}, its metadata and episode table ask for "
                f"{(rows, *shape)}; record it again."
            )
        image = store.meta.column_type(name) == np.uint8
        if image and dataset.dtype != np.uint8:
            raise UserError(
                f"{store.path} has images of type {dataset.dtype}, and they have to be uint8; record it again."
            )


def _check_rows(store: Store) -> None:
    """Finite everywhere; `continue` agrees with the table; nothing in the transition columns of a final row."""
    for first, last in _blocks(store.ep_len, store.meta.rows_at_once):
        begin = int(store.ep_offset[first])
        lengths, offsets = store.ep_len[first:last], store.ep_offset[first:last] - begin
        rows = slice(begin, begin + int((lengths + 1).sum()))
        finals = offsets + lengths
        continues = np.ones(rows.stop - rows.start, dtype=np.float32)
        continues[finals] = 0.0
        continues[finals - 1] = np.where(store.terminated[first:last], 0.0, 1.0)
        for name in store.meta.column_shapes():
            values = store.read(name, rows)
            row = first_not_finite(values)
            if row is not None:
                index = int(np.searchsorted(offsets, row, side="right")) - 1
                raise UserError(
                    f"{store.path} has a NaN or an infinite number in '{name}', episode {first + index}, step "
                    f"{row - int(offsets[index])}; repair or drop that episode."
                )
            misplaced = values[finals].any() if name != "observation" else False
            if misplaced or (name == "continue" and not np.array_equal(values, continues)):
                raise UserError(
                    f"{store.path} breaks the time convention in '{name}' ({TIME_CONVENTION}; the row of an episode's "
                    "last observation holds zeros); the columns may be shifted by a step: record it again."
                )


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
