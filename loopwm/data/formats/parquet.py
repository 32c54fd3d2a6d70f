"""Parquet files with one row per observation."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from loopwm.data.episode import Episode
from loopwm.data.formats.guess import ActionRange, action_spec, observation_spec
from loopwm.data.formats.npz import episode_of
from loopwm.data.formats.source import Part, Source
from loopwm.data.meta import StoreMeta, read_meta
from loopwm.errors import LoopwmError, UserError
from loopwm.files import refuse_existing

KEY = b"loopwm"
"""Of the file's metadata, under which the writer keeps what the columns cannot say."""
ROWS_PER_GROUP = 2**14
KNOWN = {"episode", "observation", "action", "reward", "terminated", "seed"}


class ParquetFormat:
    """One file, or a folder of them. Columns `episode`, `observation` (a list of numbers), `action` (a list, or a whole
    number), and if there are any `reward`, `terminated`, `seed` and labels. The rows of an episode stand together, and
    its last row holds only its last observation: the action is null."""

    name = "parquet"

    def detect(self, path: Path) -> bool:
        """By names."""
        return path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet")))

    def read(self, path: Path) -> Source:
        """Files in the order of their names.

        Raises:
            UserError: unreadable, or without the columns an episode needs.
        """
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise UserError(f"There is no Parquet file at {path}.")
        schema = opened(files[0]).schema_arrow
        for name in ("episode", "observation", "action"):
            if name not in schema.names:
                raise UserError(f"{files[0]} has no column '{name}'; it has {', '.join(schema.names)}.")
        kept = (schema.metadata or {}).get(KEY)
        meta = read_meta(files[0], kept.decode()) if kept else guessed(path, files)
        return Source(meta, partial(_parts, files, meta), lambda: sum(_count(file) for file in files))

    def write(self, path: Path, meta: StoreMeta, episodes: Iterable[Episode]) -> None:
        """One new file.

        Raises:
            UserError: `path` exists.
        """
        pq, pa = engine()
        refuse_existing(path, "choose another file or remove it")
        aside = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = _schema(pa, meta)
        try:
            with pq.ParquetWriter(aside, schema, compression="zstd") as writer:
                waiting, rows = [], 0
                for index, episode in enumerate(episodes):
                    waiting.append(_table(pa, schema, meta, index, episode))
                    rows += episode.length + 1
                    if rows >= ROWS_PER_GROUP:
                        writer.write_table(pa.concat_tables(waiting))
                        waiting, rows = [], 0
                if waiting:
                    writer.write_table(pa.concat_tables(waiting))
            aside.rename(path)
        except OSError as error:
            raise LoopwmError(f"{path} could not be written: {error}.") from error
        finally:
            aside.unlink(missing_ok=True)


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
        raise UserError(f"{file} cannot be read as Parquet ({error}); it may be truncated: write it again.") from error


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


def _groups(file: Path) -> Iterator[tuple[Any, dict[str, np.ndarray]]]:
    """(episode number, its rows as columns), holding little more than an episode at a time.

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
                    yield number, _columns(pa.concat_tables(waiting))
                    waiting = []
                number = episode[first]
                waiting.append(table.slice(first, last - first))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file} is damaged ({error}); write it again.") from error
    if waiting:
        yield number, _columns(pa.concat_tables(waiting))


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
        raise UserError(f"{file} is damaged ({error}); write it again.") from error
    return count


def _columns(table: Any) -> dict[str, np.ndarray]:
    """Rows of one episode as arrays, without those of the last row that are null."""
    columns: dict[str, np.ndarray] = {}
    ends = not table["action"][-1].is_valid
    for name in table.column_names:
        column = table[name].combine_chunks()
        column = column if name in ("observation", "episode", "seed") or not ends else column[: len(column) - 1]
        columns[name] = _array(column)
    return columns


def _array(column: Any) -> np.ndarray:
    if not hasattr(column, "flatten") or column.type.num_fields == 0:
        return column.to_numpy(zero_copy_only=False)
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), -1) if len(column) else flat.reshape(0, 1)


def _named(columns: dict[str, np.ndarray], meta: StoreMeta) -> dict[str, np.ndarray]:
    """With the names of arrays that are an episode's, in the shape of `meta`."""
    observations = columns["observation"]
    named = {
        "observations": observations.reshape(len(observations), *meta.observation.shape)
        if observations[0].size == meta.observation.size
        else observations,
        "actions": columns["action"],
        **{name: columns[name] for name in meta.label_names if name in columns},
    }
    if "reward" in columns:
        named["rewards"] = columns["reward"]
    if "terminated" in columns:
        named["terminated"] = columns["terminated"].astype(bool)
    if "seed" in columns:
        named["seed"] = columns["seed"][0]
    return named


def _parts(files: list[Path], meta: StoreMeta) -> Iterator[Part]:
    for file in files:
        for number, columns in _groups(file):
            yield Part(f"{file}, episode {number}", partial(_episode, columns, meta))


def _episode(columns: dict[str, np.ndarray], meta: StoreMeta) -> Episode:
    return episode_of(_named(columns, meta), meta)


def guessed(path: Path, files: list[Path]) -> StoreMeta:
    """What the files say themselves; all of them are read, as any row may hold the largest action."""
    spec, labels, ranges = None, (), []
    for file in files:
        for number, columns in _groups(file):
            found = observation_spec(columns["observation"])
            if spec is None:
                spec, labels = found, tuple(name for name in columns if name not in KNOWN)
            elif found.shape != spec.shape:
                raise UserError(
                    f"{file}, episode {number} has observations of shape {found.shape}, those before {spec.shape}; one "
                    "recording holds one world."
                )
            ranges.append(ActionRange.of(columns["action"]))
    if spec is None:
        raise UserError(f"{path} holds no rows.")
    return StoreMeta(f"logs:{path.stem}", spec, action_spec(ranges), labels)
