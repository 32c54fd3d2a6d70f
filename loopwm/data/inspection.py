"""What a recording holds, as tables and as a drawing."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loopwm.data.formats.source import Source
from loopwm.data.meta import StoreMeta
from loopwm.errors import UserError
from loopwm.files import atomic_write

if TYPE_CHECKING:
    from rich.table import Table

PANELS = 100
"""Histograms in a drawing, at most: thousands take minutes, and more than an image can be high."""
KEPT = 20_000
"""Rows of every column that are kept for quantiles and drawings, drawn at random from all."""


@dataclass(frozen=True)
class Inspection:
    """A recording in numbers.

    Attributes:
        meta: what it says of itself.
        lengths: of all episodes. terminated: how many of them ended by themselves.
        observations: (n, features) a sample. actions: (n, A). rewards: (n,). labels: name -> (n,).
    """

    meta: StoreMeta
    lengths: np.ndarray
    terminated: int
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    labels: dict[str, np.ndarray]


def inspect(source: Source, seed: int = 0) -> Inspection:
    """Read all episodes once.

    Raises:
        UserError: one is none, or there are none.
    """
    generator = np.random.default_rng(seed)
    lengths, terminated = [], 0
    samples: dict[str, _Sample] = {}
    for episode in source.episodes():
        lengths.append(episode.length)
        terminated += episode.terminated
        flat = episode.observations.reshape(-1, episode.observations.shape[-1])
        columns = {"observation": flat, "action": episode.actions, "reward": episode.rewards[:, None]}
        columns |= {f"label {name}": values[:, None] for name, values in episode.labels.items()}
        for name, values in columns.items():
            samples.setdefault(name, _Sample(generator)).add(values)
    if not lengths:
        raise UserError("There are no episodes.")
    found = {name: sample.rows() for name, sample in samples.items()}
    return Inspection(
        source.meta,
        np.array(lengths),
        terminated,
        found["observation"],
        found["action"],
        found["reward"][:, 0],
        {name.removeprefix("label "): rows[:, 0] for name, rows in found.items() if name.startswith("label ")},
    )


class _Sample:
    """A uniform sample of rows that come in blocks: every row gets a random number, the smallest stay."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._rows: list[np.ndarray] = []
        self._keys: list[np.ndarray] = []
        self._size = 0

    def add(self, rows: np.ndarray) -> None:
        """Take a block (n, F)."""
        self._rows.append(rows)
        self._keys.append(self._generator.random(len(rows)))
        self._size += len(rows)
        if self._size > 4 * KEPT:
            self._shrink()

    def _shrink(self) -> None:
        rows, keys = np.concatenate(self._rows), np.concatenate(self._keys)
        best = np.sort(np.argsort(keys, kind="stable")[:KEPT])
        self._rows, self._keys, self._size = [rows[best]], [keys[best]], len(best)

    def rows(self) -> np.ndarray:
        """(at most KEPT, F)."""
        self._shrink()
        return self._rows[0]


def tables(found: Inspection) -> list[Table]:
    """For the terminal: the whole, then one line for each column."""
    from rich.table import Table

    meta = found.meta
    whole = Table(title=meta.world, show_header=False)
    low, middle, high = np.quantile(found.lengths, (0, 0.5, 1)).astype(int)
    for name, value in (
        ("episodes", f"{len(found.lengths):,}, {found.terminated:,} of them terminated"),
        ("transitions", f"{found.lengths.sum():,}"),
        ("length", f"{low} to {high}, median {middle}"),
        ("observation", f"{meta.observation.kind} {' x '.join(map(str, meta.observation.shape))}"),
        ("action", f"{meta.action.kind}, {meta.action.stored_size} number(s)" + _choices(meta)),
        ("labels", ", ".join(meta.label_names) or "none"),
        ("seconds per step", f"{meta.observation.dt:g}" if meta.observation.dt else "unknown"),
        ("made by", meta.command or "unknown"),
    ):
        whole.add_row(name, value)
    numbers = Table(title="numbers", caption=f"from at most {KEPT:,} rows of each, drawn at random")
    for heading in ("column", "smallest", "5%", "median", "95%", "largest", "spread", "zero", ""):
        numbers.add_column(heading, justify="left" if heading in ("column", "") else "right")
    for name, values in columns(found).items():
        quantiles = [f"{value:.4g}" for value in np.quantile(values, (0, 0.05, 0.5, 0.95, 1))]
        numbers.add_row(name, *quantiles, f"{values.std():.4g}", f"{(values == 0).mean():.0%}", sparkline(values))
    return [whole, numbers]


def _choices(meta: StoreMeta) -> str:
    return f" of {', '.join(map(str, meta.action.choices))} choices" if meta.action.choices else ""


def columns(found: Inspection) -> dict[str, np.ndarray]:
    """Name -> sampled values of every column."""
    named = dict(zip(found.meta.observation.names, found.observations.T, strict=True))
    named |= {f"action {i}": values for i, values in enumerate(found.actions.T)}
    named["reward"] = found.rewards
    return named | {f"label {name}": values for name, values in found.labels.items()}


def sparkline(values: np.ndarray, bins: int = 16) -> str:
    """A histogram in one line; bars are square roots of counts, so that rare values are seen."""
    counts = np.sqrt(np.histogram(values.astype(np.float64), bins)[0])
    levels = np.ceil(8 * counts / counts.max()).astype(int)
    return "".join(" ▁▂▃▄▅▆▇█"[level] for level in levels)


def draw(found: Inspection, out: Path) -> None:
    """Histograms of lengths and of every column, the first PANELS of them, as PNG or SVG by the name of `out`.

    Raises:
        UserError: neither of them.
    """
    from matplotlib.figure import Figure

    if out.suffix not in (".png", ".svg"):
        raise UserError(f"{out} should end in .png or .svg.")
    every = {"episode length": found.lengths} | columns(found)
    panels = dict(itertools.islice(every.items(), PANELS))
    across = 4
    down = -(-len(panels) // across)
    figure = Figure((3 * across, 2 * down), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(down, across, squeeze=False).flat, panels.items(), strict=False):
        axes.hist(values, bins=30)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
    for axes in figure.get_axes()[len(panels) :]:
        axes.remove()
    if len(every) > len(panels):
        figure.suptitle(f"the first {len(panels)} of {len(every)} columns")
    with atomic_write(out) as aside:
        figure.savefig(aside, format=out.suffix[1:], dpi=120)
