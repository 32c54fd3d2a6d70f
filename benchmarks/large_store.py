"""Training on a recording that does not fit into memory: 8 GB of images, under a limit of 2 GB.

    python benchmarks/large_store.py --out results/large-store.json

Writes a recording of images of noise, which no compression makes smaller, and runs `loopwm train pixels` on it with
RLIMIT_DATA, the kernel's limit on memory that belongs to a process alone: what is mapped from a file is not counted, as
the kernel takes it back whenever it likes. The peak of such memory (RssAnon) is watched while it runs.
"""

from __future__ import annotations

import resource
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro

from loopwm.data.episode import Episode
from loopwm.data.meta import StoreMeta
from loopwm.data.store import Store, write_store
from loopwm.errors import LoopwmError
from loopwm.evaluate.speed import processor
from loopwm.files import write_json
from loopwm.spaces import ActionSpec, ObservationSpec, channel_names
from loopwm.train.journal import versions

GIB = 2**30
SIDE, LENGTH = 64, 50


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    folder: Path = Path("data")
    """Where the recording is, or goes."""
    gigabytes: float = 8.0
    """Of images."""
    limit: float = 2.0
    """Of memory, in GiB."""
    updates: int = 30
    """Of training."""
    out: Path | None = None
    """File for the numbers as JSON."""


def episodes(gigabytes: float) -> Iterator[Episode]:
    """Noise. How it looks does not matter here, how many bytes it has does."""
    generator = np.random.default_rng(0)
    for _ in range(round(gigabytes * 1e9 / (SIDE * SIDE * 3 * (LENGTH + 1)))):
        images = generator.integers(256, size=(LENGTH + 1, SIDE, SIDE, 3), dtype=np.uint8)
        actions = generator.uniform(-1, 1, (LENGTH, 2)).astype(np.float32)
        yield Episode(images, actions, np.zeros(LENGTH, np.float32), False)


def recorded(arguments: Arguments) -> Path:
    """The recording, written if it is not there."""
    path = arguments.folder / f"noise-{arguments.gigabytes:g}GB.h5"
    if not path.exists():
        seen = ObservationSpec("image", (SIDE, SIDE, 3), channel_names(3))
        meta = StoreMeta("noise", seen, ActionSpec("continuous", 2, (-1.0, -1.0), (1.0, 1.0)))
        write_store(path, episodes(arguments.gigabytes), meta)
    return path


def limited(gibibytes: float) -> None:
    """Hold this process to so much memory of its own."""
    most = int(gibibytes * GIB)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def own_memory(pid: int) -> int:
    """Bytes that belong to a process alone; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    path = recorded(arguments)
    with tempfile.TemporaryDirectory() as folder:
        options = f"--train.updates {arguments.updates} --optim.warmup 5 --train.validate-every {arguments.updates}"
        words = ["-m", "loopwm", "train", "pixels", "--data", str(path), "--run", f"{folder}/run", *options.split()]
        start = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, *words],
            preexec_fn=partial(limited, arguments.limit),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        peaks = [0]

        def watch() -> None:
            while child.poll() is None:
                peaks.append(own_memory(child.pid))
                time.sleep(0.05)

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, complaint = child.communicate()
        watcher.join()
    if child.returncode:
        raise LoopwmError(f"Training failed with code {child.returncode}: {complaint.decode()[-500:]}")
    with Store.open(path) as store:
        frames = store.num_transitions + store.num_episodes
    found = {
        "images_bytes": frames * SIDE * SIDE * 3,
        "file_bytes": path.stat().st_size,
        "limit_bytes": int(arguments.limit * GIB),
        "peak_own_bytes": max(peaks),
        "updates": arguments.updates,
        "seconds": time.perf_counter() - start,
    }
    size, peak = found["images_bytes"] / 1e9, found["peak_own_bytes"] / GIB
    print(
        f"{size:.2f} GB of images, {arguments.updates} updates within {arguments.limit:g} GiB: at most {peak:.2f} GiB "
        f"of own memory, {found['seconds']:.0f} s in all"
    )
    if arguments.out is not None:
        command = shlex.join(["python", "benchmarks/large_store.py", *sys.argv[1:]])
        made = {"command": command, "versions": versions(), "processor": processor(torch.device("cpu"))}
        write_json(arguments.out, made | found)


if __name__ == "__main__":
    main()
