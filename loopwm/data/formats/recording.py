"""Any recording as the store that training reads: converted once, and again when its files have changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from loopwm.data.formats.own import StoreFormat
from loopwm.data.formats.registry import format_of, is_url, open_source
from loopwm.data.store import write_store
from loopwm.progress import Progress

FOLDER = Path("data") / "converted"


def as_store(
    source: Path, told: Callable[[str], None], folder: Path = FOLDER, progress: Progress | None = None
) -> Path:
    """The store at `source`, or the one that it was converted to.

    Args:
        told: called with one line when something is converted.
        folder: where converted recordings are kept.
        progress: told of every episode that was converted.

    Raises:
        UserError: nothing there, no known format, or an episode that is none; nothing is left half-written.
    """
    if is_url(source):
        from loopwm.data.formats.remote import fetched

        source = fetched(source)
    minari = str(source).startswith("minari:")
    if not minari and (not source.exists() or (source.is_file() and StoreFormat().detect(source))):
        # Also what is missing: whoever opens it says so.
        return source
    kind = format_of(source)
    name = str(source).replace(":", "-").replace("/", "-") if minari else source.resolve().stem
    store = folder / f"{name}-{_state(source)}.h5"
    if not store.exists():
        recording = open_source(source)
        told(f"Converting {source} ({kind.name}) to {store}.")
        store.parent.mkdir(parents=True, exist_ok=True)
        write_store(store, recording.episodes(progress), recording.meta)
    return store


def _state(source: Path) -> str:
    """Sixteen hexadecimal digits that change when a file of the recording is touched."""
    if str(source).startswith("minari:"):
        from loopwm.data.formats.minari_datasets import loaded

        source = Path(loaded(source).storage.data_path)
        files = [path for path in source.rglob("*") if path.is_file()]
    else:
        # Only what lies right there is read: below the current folder are also the recordings converted from it.
        files = [source] if source.is_file() else [path for path in source.iterdir() if path.is_file()]
    seen = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(files)]
    return hashlib.blake2b(repr(seen).encode(), digest_size=8).hexdigest()
