"""How long the examples take, from nothing to the plot.

    python benchmarks/examples.py --out results/examples.json

Each runs in a process of its own, in an empty folder, and compiles anew, as it does for a newcomer.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from loopwm.evaluate.speed import processor
from loopwm.files import write_json
from loopwm.train.journal import versions

EXAMPLES = Path(__file__).parents[1] / "examples"


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ("own_env", "own_logs")
    """Files in examples/, without their ending."""
    limit: float = 900.0
    """Seconds after which an example is given up."""
    out: Path | None = None
    """File for the numbers as JSON."""


@dataclass(frozen=True)
class Taken:
    """One example, from its start to its end."""

    example: str
    seconds: float
    plots: list[str]


def taken(name: str, limit: float) -> Taken:
    """Run an example, and see that it drew something.

    Raises:
        subprocess.CalledProcessError: it failed.
        subprocess.TimeoutExpired: it took longer than `limit` seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "compiled")}
        command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--folder", str(Path(folder) / "out")]
        start = time.perf_counter()
        subprocess.run(command, env=environment, check=True, timeout=limit)
        seconds = time.perf_counter() - start
        return Taken(name, seconds, sorted(path.name for path in (Path(folder) / "out").glob("*.png")))


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    found = []
    for name in arguments.names:
        found.append(one := taken(name, arguments.limit))
        print(f"{name:<12} {one.seconds:6.0f} s, drew {', '.join(one.plots) or 'nothing'}")
    if arguments.out is not None:
        command = shlex.join(["python", "benchmarks/examples.py", *sys.argv[1:]])
        made = {"command": command, "versions": versions(), "processor": processor(torch.device("cpu"))}
        write_json(arguments.out, made | {"examples": [asdict(one) for one in found]})


if __name__ == "__main__":
    main()
