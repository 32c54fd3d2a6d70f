"""Recorded episodes of a text world: one Parquet file, frozen, with a manifest and a digest.

One row per observation o_k of an episode of L transitions, so L + 1 rows: the row of o_k also holds a_k and r_k, which
leave it; in the final row `action` is null. What is the same all episode long is repeated, which costs nothing, as
Parquet stores it once.

    episode int32   step int32   observation, action string   reward, score float32   look, inventory string
    game, task_type, split, actor, description, initial string   seed int64   terminated bool
    metadata `loopwm-text`: the manifest, JSON
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwm.errors import UserError
from loopwm.files import atomic_write, refuse_existing

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
KEY = b"loopwm-text"
"""Where the manifest is in the metadata of the file, and by which a file is known to be such a recording."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class TextEpisode:
    """L actions and what was read before and after each of them.

    Attributes:
        observations: o_0 ... o_L, what the world answered; o_0 is what it says at the start.
        actions: a_0 ... a_{L-1}.
        scores: total score before each action and at the end, L + 1 numbers; r_k = scores[k + 1] - scores[k].
        looks, inventories: what `look` and `inventory` would have answered, L + 1 each; empty where not recorded.
        terminated: the world ended the episode, rather than a limit.
        game: which of the world's games, such as `boil/12`.
        task_type: what tables are broken down by, such as `Boil`.
        split: `train`, `validation` or `test`, after the world's official splits.
        actor: who acted: `gold`, `expert`, `noisy`, `random`.
        description: the task in words, known all episode long.
        initial: the complete initial state in words; empty where not recorded.
        seed: what reproduces the actor's choices; -1 where nothing does.
    """

    observations: tuple[str, ...]
    actions: tuple[str, ...]
    scores: tuple[float, ...]
    terminated: bool
    game: str
    task_type: str
    split: str
    actor: str
    description: str
    initial: str = ""
    looks: tuple[str, ...] = ()
    inventories: tuple[str, ...] = ()
    seed: int = -1

    def __post_init__(self) -> None:
        rows = len(self.actions) + 1
        if rows < 2:
            raise UserError(f"The episode of {self.game} has no action; an episode needs at least one.")
        for name in ("observations", "scores"):
            if len(getattr(self, name)) != rows:
                raise UserError(
                    f"The episode of {self.game} has {len(self.actions)} actions and {len(getattr(self, name))} "
                    f"{name}; {rows} are needed, one more than actions."
                )
        for name in ("looks", "inventories"):
            if len(getattr(self, name)) not in (0, rows):
                raise UserError(
                    f"The episode of {self.game} has {len(getattr(self, name))} {name}; {rows} are needed, or none."
                )
        if self.split not in SPLITS:
            raise UserError(f"The episode of {self.game} is of split '{self.split}', not one of {', '.join(SPLITS)}.")

    @property
    def length(self) -> int:
        """L, the number of transitions."""
        return len(self.actions)


@dataclass(frozen=True)
class TextManifest:
    """Where a recording is from.

    Attributes:
        world: `scienceworld`, `alfworld` or `textworld`.
        command: what to type to record the same again.
        versions: distribution name -> version, of everything that shaped the words.
        digest: of all rows; filled in when written.
    """

    world: str
    command: str
    versions: dict[str, str] = field(default_factory=dict)
    digest: str = ""
    schema_version: int = SCHEMA_VERSION


def write_recording(path: Path, episodes: Iterable[TextEpisode], manifest: TextManifest) -> TextManifest:
    """Write a new recording, atomically; what comes back has the digest.

    Raises:
        UserError: `path` exists, or there is no episode.
        LoopwmError: the disk refused.
    """
    pq = parquet()
    refuse_existing(path, "choose another path or remove it")
    table = _table(list(episodes))
    manifest = replace(manifest, digest=_digest(table))
    with atomic_write(path) as aside:
        pq.write_table(table.replace_schema_metadata({KEY: json.dumps(asdict(manifest))}), aside, compression="zstd")
    return manifest


WHICH = "scienceworld|alfworld|textworld"
"""Worlds that are recorded so, for messages; the registry of worlds is not imported for them."""


def missing(path: Path) -> str:
    """What to do where there is no recording."""
    return f"There is no recording at {path}; record one with: loopwm collect {WHICH} --out {shlex.quote(str(path))}"


def read_recording(path: Path) -> tuple[TextManifest, list[TextEpisode]]:
    """Every episode of the recording at `path`, in order, checked against its digest.

    Raises:
        UserError: missing, not such a recording, of another version, or damaged.
    """
    pq, path = parquet(), Path(path)
    if not path.is_file():
        raise UserError(missing(path))
    try:
        table = pq.read_table(path)
        manifest = TextManifest(**json.loads((table.schema.metadata or {})[KEY]))
    except KeyError:
        raise UserError(
            f"{path} is no text recording of loopwm; record one with: loopwm collect {WHICH} --out FILE"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} cannot be read ({reason}); it may be truncated: record it again.") from None
    if manifest.schema_version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {manifest.schema_version}, this loopwm reads version {SCHEMA_VERSION}; record "
            "it again or use the loopwm version that wrote it."
        )
    if _digest(table) != manifest.digest:
        raise UserError(f"{path} is not what was recorded: its digest differs from its manifest; record it again.")
    return manifest, _episodes(table)


def is_recording(path: Path) -> bool:
    """Whether there is a text recording at `path`, by its metadata alone."""
    if path.suffix != ".parquet":
        return False
    try:
        return KEY in (parquet().read_schema(path).metadata or {})
    except (OSError, ValueError, UserError):
        return False


def read_manifest(path: Path) -> TextManifest | None:
    """What the recording at `path` says about itself, its rows unread and unchecked; None where there is none."""
    if not is_recording(path):
        return None
    try:
        return TextManifest(**json.loads((parquet().read_schema(path).metadata or {})[KEY]))
    except (ValueError, TypeError):
        return None


_AT_ONCE = 4096
"""Rows of which the digest is taken together."""
_EPISODE_COLUMNS = ("game", "task_type", "split", "actor", "description", "initial", "seed", "terminated")
_ROW_COLUMNS = ("observation", "action", "reward", "score", "look", "inventory")


def _schema() -> pa.Schema:
    import pyarrow as pa

    types = {"seed": pa.int64(), "terminated": pa.bool_(), "reward": pa.float32(), "score": pa.float32()}
    index = [("episode", pa.int32()), ("step", pa.int32())]
    return pa.schema(index + [(name, types.get(name, pa.string())) for name in (*_ROW_COLUMNS, *_EPISODE_COLUMNS)])


def _table(episodes: list[TextEpisode]) -> pa.Table:
    import pyarrow as pa

    if not episodes:
        raise UserError("A recording needs at least one episode, none was given.")
    columns: dict[str, list[Any]] = {name: [] for name in _schema().names}
    for number, episode in enumerate(episodes):
        rows = episode.length + 1
        gains = [after - before for before, after in itertools.pairwise(episode.scores)]
        of_rows = {
            "observation": episode.observations,
            "action": (*episode.actions, None),
            "reward": (*gains, 0.0),
            "score": episode.scores,
            "look": episode.looks or [None] * rows,
            "inventory": episode.inventories or [None] * rows,
            "step": range(rows),
            "episode": [number] * rows,
        }
        for name, values in of_rows.items():
            columns[name].extend(values)
        for name in _EPISODE_COLUMNS:
            columns[name].extend([getattr(episode, name)] * rows)
    return pa.table(columns, schema=_schema())


def _episodes(table: pa.Table) -> list[TextEpisode]:
    steps = table.column("step").to_pylist()
    edges = [row for row, step in enumerate(steps) if step == 0] + [table.num_rows]
    rows = {name: table.column(name).to_pylist() for name in _ROW_COLUMNS if name != "reward"}
    # The first row of an episode alone: what is repeated in all others, read as strings, would fill the memory.
    heads = table.select(_EPISODE_COLUMNS).take(edges[:-1]).to_pylist()
    return [
        _episode(rows, head, first, last) for head, (first, last) in zip(heads, itertools.pairwise(edges), strict=True)
    ]


def _episode(rows: dict[str, list[Any]], head: dict[str, Any], first: int, last: int) -> TextEpisode:
    def text(name: str) -> tuple[str, ...]:
        found = rows[name][first:last]
        return () if found[0] is None else tuple(found)

    return TextEpisode(
        observations=tuple(rows["observation"][first:last]),
        actions=tuple(rows["action"][first : last - 1]),
        scores=tuple(rows["score"][first:last]),
        looks=text("look"),
        inventories=text("inventory"),
        **head,
    )


def _digest(table: pa.Table) -> str:
    """32 hexadecimal digits that change when any row does, whatever version of Parquet wrote them.

    Of the JSON lists [name, values], one after the other, which are written piece by piece as they may not fit.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in table.column_names:
        digest.update(f"[{json.dumps(name)}, [".encode())
        for start in range(0, table.num_rows, _AT_ONCE):
            values = json.dumps(table.column(name).slice(start, _AT_ONCE).to_pylist(), ensure_ascii=False)
            digest.update(((", " if start else "") + values[1:-1]).encode())
        digest.update(b"]]")
    return digest.hexdigest()


def parquet() -> Any:
    """The module `pyarrow.parquet`.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError(
            'Text recordings are Parquet files, which need pyarrow: pip install "loopwm[parquet]"'
        ) from None
    return pq
