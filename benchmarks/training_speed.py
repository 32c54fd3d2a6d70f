"""Training speed of the looped model against the stack with equal FLOPs, interleaved in one process.

    python benchmarks/training_speed.py data/billiards.h5

Prints medians over rounds and the spread of the ratio. The recording is made when it is not there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from loopwm.presets import preset
from loopwm.studies.demo import record
from loopwm.studies.throughput import ThroughputConfig, throughput


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    data: Annotated[Path, tyro.conf.Positional] = Path("data/billiards.h5")
    """Recorded billiards."""
    threads: int = 1
    """Torch threads."""
    compile: bool = True
    """Compile the block, as training does."""
    settings: Annotated[ThroughputConfig, tyro.conf.arg(name="")] = field(default_factory=ThroughputConfig)
    """How it is measured."""


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(arguments.threads)
    billiards = preset("billiards")
    config = replace(
        billiards.config,
        data=arguments.data if arguments.data.exists() else record(billiards, arguments.data),
        train=replace(billiards.config.train, compile=arguments.compile),
    )
    result = throughput(config, arguments.settings)
    print(f"looped             {result.looped:.2f} updates/s")
    print(f"stack-equal-flops  {result.stack:.2f} updates/s")
    print(
        f"ratio              {result.ratio:.3f} ({result.low:.3f} to {result.high:.3f} over {result.rounds} rounds, "
        f"{result.threads} thread(s))"
    )
    print(f"fixed-depth ratio  {result.fixed_ratio:.3f}")


if __name__ == "__main__":
    main()
