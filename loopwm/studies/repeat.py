"""What to type to get a study's result again: its options as words of the command line."""

from __future__ import annotations

import shlex
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any


def command_of(study: str, config: Any, **instead: Any) -> str:
    """The command whose options give `config`, a dataclass as the command line reads it.

    Args:
        study: its name, such as `billiards`.
        instead: values that are written in place of the fields' own, such as a file name that was left out.
    """
    ahead, words = [], []
    for field in fields(config):
        value = instead.get(field.name, getattr(config, field.name))
        if str(field.type).startswith("Positional"):
            ahead += _plain(value)
        elif is_dataclass(value):
            words += _changed(field, value)
        else:
            words += _option(field.name, value)
    return shlex.join(["loopwm", "study", study, *ahead, *words])


def _option(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    # A tuple without items cannot be typed, and is what leaving the option out gives.
    return [f"--{flag}", *_plain(value)] if value is not None and value != () else []


def _changed(field: Field[Any], part: Any) -> list[str]:
    """Of settings within the settings, those that are not the usual ones."""
    usual = field.default_factory() if field.default_factory is not MISSING else field.default
    return [
        word
        for option, value in vars(part).items()
        if value != getattr(usual, option)
        for word in _option(f"{field.name}.{option}", value)
    ]


def _plain(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, tuple) else [str(value)]
