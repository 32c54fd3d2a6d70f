"""Parquet files with one row per observation."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from loopwm.data.episode import Episode
from loopwm.data.formats.guess import Read, guessed
from loopwm.data.formats.npz import CUT, ENDED, episode_of
from loopwm.data.formats.source import Part, Source
from loopwm.data.meta import StoreMeta, read_meta
from loopwm.errors import UserError
from loopwm.files import atomic_write, refuse_existing

KEY = b"loopwm"
"""Of the file's metadata, under which the writer keeps what the columns cannot say."""
ROWS_PER_GROUP = 2**14
PLURAL = {"observation": "observations", "action": "actions", "reward": "rewards"}
NEEDED = ("episode", "observation", "action")
KNOWN = {*NEEDED, "reward", "seed", *ENDED, *CUT}


class ParquetFormat:
    """One file, or a folder of them. Columns `episode`, `observation` (a list of numbers), `action` (a list, or a whole
    number), and if there are any `reward`, `terminated`, `seed` and labels. The rows of an episode stand together, and
    its last row holds only its last observation: the action is null."""

    name = "parquet"

    def detect(self, path: Path) -> bool:
        """By names, or by the first bytes."""
        if path.is_file():
            with path.open("rb") as stream:
                return stream.read(4) == b"PAR1" or path.suffix == ".parquet"
        return path.suffix == ".parquet" or any(path.glob("*.parquet"))

    def read(self, path: Path) -> Source:
        """Files in the order of their names.

        Raises:
            UserError: unreadable, or without the columns an episode needs.
        """
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise UserError(f"There is no Parquet file at {path}.")
        meta = described(files) or guessed(path, _looked_at(files))
        return Source(meta, partial(_parts, files, meta), lambda: sum(_count(file) for file in files))

    def write(self, path: Path, meta: StoreMeta, episodes: Iterable[Episode]) -> None:
        """One new file.

        Raises:
            UserError: `path` exists.
        """
        pq, pa = engine()
        refuse_existing(path, "choose another file or remove it")
        schema = _schema(pa, meta)
        with atomic_write(path) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as writer:
            waiting, rows = [], 0
            for index, episode in enumerate(episodes):
                waiting.append(_table(pa, schema, meta, index, episode))
                rows += episode.length + 1
                if rows >= ROWS_PER_GROUP:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting, rows = [], 0
            if waiting:
                writer.write_table(pa.concat_tables(waiting))


def engine() -> tuple[Any, Any]:
    """pyarrow.parquet and pyarrow.

    Raises:
        UserError: not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ModuleNotFoundError as error:
        raise UserError('Parquet needs the package pyarrow; get it with pip install "loopwm[parquet]".') from error
    return parquet, pyarrow


def opened(file: Path) -> Any:
    """The file.

    Raises:
        UserError: unreadable.
    """
    pq, pa = engine()
    try:
        return pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{file} cannot be read as Parquet ({_in_one_line(error)}); it may be truncated: write it again."
        ) from error


def described(files: list[Path]) -> StoreMeta | None:
    """What the files say of themselves; None where they do not.

    Raises:
        UserError: a column is missing, or the files are of different worlds.
    """
    found: list[StoreMeta | None] = []
    for file in files:
        schema = opened(file).schema_arrow
        for name in NEEDED:
            if name not in schema.names:
                raise UserError(f"{file} has no column '{name}'; it has {', '.join(schema.names)}.")
        kept = (schema.metadata or {}).get(KEY)
        found.append(read_meta(file, kept.decode()) if kept else None)
        if _spaces(found[-1]) != _spaces(found[0]):
            raise UserError(f"{files[0]} and {file} are of different worlds; one recording holds one.")
    return found[0]


def _spaces(meta: StoreMeta | None) -> object:
    return meta and (meta.observation, meta.action, set(meta.label_names))


def _schema(pa: Any, meta: StoreMeta) -> Any:
    observation = pa.uint8() if meta.observation.kind == "image" else pa.float32()
    fields = [
        ("episode", pa.int64()),
        ("observation", pa.list_(observation, meta.observation.size)),
        ("action", pa.list_(pa.float32(), meta.action.stored_size)),
        ("reward", pa.float32()),
        ("terminated", pa.bool_()),
        ("seed", pa.int64()),
        *((name, pa.float32()) for name in meta.label_names),
    ]
    return pa.schema(fields, metadata={KEY: meta.to_json().encode()})


def _table(pa: Any, schema: Any, meta: StoreMeta, index: int, episode: Episode) -> Any:
    rows, steps = episode.length + 1, episode.length
    last = [False] * (steps - 1) + [episode.terminated, None]
    columns = {
        "episode": np.full(rows, index),
        "observation": list(episode.observations.reshape(rows, -1)),
        "action": [*episode.actions, None],
        "reward": [*episode.rewards.tolist(), None],
        "terminated": last,
        "seed": np.full(rows, episode.seed),
        **{name: [*episode.labels[name].tolist(), None] for name in meta.label_names},
    }
    arrays = [pa.array(columns[field.name], type=field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _groups(file: Path) -> Iterator[tuple[str, Any]]:
    """(file and number of an episode, its rows), holding little more than an episode at a time.

    Raises:
        UserError: the file is damaged.
    """
    _, pa = engine()
    number, waiting = None, []
    try:
        for batch in opened(file).iter_batches(batch_size=ROWS_PER_GROUP):
            table = pa.Table.from_batches([batch])
            episode = table["episode"].to_numpy()
            edges = [0, *(np.flatnonzero(episode[1:] != episode[:-1]) + 1).tolist(), len(episode)]
            for first, last in itertools.pairwise(edges):
                if waiting and episode[first] != number:
                    yield f"{file}, episode {number}", pa.concat_tables(waiting)
                    waiting = []
                number = episode[first]
                waiting.append(table.slice(first, last - first))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file} is damaged ({_in_one_line(error)}); write it again.") from error
    if waiting:
        yield f"{file}, episode {number}", pa.concat_tables(waiting)


def _count(file: Path) -> int:
    """Episodes, from the one column that tells them apart.

    Raises:
        UserError: the file is damaged.
    """
    _, pa = engine()
    count, number = 0, None
    try:
        for batch in opened(file).iter_batches(batch_size=ROWS_PER_GROUP, columns=["episode"]):
            episode = batch["episode"].to_numpy(zero_copy_only=False)
            count += int((episode[1:] != episode[:-1]).sum()) + int(episode[0] != number)
            number = episode[-1]
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file} is damaged ({_in_one_line(error)}); write it again.") from error
    return count


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _columns(table: Any) -> dict[str, np.ndarray]:
    """Rows of one episode as arrays with the names that logs have, without those of the last row that are null.

    Raises:
        UserError: something is missing in any other row, or the last row says what followed from no action.
    """
    columns: dict[str, np.ndarray] = {}
    ends = not table["action"][-1].is_valid
    for name in table.column_names:
        column = table[name].combine_chunks()
        if name == "seed" and column.null_count == len(column):
            continue
        if ends and name not in ("observation", "episode", "seed"):
            if name in ("reward", *ENDED, *CUT) and column[-1].as_py():
                raise UserError(
                    f"the last row has no action, and yet {name} {column[-1].as_py()}; what follows from an action "
                    "stands in the row of the action."
                )
            column = column[: len(column) - 1]
        columns[PLURAL.get(name, name)] = _array(name, column)
    if "seed" in columns:
        columns["seed"] = columns["seed"][0]
    return columns


def _array(name: str, column: Any) -> np.ndarray:
    """(rows,), or (rows, n) where they are lists of n numbers."""
    _, pa = engine()
    if column.null_count:
        row = int(column.is_null().to_numpy(zero_copy_only=False).argmax())
        raise UserError(
            f"row {row} has no {name}; nothing may be missing but in the row of an episode's last observation, the "
            "action of which is null."
        )
    listed = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not listed and not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy(zero_copy_only=False)
    sizes = np.unique(column.value_lengths().to_numpy()) if listed else ()
    if len(sizes) > 1:
        raise UserError(f"{name} is a list of {sizes[0]} numbers in one row and of {sizes[-1]} in another.")
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), -1) if len(column) else flat.reshape(0, 1)


def _parts(files: list[Path], meta: StoreMeta) -> Iterator[Part]:
    for file in files:
        for where, table in _groups(file):
            yield Part(where, partial(_episode, table, meta))


def _episode(table: Any, meta: StoreMeta) -> Episode:
    columns = _columns(table)
    observations = columns["observations"]
    if observations[0].size == meta.observation.size:
        columns["observations"] = observations.reshape(len(observations), *meta.observation.shape)
    return episode_of(columns, meta)


def _looked_at(files: list[Path]) -> Iterator[tuple[str, Read]]:
    for file in files:
        for where, table in _groups(file):
            yield where, partial(_guessable, table)


def _guessable(table: Any) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    columns = _columns(table)
    labels = tuple(name for name in table.column_names if name not in KNOWN)
    return columns["observations"], columns["actions"], labels
