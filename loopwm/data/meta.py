"""What a store says about itself: spaces, labels, time convention, schema version and provenance."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loopwm.errors import UserError
from loopwm.spaces import ActionSpec, ObservationSpec

SCHEMA_VERSION = 1
TIME_CONVENTION = "transition k: (o_k, a_k) -> (r_k, c_k, o_{k+1})"
# The HDF5 attribute that holds the metadata, and by which a file is known to be a store.
ATTRIBUTE = "loopwm"


@dataclass(frozen=True)
class StoreMeta:
    """What a store holds and where it came from.

    Attributes:
        world: registry name of the world.
        observation, action: what one row's observation and action are.
        label_names: per-transition difficulty labels, in column order.
        seed: base seed of the recording; -1 when unknown.
        command: what to type to record the same again.
        versions: distribution name -> version, of everything that shaped the numbers.
    """

    world: str
    observation: ObservationSpec
    action: ActionSpec
    label_names: tuple[str, ...] = ()
    seed: int = -1
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    time_convention: str = TIME_CONVENTION
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """One line of JSON, the inverse of `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> StoreMeta:
        """Raises ValueError, KeyError or TypeError when `text` is not the metadata of a store."""
        values: dict[str, Any] = json.loads(text)
        seen, act = values["observation"], values["action"]
        values["observation"] = ObservationSpec(
            kind=seen["kind"],
            shape=tuple(seen["shape"]),
            names=tuple(seen["names"]),
            rates=tuple((name, rate) for name, rate in seen["rates"]),
            dt=seen["dt"],
        )
        values["action"] = ActionSpec(act["kind"], act["size"], tuple(act["low"]), tuple(act["high"]))
        values["label_names"] = tuple(values["label_names"])
        return cls(**values)

    def column_shapes(self) -> dict[str, tuple[int, ...]]:
        """Dataset path -> shape of one row, for every column of rows."""
        shapes: dict[str, tuple[int, ...]] = {
            "observation": self.observation.shape,
            "action": (self.action.stored_size,),
            "reward": (),
            "continue": (),
        }
        return shapes | {f"label/{name}": () for name in self.label_names}

    def column_type(self, name: str) -> np.dtype:
        """Type of a column: uint8 for images, float32 for all else."""
        return self.observation.dtype if name == "observation" else np.dtype("<f4")

    @property
    def rows_at_once(self) -> int:
        """Rows that are read or written together: many small ones, or some 64 MiB of large ones."""
        bytes_a_row = self.observation.size * self.observation.dtype.itemsize
        return max(1, min(2**16, 2**26 // bytes_a_row))


def read_meta(path: Path, text: object) -> StoreMeta:
    """The metadata of the file at `path`, from `text`, the value of its attribute (None when it has none).

    Raises:
        UserError: the file is not a store, is of another schema version or time convention, or is damaged.
    """
    if not isinstance(text, str):
        raise UserError(
            f"{path} is an HDF5 file, but not a loopwm store; record one with: loopwm collect billiards --out FILE"
        )
    try:
        version = json.loads(text)["schema_version"]
        meta = StoreMeta.from_json(text) if version == SCHEMA_VERSION else None
    except (ValueError, KeyError, TypeError, UserError) as error:
        raise UserError(f"{path} has damaged metadata ({error}); record it again.") from error
    if meta is None:
        raise UserError(
            f"{path} has schema version {version}, this loopwm reads version {SCHEMA_VERSION}; record it again or "
            "use the loopwm version that wrote it."
        )
    if meta.time_convention != TIME_CONVENTION:
        raise UserError(
            f"{path} follows the time convention '{meta.time_convention}', loopwm needs '{TIME_CONVENTION}'; "
            "shift its columns or record it again."
        )
    return meta
