"""A store's columns as memory-mapped arrays, which random access reads ten times faster than HDF5."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loopwm.data.store import Store, StoreMeta
from loopwm.files import file_digest

MANIFEST = "store.json"


@dataclass(frozen=True)
class Columns:
    """The flat columns of a store, see `loopwm.data.store` for the row layout. All float32 unless said.

    An observation that is an image is uint8.

    Attributes:
        meta, digest: of the store.
        observation: (rows, *S).
        action: (rows, A).
        reward, continues: (rows,).
        labels: name -> (rows,).
        ep_len, ep_offset: (episodes,) int64.
        terminated: (episodes,) bool.
    """

    meta: StoreMeta
    digest: str
    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    continues: np.ndarray
    labels: dict[str, np.ndarray]
    ep_len: np.ndarray
    ep_offset: np.ndarray
    terminated: np.ndarray


def open_memmap(store: Store) -> Columns:
    """The store's columns, mapped from `<store>.cache/<digest>/`, which is built when it is not there.

    A store whose content changed has another digest, so a stale cache is never read (and is removed). A cache that is
    truncated or otherwise damaged does not match its checksums, and is built again. Where the folder cannot be written
    (read-only, full), the columns are held in memory instead.
    """
    names = tuple(store.meta.column_shapes())
    folder = store.path.with_name(store.path.name + ".cache") / store.digest
    try:
        if not _intact(folder, names):
            _build(store, names, folder)
        # np.asarray drops the memmap subclass, whose bookkeeping makes every indexing slower.
        arrays = {name: np.asarray(np.load(folder / _file(name), mmap_mode="r")) for name in names}
    except OSError:
        arrays = {name: store.read(name) for name in names}
    return Columns(
        meta=store.meta,
        digest=store.digest,
        observation=arrays["observation"],
        action=arrays["action"],
        reward=arrays["reward"],
        continues=arrays["continue"],
        labels={name: arrays[f"label/{name}"] for name in store.meta.label_names},
        ep_len=store.ep_len,
        ep_offset=store.ep_offset,
        terminated=store.terminated,
    )


def _file(name: str) -> str:
    return name.replace("/", ".") + ".npy"


def _intact(folder: Path, names: tuple[str, ...]) -> bool:
    """Whether every column is there and holds what was written."""
    try:
        written = json.loads((folder / MANIFEST).read_text())["checksums"]
        return all(file_digest(folder / _file(name)) == written[name] for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _save(store: Store, name: str, path: Path) -> None:
    """One column as a .npy file, block by block: images need not fit into memory."""
    rows, (shape, dtype) = (
        int((store.ep_len + 1).sum()),
        (store.meta.column_shapes()[name], store.meta.column_type(name)),
    )
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, *shape)}
    step = store.meta.rows_at_once
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        # Written, and not mapped: on a full disk a write raises, where a mapped page would kill the process.
        for first in range(0, rows, step):
            stream.write(np.ascontiguousarray(store.read(name, slice(first, first + step)), dtype).data)


def _build(store: Store, names: tuple[str, ...], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    damaged = aside.with_name(aside.name.replace("building", "damaged"))
    try:
        for name in names:
            _save(store, name, aside / _file(name))
        checksums = {name: file_digest(aside / _file(name)) for name in names}
        manifest = {"digest": store.digest, "store": store.path.name, "checksums": checksums}
        (aside / MANIFEST).write_text(json.dumps(manifest) + "\n")
        if folder.is_dir() and not _intact(folder, names):
            # Moved away in one step, so that nobody finds half of it.
            os.rename(folder, damaged)
        try:
            os.rename(aside, folder)
        except OSError:
            # Another process built the same cache at the same time; its columns are identical.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(damaged, ignore_errors=True)
    for other in folder.parent.iterdir():
        if other.name != folder.name and not other.name.startswith("."):
            shutil.rmtree(other, ignore_errors=True)
