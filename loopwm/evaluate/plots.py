"""Figures of the report as inline SVG that follows the page's light or dark theme.

Matplotlib knows fixed colours only, so every figure is drawn in marker colours that are replaced by CSS variables
afterwards. Text stays text: no fonts are embedded.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from loopwm.evaluate.bootstrap import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = ("#040401", "#040402", "#040403", "#040404", "#040405", "#040406", "#040407")
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid"} | {
    colour: f"--series-{index}" for index, colour in enumerate(SERIES)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "loopwm",
    "font.size": 11,
    "font.family": "sans-serif",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.minor.visible": False,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
}


Dash = str | tuple[int, tuple[float, ...]]


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        label: in the legend; empty for none.
        x: positions. y: intervals, or plain numbers; None where there is nothing to show.
        colour: an entry of SERIES, or MUTED.
        dash: matplotlib line style. marker: matplotlib marker, empty for none.
    """

    label: str
    x: Sequence[float]
    y: Sequence[Interval | float | None]
    colour: str
    dash: Dash = "-"
    marker: str = ""


@dataclass(frozen=True)
class Axis:
    """What an axis shows: its label, whether it is logarithmic, and fixed ticks (position, text) or limits if any."""

    label: str
    log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()
    limits: tuple[float | None, float | None] = (None, None)


def line_figure(name: str, lines: Sequence[Line], x: Axis, y: Axis, *, level: float | None = None) -> str:
    """Curves with shaded intervals; `level` draws a thin horizontal line, for example at 1."""

    def draw(axes: Axes) -> None:
        if level is not None:
            axes.axhline(level, color=MUTED, linewidth=1.0, linestyle=":")
        for line in lines:
            mean = [
                value.mean if isinstance(value, Interval) else np.nan if value is None else value for value in line.y
            ]
            axes.plot(
                line.x, mean, linestyle=line.dash, color=line.colour, marker=line.marker, markersize=4, label=line.label
            )
            bands = [value for value in line.y if isinstance(value, Interval)]
            if len(bands) == len(line.y):
                low, high = [band.low for band in bands], [band.high for band in bands]
                axes.fill_between(line.x, low, high, color=line.colour, alpha=0.15, linewidth=0)

    return _figure(name, draw, x, y, legend=any(line.label for line in lines))


def bar_figure(
    name: str, groups: Sequence[str], bars: Sequence[Line], x: Axis, y: Axis, *, level: float | None = None
) -> str:
    """Points with error bars, side by side within each group (the bins of a difficulty label)."""

    def draw(axes: Axes) -> None:
        if level is not None:
            axes.axhline(level, color=MUTED, linewidth=1.0, linestyle=":")
        for index, bar in enumerate(bars):
            shift = 0.16 * (index - (len(bars) - 1) / 2)
            found = [(place + shift, value) for place, value in zip(bar.x, bar.y, strict=True)]
            intervals = [(place, value) for place, value in found if isinstance(value, Interval)]
            means = np.array([value.mean for _, value in intervals])
            reach = np.array([(value.mean - value.low, value.high - value.mean) for _, value in intervals])
            axes.errorbar(
                [place for place, _ in intervals],
                means,
                yerr=np.maximum(reach.T, 0.0) if len(intervals) else None,
                fmt=bar.marker or "o",
                color=bar.colour,
                markersize=4.5,
                elinewidth=1.4,
                label=bar.label,
            )

    ticks = tuple((float(place), text) for place, text in enumerate(groups))
    return _figure(name, draw, Axis(x.label, ticks=ticks, limits=(-0.6, len(groups) - 0.4)), y, legend=len(bars) > 1)


def _figure(name: str, draw: Callable[[Axes], None], x: Axis, y: Axis, legend: bool) -> str:
    import matplotlib

    # Canvas and figure directly: pyplot would keep global state and look for a display.
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(dict(_STYLE)):
        figure = Figure(figsize=(4.8, 3.5), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        _finish(axes.xaxis, axes.set_xscale, axes.set_xlim, x)
        _finish(axes.yaxis, axes.set_yscale, axes.set_ylim, y)
        axes.set_xlabel(x.label)
        # Above the axis instead of beside it: on a phone every pixel of width counts.
        axes.set_title(y.label, loc="left", fontsize=10.5, color=MUTED)
        if legend:
            count = len(axes.get_legend_handles_labels()[1])
            figure.legend(loc="outside lower left", ncols=2 if count > 1 else 1, handlelength=1.6, columnspacing=1.2)
        stream = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Type", "Format"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    return inline(stream.getvalue(), name)


def _finish(axis, set_scale: Callable, set_limits: Callable, wanted: Axis) -> None:
    from matplotlib.ticker import LogLocator

    if wanted.log:
        set_scale("log")
    if any(limit is not None for limit in wanted.limits):
        set_limits(*wanted.limits)
    if wanted.ticks:
        axis.set_ticks([place for place, _ in wanted.ticks], labels=[text for _, text in wanted.ticks])
        axis.set_ticks([], minor=True)
    elif wanted.log:
        axis.set_major_formatter("{x:.3g}")
        axis.set_minor_formatter("")
        low, high = axis.get_view_interval()
        if high < 300 * low:
            # So short a range holds too few powers of ten to read a value off.
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))


def inline(svg: str, name: str) -> str:
    """An SVG document as a fragment of a page: theme colours, ids of its own, the page's font, no fixed size."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family:[^;\"]*;?", "", svg)
    svg = re.sub(r"font: (?:[\w-]+ )*([\d.]+)px[^;\"]*", r"font-size: \1px", svg)
    size = re.search(r'<svg[^>]*viewBox="([^"]+)"', svg)
    box = size[1] if size else "0 0 360 252"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg viewBox="{box}" role="img" {spaces}>{svg[svg.index(">") + 1 :]}'
