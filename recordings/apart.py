"""The rooms of ScienceWorld's complete initial states, set apart by blank lines, as `loopwm collect` writes them today.

python recordings/apart.py recordings/scienceworld.parquet data/scienceworld.parquet

The frozen recording is older, and a model, which reads every paragraph on its own, took all rooms for one. White space
counts in no comparison, so the windows and their answers stay what they are.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from loopwm.text.recording import read_recording, write_recording

PARTS = re.compile(r"\n(?=This room is called |This outside location is called |In your inventory, you see:)")


def main(old: Path, new: Path) -> None:
    """Write what is in `old` to `new`, with the same manifest but for the digest."""
    manifest, episodes = read_recording(old)
    write_recording(new, [replace(one, initial=PARTS.sub("\n\n", one.initial)) for one in episodes], manifest)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
