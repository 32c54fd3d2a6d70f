"""loopwm's own HDF5 store, as a format among others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from loopwm.data.episode import Episode
from loopwm.data.formats.source import Part, Source
from loopwm.data.meta import StoreMeta
from loopwm.data.store import Store, write_store


class StoreFormat:
    """One HDF5 file; see docs/data.md."""

    name = "store"

    def detect(self, path: Path) -> bool:
        """By the first bytes, or by the name of a file that is still to be written."""
        if path.is_file():
            with path.open("rb") as stream:
                return stream.read(8) == b"\x89HDF\r\n\x1a\n" or path.suffix == ".h5"
        return path.suffix in (".h5", ".hdf5") and not path.is_dir()

    def read(self, path: Path) -> Source:
        """Everything is checked at once.

        Raises:
            UserError: missing, damaged, or not a store.
        """
        with Store.open(path) as store:
            count = store.num_episodes
            return Source(store.meta, partial(_parts, path), lambda: count)

    def write(self, path: Path, meta: StoreMeta, episodes: Iterable[Episode]) -> None:
        """A new store.

        Raises:
            UserError: `path` exists, or an episode disagrees with `meta`.
        """
        write_store(path, episodes, meta)


def _parts(path: Path) -> Iterator[Part]:
    with Store.open(path) as store:
        for index in range(store.num_episodes):
            yield Part(f"{path}, episode {index}", partial(store.episode, index))
