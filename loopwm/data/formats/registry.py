"""Which formats there are, and which one a path is of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from loopwm.data.episode import Episode
from loopwm.data.formats.minari_datasets import MinariFormat
from loopwm.data.formats.npz import NpzFormat
from loopwm.data.formats.own import StoreFormat
from loopwm.data.formats.parquet import ParquetFormat
from loopwm.data.formats.source import Format, Source
from loopwm.data.meta import StoreMeta
from loopwm.errors import UserError
from loopwm.files import refuse_existing

FORMATS: tuple[Format, ...] = (MinariFormat(), StoreFormat(), ParquetFormat(), NpzFormat())
"""The one that recognises a path is the one, in this order."""


def format_called(name: str) -> Format:
    """The format of this name.

    Raises:
        UserError: there is none.
    """
    for one in FORMATS:
        if one.name == name:
            return one
    raise UserError(f"There is no format '{name}'; choose one of {', '.join(one.name for one in FORMATS)}.")


def format_of(path: Path) -> Format:
    """The format that recognises `path`, or that a recording to be written there would have.

    Raises:
        UserError: none does.
    """
    found = [one for one in FORMATS if one.detect(path)]
    if len(found) > 1 and path.is_dir():
        raise UserError(
            f"{path} holds files of several formats ({', '.join(one.name for one in found)}); give each a folder of "
            "its own."
        )
    if found:
        return found[0]
    raise UserError(
        f"{path} is no recording that loopwm reads: give an HDF5 store, a folder of .npz files, Parquet, or minari:ID."
    )


def open_source(path: Path | str) -> Source:
    """The recording at `path`, whatever its format.

    Raises:
        UserError: nothing there, no such format, or damaged.
    """
    path = Path(path)
    if is_url(path):
        from loopwm.data.formats.remote import fetched

        path = fetched(path)
    elif not str(path).startswith("minari:") and not path.exists():
        raise UserError(f"There is no recording at {path}; record one with: loopwm collect billiards --out {path}")
    return format_of(path).read(path)


def write_source(path: Path, meta: StoreMeta, episodes: Iterable[Episode], to: str = "") -> None:
    """Write a recording in the format called `to`, or that its path asks for.

    Raises:
        UserError: something is there already, or the path asks for none.
    """
    refuse_address(path)
    refuse_existing(path, "choose another path or remove it")
    if not to and not any(one.detect(path) for one in FORMATS):
        raise UserError(
            f"{path} says no format: end it in .h5 or .parquet, begin it with minari:, name a folder without a dot, or "
            "add --to."
        )
    chosen = format_called(to) if to else format_of(path)
    chosen.write(path, meta, episodes)


def refuse_address(path: Path) -> None:
    """Raise UserError if `path` is a URL, to which nothing is written."""
    if is_url(path):
        raise UserError(f"{path} is an address, and recordings are written to this machine only; give a path.")


def is_url(path: Path | str) -> bool:
    """Whether this is the address of a remote recording. A path may have lost one of the slashes."""
    return re.match(r"[a-z][a-z0-9+]+:/", str(path)) is not None
