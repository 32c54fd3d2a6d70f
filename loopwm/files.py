"""Writing without ever leaving a half-written file behind, and telling whether a file is still what was written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from loopwm.errors import LoopwmError, UserError


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any error it is removed.

    Raises:
        LoopwmError: the disk refused (no space left, read-only); `path` keeps its old content.
    """
    path = Path(path)
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        aside = Path(name)
        yield aside
        # mkstemp makes files private; the finished file should follow the user's umask instead.
        aside.chmod(0o666 & ~_umask())
        with aside.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise LoopwmError(
            f"Could not write {path}: {error.strerror or error}; free some space or choose another folder "
            "(the previous file, if any, is untouched)."
        ) from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which does not exist; on success it becomes `path`, on any error it is
    removed.

    Raises:
        LoopwmError: the disk refused (no space left, read-only).
    """
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        yield aside
        aside.chmod(0o777 & ~_umask())
        aside.rename(path)
    except OSError as error:
        raise LoopwmError(
            f"Could not write {path}: {error.strerror or error}; free some space or choose another folder."
        ) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def claim(file: IO[Any], taken: str) -> None:
    """Keep other processes from claiming the same file until it is closed, where the system has such locks.

    Raises:
        UserError: another process has; `taken` says what to do.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(taken) from None


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. Non-finite numbers are refused with ValueError."""
    text = json.dumps(value, indent=1, sort_keys=False, allow_nan=False)
    with atomic_write(path) as aside:
        aside.write_text(text + "\n")


def file_digest(path: Path) -> str:
    """32 hexadecimal digits that change when any byte of the file does."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def refuse_existing(path: Path, remedy: str) -> None:
    """Raise UserError if `path` exists; `remedy` says what to do instead."""
    if Path(path).exists():
        raise UserError(f"{path} already exists and is not overwritten; {remedy}.")
