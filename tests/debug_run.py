"""The preset `debug` on a recording of a test's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from loopwm.presets import RunConfig, preset


def debug(store: Path, **train_fields: object) -> RunConfig:
    """With some fields of `train` changed."""
    config = preset("debug").config
    return replace(config, data=store, train=replace(config.train, **train_fields))  # type: ignore[arg-type]
