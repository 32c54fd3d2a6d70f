"""`loopwm study gather`: the results of several studies as one published file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loopwm.errors import UserError
from loopwm.files import refuse_existing, write_json
from loopwm.studies.config import GatherConfig


def gather(config: GatherConfig) -> Path:
    """Write `config.out`: all figures side by side, and behind them every result whole.

    Raises:
        UserError: a file is missing or is no study's result; two give a figure of the same name; `config.out` exists.
    """
    refuse_existing(config.out, "move it away or choose another file with --out")
    if not config.parts:
        raise UserError("Name at least one result of a study, such as runs/study-adaptive/adaptive-depth.json.")
    parts = {path: read_result(path) for path in config.parts}
    figures: dict[str, float] = {}
    if len({path.stem for path in parts}) < len(parts):
        raise UserError("Two of the files have one name, by which their parts are told apart; rename one of them.")
    for path, part in parts.items():
        both = sorted(figures.keys() & part["figures"].keys())
        if both:
            raise UserError(f"{path} gives {', '.join(both)} again; leave one of the files out.")
        figures |= part["figures"]
    write_json(
        config.out,
        {
            "command": config.command,
            "commands": [part["command"] for part in parts.values()],
            "figures": figures,
            "parts": {path.stem: part for path, part in parts.items()},
        },
    )
    return config.out


def read_result(path: Path) -> dict[str, Any]:
    """The result of a study.

    Raises:
        UserError: there is none, or it is none.
    """
    if not path.is_file():
        raise UserError(f"There is no result at {path}; make it with: loopwm study NAME --out {path}")
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not the result of a study: it is no JSON.") from error
    if not isinstance(content, dict) or not {"command", "figures"} <= content.keys():
        raise UserError(f"{path} is not the result of a study: it needs 'command' and 'figures'.")
    return content
