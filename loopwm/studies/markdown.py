"""Published results as the table in README.md, so that no number there is typed by hand.

python -m loopwm.studies.markdown results/billiards.json README.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from loopwm.errors import UserError
from loopwm.files import atomic_write

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def results_table(result: dict[str, Any]) -> str:
    """The table and its sentences, from the content of results/billiards.json."""
    figures, intervals = result["figures"], result["intervals"]
    seeds, updates = len(result["seeds"]), result["updates"]
    rows = [
        ("looped", "looped", "mse_looped"),
        ("stack, equal FLOPs", "equal_flops", "mse_equal_flops"),
        ("stack, equal parameters", "equal_params", "mse_equal_params"),
    ]
    lines = [
        f"| system | parameters | MFLOPs per step | one-step error, {updates['short']} updates |",
        "|---|---|---|---|",
    ]
    for name, key, error in rows:
        flops = figures[f"flops_step_{key}"] / 1e6
        lines.append(f"| {name} | {figures[f'params_{key}']:,} | {flops:.2f} | {_interval(intervals[error])} |")
    paired = [
        ("the equal-FLOP stack", "mse_looped_over_equal_flops"),
        ("the equal-parameter stack", "mse_looped_over_equal_params"),
    ]
    ratios = "; ".join(f"{_interval(intervals[key])} of {name}'s" for name, key in paired)
    episodes, n = intervals["mse_looped"]["episodes"], intervals["mse_looped"]["n"]
    lines += [
        "",
        f"Normalised squared error of positions and velocities one step ahead, {seeds} seeds, n = {n:,} transitions "
        f"of {episodes} test episodes, 95% intervals over episodes. Paired, the looped error is {ratios}. With eight "
        f"times the loops of training it is {figures['mse_looped_8mu'] / figures['mse_looped']:.3f} times that at mu. "
        f"The looped model trains at {figures['updates_per_s_ratio']:.2f} times the equal-FLOP stack's updates per "
        f"second ({figures['updates_per_s_ratio_fixed_depth']:.2f} if every sequence makes mu loops). In "
        f"{result['stability_steps']:,} imagined steps {figures['nonfinite_10k']} numbers were not finite.",
    ]
    if "mse_looped_long" in figures:
        ratio = _interval(intervals["mse_looped_long_over_equal_flops_long"])
        long_seeds = len(result["long_seeds"])
        lines.append(
            f"After {updates['long']} updates ({long_seeds} seed{'s'[: long_seeds != 1]}) the looped error is "
            f"{_interval(intervals['mse_looped_long'])} against {_interval(intervals['mse_equal_flops_long'])} of the "
            f"equal-FLOP stack, ratio {ratio}."
        )
    per_seed = [run for run in result["runs"] if run["updates"] == updates["short"]]
    spread = "; ".join(
        f"{system} " + ", ".join(f"{run['one_step']['mean']:.3f}" for run in per_seed if run["system"] == system)
        for system in dict.fromkeys(run["system"] for run in per_seed)
    )
    lines.append(f"The intervals do not cover the choice of the seed; one by one the seeds gave: {spread}.")
    lines += ["", f"Made by `{result['command']}`."]
    return "\n".join(lines)


def deferred_table(result: dict[str, Any]) -> str:
    """What decoding only the end costs and saves, from the content of a `loopwm study deferred`."""
    intervals, costs = result["intervals"], result["costs"]
    horizons = result["horizons"]
    arms = [("decoded at every step", "each"), ("decoded at the end", "deferred")]
    ablations = [("without consistency", "no_consistency"), ("without contraction budget", "no_budget")]
    rows = [(name, [f"mse_{key}_k{k}" for k in horizons]) for name, key in (*arms, *ablations)]
    rows += [("ratio, end / every step", [f"dd_error_ratio_k{k}" for k in horizons])]
    rows += [(f"ratio, {name}", [f"dd_{key}_error_ratio_k{k}" for k in horizons]) for name, key in ablations]
    lines = ["| error at step K | " + " | ".join(f"K = {k}" for k in horizons) + " |"]
    lines += ["|---|" + "---|" * len(horizons)]
    lines += [f"| {name} | " + " | ".join(_interval(intervals[key]) for key in keys) + " |" for name, keys in rows]
    seeds, sample = len(result["seeds"]), intervals[f"mse_each_k{horizons[0]}"]
    decoded, update, imagination, memory = (costs[name] for name in ("decoded", "update", "imagination", "memory"))
    lines += [
        "",
        f"Normalised squared error at the end of imagined futures, {seeds} seed{'s'[: seeds != 1]}, n = "
        f"{sample['n']:,} futures of {sample['episodes']} test episodes at K = {horizons[0]}, 95% intervals over "
        f"episodes; ratios are paired. To imagine {costs['horizon']} steps, {decoded['deferred']:g} latent is decoded "
        f"instead of {decoded['each']:g}, in {imagination['ratio']:.3f} of the time ({imagination['low']:.3f} to "
        f"{imagination['high']:.3f} over rounds). A training update takes {update['ratio']:.3f} of the time "
        f"({update['low']:.3f} to {update['high']:.3f}) and keeps {memory['ratio']:.3f} of the memory.",
        "",
        f"Made by `{result['command']}`.",
    ]
    return "\n".join(lines)


def _interval(value: dict[str, Any]) -> str:
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def with_table(document: str, table: str) -> str:
    """The document with the text between the two markers replaced.

    Raises:
        UserError: a marker is missing.
    """
    if BEGIN not in document or END not in document:
        raise UserError(f"The document needs the lines {BEGIN} and {END} around the place of the table.")
    head, rest = document.split(BEGIN, 1)
    return f"{head}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}"


def main(result: Path, document: Path) -> None:
    """Rewrite the table in `document` from the file `result`."""
    text = with_table(document.read_text(), results_table(json.loads(result.read_text())))
    with atomic_write(document) as aside:
        aside.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
