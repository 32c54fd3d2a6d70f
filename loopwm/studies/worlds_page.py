"""docs/worlds.md from what is stored in results/, so that no number there is typed by hand: of `loopwm study world`,
one JSON each, of `loopwm study capacity`, and of the benchmarks of recording, reading and the examples.

python -m loopwm.studies.worlds_page results docs/worlds.md
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwm.errors import UserError
from loopwm.progress import duration
from loopwm.studies.markdown import from_words, interval_text


@dataclass(frozen=True)
class Published:
    """What is stored; None where there is nothing yet.

    Attributes:
        worlds: name -> result of `loopwm study world`, by name. capacity: of `loopwm study capacity`.
        recording, waiting, store, examples: of benchmarks/, recording_speed.py, data_waiting.py, large_store.py and
            examples.py.
    """

    worlds: dict[str, dict[str, Any]]
    capacity: dict[str, Any] | None = None
    recording: dict[str, Any] | None = None
    waiting: dict[str, Any] | None = None
    store: dict[str, Any] | None = None
    examples: dict[str, Any] | None = None

    @classmethod
    def read(cls, folder: Path) -> Published:
        """From results/.

        Raises:
            UserError: there is no world.
        """
        worlds = {path.stem: json.loads(path.read_text()) for path in sorted((folder / "worlds").glob("*.json"))}
        if not worlds:
            raise UserError(
                f"There are no results in {folder / 'worlds'}; make one with: loopwm study world NAME --out "
                f"{folder / 'worlds' / 'NAME.json'}"
            )
        names = ("capacity", "recording-speed", "data-waiting", "large-store", "examples")
        others = (folder / f"{name}.json" for name in names)
        return cls(worlds, *(json.loads(path.read_text()) if path.is_file() else None for path in others))


def page(found: Published) -> str:
    """All tables."""
    tables = [part(found.worlds) for part in (errors, imagined, controls, depths, loops, sizes, made_by)]
    if found.capacity is not None:
        tables.append(capacity(found.capacity))
    return "\n\n".join([*tables, *data(found)])


def errors(results: dict[str, dict[str, Any]]) -> str:
    """One step ahead: three systems."""
    lines = [
        "### One step ahead",
        "",
        "| world | looped | looped / equal FLOPs | looped / equal parameters | n, episodes |",
        "|---|---|---|---|---|",
    ]
    for name, result in results.items():
        found = result["intervals"]
        keys = ("mse_looped", "mse_looped_over_equal_flops", "mse_looped_over_equal_params")
        sample = f"{found['mse_looped']['n']:,}, {found['mse_looped']['episodes']}"
        lines.append(f"| {name} | " + " | ".join(interval_text(found[key]) for key in keys) + f" | {sample} |")
    return "\n".join(lines)


def imagined(results: dict[str, dict[str, Any]], horizon: int = 10) -> str:
    """Open loop: three systems."""
    lines = [
        f"### Imagined, {horizon} steps ahead",
        "",
        "Error at that step, mean over seeds; in brackets those of the seeds.",
        "",
        "| world | looped | stack, equal FLOPs | stack, equal parameters |",
        "|---|---|---|---|",
    ]
    for name, result in results.items():
        cells = []
        for system in ("looped", "stack-equal-flops", "stack-equal-params"):
            curves = [dict(run["open_loop"])["imagined"] for run in result["runs"] if run["system"] == system]
            found = [curve[horizon - 1] for curve in curves if len(curve) >= horizon]
            seeds = ", ".join(f"{error:.3f}" for error in found)
            cells.append(f"{sum(found) / len(found):.3f} ({seeds})" if found else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def controls(results: dict[str, dict[str, Any]]) -> str:
    """Open loop: the looped model over the best control, step by step."""
    horizons = (1, 2, 5, 10)
    lines = [
        "### Against controls",
        "",
        "Open-loop error of the looped model over that of the best control (copy-last, constant velocity, linear), "
        "mean over seeds; below 1 the model is better. Last, the worst seed at the worst of 1 to 10 steps.",
        "",
        "| world | " + " | ".join(f"{k} steps" for k in horizons) + " | worst |",
        "|---|" + "---|" * (len(horizons) + 1),
    ]
    for name, result in results.items():
        cells = [control_ratio(result, k) for k in horizons] + [result["figures"]["control_ratio_10"]]
        lines.append(f"| {name} | " + " | ".join("-" if math.isnan(cell) else f"{cell:.3f}" for cell in cells) + " |")
    return "\n".join(lines)


def control_ratio(result: dict[str, Any], horizon: int) -> float:
    """Mean over the looped runs; NaN beyond the longest episode."""
    ratios = []
    for run in result["runs"]:
        if run["system"] != "looped":
            continue
        curves = dict(run["open_loop"])
        if horizon > len(curves["imagined"]):
            return math.nan
        best = min(steps[horizon - 1] for name, steps in curves.items() if name not in ("imagined", FLOOR))
        ratios.append(curves["imagined"][horizon - 1] / best)
    return sum(ratios) / len(ratios)


FLOOR = "floor, every observation in view"


def depths(results: dict[str, dict[str, Any]]) -> str:
    """Error at other numbers of loops."""
    lines = [
        "### Error at T loops, over that at mu",
        "",
        "| world | 1 | 2 | 4 | mu | 8 mu |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        runs = [run["depth"] for run in result["runs"] if run["system"] == "looped"]
        mu = result["config"]["model"]["loop"]["mu"]
        means = [sum(run[str(t)]["mean"] for run in runs) / len(runs) for t in (1, 2, 4, mu, 8 * mu)]
        lines.append(f"| {name} | " + " | ".join(f"{mean / means[3]:.3f}" for mean in means) + " |")
    return "\n".join(lines)


def loops(results: dict[str, dict[str, Any]]) -> str:
    """Who gets the loops, by the labels of the engine."""
    lines = [
        "### Loops against difficulty",
        "",
        "The exit that needs fewest loops for at most 1% more error, thresholds picked on the episodes they are "
        "measured on; rank correlation of its loops and the engine's label, first seed.",
        "",
        "| world | exit | loops over mu, by seed | label | rank correlation | at matched target norm |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        found = result["allocation"]
        shares = ", ".join(f"{one['share']:.2f}" for one in found)
        labels = found[0]["labels"] or {"none": None}
        for label, part in labels.items():
            ranks = [interval_text(part[key]) for key in ("rank", "matched_rank")] if part else ["-", "-"]
            lines.append(f"| {name} | `{found[0]['rule']}` | {shares} | {label} | {ranks[0]} | {ranks[1]} |")
    return "\n".join(lines)


def sizes(results: dict[str, dict[str, Any]]) -> str:
    """Parameters, compute, time."""
    lines = [
        "### Size and speed",
        "",
        "| world | observation | transitions | updates | parameters: looped, equal FLOPs | MFLOPs per step | updates/s "
        "over the equal-FLOP stack's |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        f, seen = result["figures"], result["data"]["observation"]
        shape = " x ".join(map(str, seen["shape"]))
        lines.append(
            f"| {name} | {seen['kind']} {shape} | {result['data']['transitions']:,} | {result['updates']:,} of "
            f"{result['config']['train']['batch']} windows | {f['params_looped']:,}, "
            f"{f['params_equal_flops']:,} | {f['flops_step_looped'] / 1e6:.2f} | {f['updates_per_s_ratio']:.2f} |"
        )
    return "\n".join(lines)


def made_by(results: dict[str, dict[str, Any]]) -> str:
    """The commands."""
    one = next(iter(results.values()))
    lines = [
        f"Normalised squared errors on test episodes, {len(one['seeds'])} seeds, 95% intervals over episodes, ratios "
        "paired by episode. Made by:",
        "",
        "```bash no-run",
        *(result["command"] for result in results.values()),
        "```",
    ]
    return "\n".join(lines)


OTHERS = {
    "each": "one as large for each world",
    "parts": "one for each world, together as large",
    "shared-equal-flops": "shared stack, equal FLOPs",
    "shared-equal-params": "shared stack, equal parameters",
}


def capacity(result: dict[str, Any]) -> str:
    """One model for all worlds against the others: ratios, sizes, depth."""
    lines = ["### One shared model for all worlds", ""]
    for key, title in (("one_step", "One step ahead"), ("open_loop", "Imagined, mean over the steps")):
        lines += [
            f"{title}: error of the shared looped model over that of",
            "",
            "| world | its error | " + " | ".join(OTHERS.values()) + " |",
            "|---|---|" + "---|" * len(OTHERS),
        ]
        for world in (*result["worlds"], "mean"):
            own = result["intervals"].get(f"{key} shared {world}")
            ratios = [interval_text(result["intervals"][f"{key} shared/{other} {world}"]) for other in OTHERS]
            lines.append(f"| {world} | {interval_text(own) if own else ''} | " + " | ".join(ratios) + " |")
        lines.append("")
    lines += [*_capacity_sizes(result), "", *_capacity_depths(result), ""]
    lines += [
        "Squared errors of the entities that are there, in standard deviations of their world, of transitions in fours,"
        " the later of which carry what was seen before; "
        f"{len(result['seeds'])} seeds, {result['updates']:,} updates each, 95% intervals over episodes, ratios paired "
        "by episode, the mean over worlds geometric. Made by:",
        "",
        "```bash no-run",
        result["command"],
        "```",
    ]
    return "\n".join(lines)


def _capacity_sizes(result: dict[str, Any]) -> list[str]:
    figures, one = result["figures"], result["worlds"][0]
    lines = ["| | models | parameters of each | MFLOPs per step |", "|---|---|---|---|"]
    for name, title in {"shared": "shared, looped", **OTHERS}.items():
        single = name in ("each", "parts")
        key = f"{name} {one}" if single else name
        count = len(result["worlds"]) if single else 1
        lines.append(f"| {title} | {count} | {figures[f'params {key}']:,} | {figures[f'flops_step {key}'] / 1e6:.2f} |")
    return lines


def _capacity_depths(result: dict[str, Any]) -> list[str]:
    depth, mu = result["depth_of_shared"], str(result["config"]["model"]["loop"]["mu"])
    loops = list(next(iter(depth.values())))
    lines = [
        "One-step error of the shared looped model at T loops, over that at mu:",
        "",
        "| world | " + " | ".join(loops) + " |",
        "|---|" + "---|" * len(loops),
    ]
    for world, errors in depth.items():
        lines.append(f"| {world} | " + " | ".join(f"{errors[t] / errors[mu]:.3f}" for t in loops) + " |")
    return lines


def data(found: Published) -> list[str]:
    """How fast worlds are recorded, and what reading costs."""
    measured = (found.recording, found.waiting, found.store, found.examples)
    parts = ["### Recording, reading"] if any(one is not None for one in measured) else []
    if found.recording is not None:
        lines = ["| world | transitions/s recorded | over the bare engine loop's |", "|---|---|---|"]
        for one in found.recording["worlds"]:
            ratio = f"{one['ratio']:.2f} ({one['ratio_low']:.2f} to {one['ratio_high']:.2f})"
            lines.append(f"| {one['world']} | {one['recorded_per_s']:,.0f} | {ratio} |")
        parts.append("\n".join(lines))
        parts.append(
            "One process, in processor time, in turns; in brackets 10% and 90% of the rounds. The bare loop steps the "
            "same episodes and keeps nothing. " + _made(found.recording)
        )
    if found.waiting is not None:
        lines = [
            "| training on | windows | an update | of it waiting for data | not read ahead |",
            "|---|---|---|---|---|",
        ]
        for one in found.waiting["worlds"]:
            shares = f"{100 * one['share']:.2f}% | {100 * one['share_not_read_ahead']:.2f}%"
            lines.append(f"| {one['world']} | {one['batch']} | {one['update']:.0f} ms | {shares} |")
        parts += ["\n".join(lines), _made(found.waiting)]
    if found.store is not None:
        one = found.store
        parts.append(
            f"Training on a store of {one['images_bytes'] / 1e9:.1f} GB of images, in a process that is held to "
            f"{one['limit_bytes'] / 2**30:.0f} GiB of its own memory, needed at most "
            f"{one['peak_own_bytes'] / 2**30:.2f} GiB of it. " + _made(one)
        )
    if found.examples is not None:
        took = [f"`examples/{one['example']}.py` {duration(one['seconds'])}" for one in found.examples["examples"]]
        parts.append(
            f"From nothing to a trained model and a plot, in minutes: {', '.join(took)}. " + _made(found.examples)
        )
    return parts


def _made(result: dict[str, Any]) -> str:
    return f"Made by `{result['command']}` on {result['processor']}."


if __name__ == "__main__":
    sys.exit(from_words(sys.argv[1:], "FOLDER FILE", lambda folders: page(Published.read(folders[0]))))
