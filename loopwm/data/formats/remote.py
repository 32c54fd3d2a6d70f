"""Recordings on other file systems (fsspec), copied once to a folder of this machine."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import fsspec

from loopwm.errors import LoopwmError, UserError

FOLDER = Path("data") / "remote"


def fetched(url: Path | str, folder: Path = FOLDER) -> Path:
    """A local copy of the file or folder at `url`, made unless it is there already and what it copies is unchanged.

    Raises:
        UserError: no such address, or nothing there.
        LoopwmError: it cannot be copied.
    """
    address = re.sub(r"^([a-z][a-z0-9+]+):/+", r"\1://", str(url))
    try:
        system, path = fsspec.url_to_fs(address)
        if not system.exists(path):
            raise UserError(f"There is nothing at {address}.")
        listing = system.find(path, detail=True)
    except (ValueError, ImportError) as error:
        raise UserError(f"{address} cannot be reached: {error}") from error
    except OSError as error:
        raise LoopwmError(f"{address} cannot be reached: {error}") from error
    told = [(name, info.get("size"), str(_age(info))) for name, info in sorted(listing.items())]
    digest = hashlib.blake2b(repr((address, told)).encode(), digest_size=8).hexdigest()
    local = folder / digest / Path(path).name
    if not local.exists():
        aside = folder / f"{digest}.part"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            system.get(path, str(aside / Path(path).name), recursive=True)
            aside.rename(local.parent)
        except OSError as error:
            raise LoopwmError(f"{address} could not be copied: {error}") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return local


def _age(info: dict) -> object:
    """What changes when a file does, as far as the file system tells."""
    return next((info[key] for key in ("mtime", "LastModified", "updated", "ETag", "created") if key in info), "")
