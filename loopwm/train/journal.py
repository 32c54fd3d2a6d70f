"""What a training run writes about itself: its configuration, a JSONL log, TensorBoard."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from loopwm.files import atomic_write, write_json
from loopwm.overlay import overlay
from loopwm.presets import RunConfig

LOG = "log.jsonl"


def versions() -> dict[str, str]:
    """Versions of everything that could change a number."""
    names = ("loopwm", "torch", "numpy", "gymnasium", "pymunk")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def config_as_dict(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    return TypeAdapter(RunConfig).dump_python(config, mode="json")


def flat(settings: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    """Nested settings by their full names, `train.batch` and so on; sequences are lists, as in JSON."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{under}{name}.")
        else:
            found[f"{under}{name}"] = list(value) if isinstance(value, tuple) else value
    return found


def write_config(run: Path, config: RunConfig) -> None:
    """RUN/config.yaml, accepted back by `loopwm train --config`."""
    with atomic_write(run / "config.yaml") as aside:
        aside.write_text(yaml.safe_dump(config_as_dict(config), sort_keys=False))


def read_config(path: Path) -> RunConfig:
    """A configuration from a YAML file; unknown keys and wrong types are refused.

    Raises:
        UserError: missing, not YAML, or a field that does not exist or does not fit.
    """
    return overlay(RunConfig(), path)


class Journal:
    """RUN/log.jsonl, one JSON object a line, and RUN/tensorboard."""

    def __init__(self, run: Path, update: int = 0) -> None:
        """Open for appending after `update`; later lines, left by a run that was cut off, are dropped."""
        from torch.utils.tensorboard import SummaryWriter

        self.path = run / LOG
        kept = [line for line in read_log(run) if line["update"] <= update] if update else []
        with atomic_write(self.path) as aside:
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._stream = self.path.open("a")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=update + 1 if update else None)

    def write(self, update: int, **fields: Any) -> None:
        """Append one line; numbers also go to TensorBoard under their own names."""
        self._stream.write(json.dumps({"update": update, **fields}) + "\n")
        self._stream.flush()
        for name, value in fields.items():
            parts = {f"{name}/{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
            for tag, number in parts.items():
                if isinstance(number, int | float):
                    self._board.add_scalar(tag, number, update)

    def close(self) -> None:
        """Flush both."""
        self._stream.close()
        self._board.close()


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of RUN/log.jsonl; a line torn by a kill is left out."""
    lines = []
    path = run / LOG
    for text in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def most_memory(log: list[dict[str, Any]]) -> float | None:
    """GiB of main memory that the training behind a journal needed at most; None where it was not noted."""
    return max((line["peak_memory_gib"] for line in log if "peak_memory_gib" in line), default=None)


def write_run_info(run: Path, **fields: Any) -> None:
    """RUN/info.json: versions, data digest, sizes."""
    write_json(run / "info.json", {"versions": versions(), **fields})
