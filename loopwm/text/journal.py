"""Finished episodes of a recording that is not finished: one line each, appended, so that nothing done is lost."""

from __future__ import annotations

import base64
import binascii
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

from loopwm.errors import LoopwmError, UserError
from loopwm.files import claim
from loopwm.text.recording import TextEpisode

_ROWS = ("observations", "actions", "scores", "looks", "inventories")


class Journal:
    """A file of lines `NUMBER BASE64`, the zlib-compressed JSON of an episode, below a line that says of which
    recording.

    A line without its end is what a kill leaves behind, and is cut off when the journal is opened.

    Args:
        path: of the journal; begun where there is none.
        recording: what is recorded, in a line; a journal of another one is refused.

    Raises:
        UserError: the journal is of another recording, or damaged, or another process is writing it.
        LoopwmError: the disk refused.
    """

    def __init__(self, path: Path, recording: str) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("a+b")
        except OSError as error:
            raise LoopwmError(f"Could not write {path}: {error.strerror}; choose another folder.") from error
        try:
            claim(
                self._file,
                f"Another process is recording into {path}; wait until it is done, or choose another --out.",
            )
            self._begin(recording)
            self._places = dict(self._scan())
        except BaseException:
            self._file.close()
            raise

    def _begin(self, recording: str) -> None:
        self._file.seek(0)
        content = self._file.read()
        self._file.truncate(content.rfind(b"\n") + 1)
        self._file.seek(0)
        first = self._file.readline().decode(errors="replace").rstrip("\n")
        if not first:
            self._write(recording.encode() + b"\n")
        elif first != recording:
            raise UserError(
                f"{self.path} holds the beginning of another recording ({first}); finish that one by its own command, "
                "or remove the file."
            )

    def _scan(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """Where the line of every episode is; every one is unpacked once, to know that it can be."""
        self._file.seek(0)
        start = len(self._file.readline())
        for count, line in enumerate(self._file, start=2):
            try:
                number, packed = line.split()
                zlib.decompress(base64.b64decode(packed, validate=True))
                yield int(number), (start, len(line))
            except (ValueError, binascii.Error, zlib.error):
                raise UserError(
                    f"Line {count} of {self.path} is damaged; remove the file to record from the beginning."
                ) from None
            start += len(line)

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def __len__(self) -> int:
        return len(self._places)

    def append(self, number: int, episode: TextEpisode) -> None:
        """Keep an episode; when this returns, it survives whatever happens to the process.

        Raises:
            LoopwmError: the disk refused.
        """
        packed = base64.b64encode(zlib.compress(json.dumps(asdict(episode)).encode(), 6))
        self._file.seek(0, os.SEEK_END)
        start = self._file.tell()
        line = b"%d %s\n" % (number, packed)
        self._write(line)
        self._places[number] = (start, len(line))

    def _write(self, line: bytes) -> None:
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise LoopwmError(
                f"Could not write {self.path}: {error.strerror}; free some space, then the same command goes on."
            ) from error

    def episodes(self) -> Iterator[TextEpisode]:
        """Every episode, in the order of their numbers."""
        for _, (start, length) in sorted(self._places.items()):
            self._file.seek(start)
            packed = self._file.read(length).split()[1]
            fields = json.loads(zlib.decompress(base64.b64decode(packed)))
            yield TextEpisode(**fields | {name: tuple(fields[name]) for name in _ROWS})

    def close(self) -> None:
        """Let others go on with it."""
        self._file.close()

    def remove(self) -> None:
        """Close and delete."""
        self.close()
        self.path.unlink()
