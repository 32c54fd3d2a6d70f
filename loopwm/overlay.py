"""One configuration laid over another: preset < size < file < command line."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from loopwm.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


def overlay(base: Config, path: Path) -> Config:
    """`base` with the values that the YAML file at `path` gives; what the file leaves out stays.

    Args:
        base: a configuration dataclass, possibly nested.
        path: a file such as the config.yaml that every run writes.

    Raises:
        UserError: no such file, not YAML, an option that does not exist, or a value that does not fit.
    """
    import yaml
    from pydantic import TypeAdapter, ValidationError

    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give a file such as the config.yaml of a run."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not a YAML file ({' '.join(str(error).split())}); correct or replace it."
        ) from error
    try:
        return TypeAdapter(type(base)).validate_python(merge(asdict(base), values, path))
    except ValidationError as error:
        fault = error.errors()[0]
        option = ".".join(str(part) for part in fault["loc"])
        raise UserError(f"{path}: {option}: {fault['msg']}, got {fault['input']!r}; correct that line.") from error


def merge(known: dict[str, Any], values: Any, path: Path, prefix: str = "") -> dict[str, Any]:
    """`known` with `values` put in its place, mapping by mapping."""
    if not isinstance(values, dict):
        where = f"'{prefix.rstrip('.')}'" if prefix else "the file"
        raise UserError(f"{path}: {where} must be a mapping from options to values; see the config.yaml of any run.")
    merged = dict(known)
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"known are {', '.join(known)}."
            raise UserError(f"{path}: there is no option '{prefix}{name}'; {hint}")
        inner = known[name]
        merged[name] = merge(inner, value, path, f"{prefix}{name}.") if isinstance(inner, dict) else value
    return merged
