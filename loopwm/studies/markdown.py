"""Published results as the tables in README.md and docs/, so that no number there is typed by hand.

python -m loopwm.studies.markdown results/billiards.json README.md
python -m loopwm.studies.markdown results/adaptive-depth.json docs/adaptive-depth.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
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
        lines.append(f"| {name} | {figures[f'params_{key}']:,} | {flops:.2f} | {interval_text(intervals[error])} |")
    paired = [
        ("the equal-FLOP stack", "mse_looped_over_equal_flops"),
        ("the equal-parameter stack", "mse_looped_over_equal_params"),
    ]
    ratios = "; ".join(f"{interval_text(intervals[key])} of {name}'s" for name, key in paired)
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
        ratio = interval_text(intervals["mse_looped_long_over_equal_flops_long"])
        long_seeds = len(result["long_seeds"])
        lines.append(
            f"After {updates['long']} updates ({long_seeds} seed{'s'[: long_seeds != 1]}) the looped error is "
            f"{interval_text(intervals['mse_looped_long'])} against "
            f"{interval_text(intervals['mse_equal_flops_long'])} of the equal-FLOP stack, ratio {ratio}."
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
    lines += [f"| {name} | " + " | ".join(interval_text(intervals[key]) for key in keys) + " |" for name, keys in rows]
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


def adaptive_tables(result: dict[str, Any]) -> str:
    """What docs/adaptive-depth.md shows, from the content of results/adaptive-depth.json."""
    parts = result["parts"]
    sections = [exit_tables(parts["adaptive-depth"], result["figures"])]
    if "stability" in parts:
        sections.append(stability_table(parts["stability"]))
    if "deferred" in parts:
        sections.append("### Decoding only the end\n\n" + deferred_table(parts["deferred"]))
    return "\n\n".join([*sections, f"Gathered by `{result['command']}`."])


def exit_tables(result: dict[str, Any], figures: dict[str, float]) -> str:
    """Leaving the loop early: what it saves and costs, per rule and seed, from a `loopwm study adaptive`."""
    claim = next(iter(result["rules"].values()))[0]
    shares = "; ".join(
        f"`{rule}` " + ", ".join("none" if share is None else f"{share:.3f}" for share in found)
        for rule, found in result["shares_at_tolerance"].items()
    )
    exponents = ", ".join(
        f"{error / figures['mse_mu']:.3f} at {exponent}" for exponent, error in result["mse_8mu_by_exponent"].items()
    )
    lines = [
        *(exit_table(rule, runs) for rule, runs in result["rules"].items()),
        f"Calibrated on {claim['calibration']['episodes']:,} episodes recorded for it: at most "
        f"{claim['calibration']['excess']:.0%} more error than at T = mu with {claim['calibration']['confidence']:.0%} "
        f"confidence, one step ahead and over own rollouts of {claim['calibration']['horizon']} steps. Measured on "
        f"{claim['share']['episodes']} test episodes, n = {claim['share']['n']:,} transitions, 95% intervals over "
        f"episodes; of times, 10% and 90% over rounds. Fewest loops: `{result['rule']}`.",
        "Cheapest threshold within the tolerance one step ahead, picked and measured on the same validation "
        f"transitions, loops over mu, one number a seed: {shares}.",
        "### More loops than in training",
        f"Error at mu {figures['mse_mu']:.4f}, at 8 mu {figures['mse_8mu']:.4f}, ratio "
        f"{figures['mse_8mu'] / figures['mse_mu']:.4f}. By the exponent of the steps beyond mu the ratio is "
        f"{exponents} (0: whole steps).",
        f"Made by `{result['command']}`.",
    ]
    return "\n\n".join(lines)


def exit_table(rule: str, runs: list[dict[str, Any]]) -> str:
    """One rule, calibrated for every seed."""
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("threshold of the exit", lambda one: f"{one['calibration']['exit']['threshold']:.3g}"),
        ("loops over mu, one step ahead", lambda one: interval_text(one["share"])),
        ("loops over mu, own rollouts", lambda one: interval_text(one["rollout_share"])),
        ("excess error, one step ahead", lambda one: _percent(one["excess"])),
        ("excess error, own rollouts", lambda one: _percent(one["rollout_excess"])),
        ("time over that at T = mu, batch 512", lambda one: _spread(one["time"])),
        ("rank correlation of loops and impulse", lambda one: interval_text(one["rank"])),
        ("the same at matched target norm", lambda one: interval_text(one["matched_rank"])),
        ("mean loops, nothing touches", lambda one: interval_text(one["free"])),
        ("mean loops, hardest tenth by impulse", lambda one: interval_text(one["hardest"])),
        ("repeated calibrations: claim held, claim made", lambda one: "{:.1%}, {:.1%}".format(*one["coverage"])),
    ]
    lines = [
        f"### Leaving early, by `{rule}`",
        "",
        "| | " + " | ".join(f"seed {one['seed']}" for one in runs) + " |",
        "|---|" + "---|" * len(runs),
        *(f"| {name} | " + " | ".join(cell(one) for one in runs) + " |" for name, cell in rows),
    ]
    return "\n".join(lines)


def stability_table(result: dict[str, Any]) -> str:
    """Certified loops, long imagination and chaos, per seed, from a `loopwm study stability`."""
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("one-step error, certified", lambda one: interval_text(one["certified"])),
        ("over the ordinary loop's", lambda one: interval_text(one["ratio"])),
        ("certified rate per loop", lambda one: f"{one['stretch']['certified']:.5f}"),
        ("largest found, pairs drawn", lambda one: f"{one['stretch']['drawn']:.5f}"),
        ("largest found, pairs sought by ascent", lambda one: f"{one['stretch']['sought']:.5f}"),
        ("distance left by the certified exit, over the promised", lambda one: f"{one['promise']['worst']:.3f}"),
        ("its loops, and those really needed", lambda one: _pair(one["promise"], "loops", "loops_needed", ".1f")),
        ("largest token norm, ordinary; its bound", lambda one: _norms(one["imagined"])),
        ("largest token norm, certified; its bound", lambda one: _norms(one["certified_imagined"])),
        ("numbers not finite", lambda one: f"{one['imagined']['nonfinite'] + one['certified_imagined']['nonfinite']}"),
        ("Lyapunov exponent, imagination", lambda one: interval_text(one["exponents"]["model"]["value"])),
        ("the same, certified", lambda one: interval_text(one["certified_exponents"]["model"]["value"])),
        ("blind steps at observed states", lambda one: _exponent(one["exponents"]["guided"])),
        ("engine", lambda one: _exponent(one["exponents"]["engine"])),
    ]
    runs = result["seeds"]
    stretch, imagined, exponents = (runs[0][name] for name in ("stretch", "imagined", "exponents"))
    lines = [
        "### Certified loops, long imagination, chaos",
        "",
        "| | " + " | ".join(f"seed {one['seed']}" for one in runs) + " |",
        "|---|" + "---|" * len(runs),
        *(f"| {name} | " + " | ".join(cell(one) for one in runs) + " |" for name, cell in rows),
        "",
        f"Rates are tried on {stretch['drawn_pairs']:,} pairs of states drawn at random and "
        f"{stretch['sought_pairs']:,} sought by gradient ascent on both states and on the input; the exit on "
        f"{runs[0]['promise']['rows']:,} test transitions. Norms are over {imagined['steps']:,} imagined steps from "
        f"{imagined['starts']} starts. Exponents are per environment step, natural "
        f"logarithm, {exponents['model']['starts']} starts, "
        f"{exponents['model']['steps']} steps.",
        "",
        f"Made by `{result['command']}`.",
    ]
    return "\n".join(lines)


def _percent(value: dict[str, Any]) -> str:
    return f"{value['mean']:.2%} [{value['low']:.2%}, {value['high']:.2%}]"


def _spread(time: dict[str, Any]) -> str:
    return f"{time['share']:.3f} ({time['share_low']:.3f} to {time['share_high']:.3f})"


def _pair(value: dict[str, Any], one: str, other: str, form: str) -> str:
    return f"{value[one]:{form}}, {value[other]:{form}}"


def _norms(imagined: dict[str, Any]) -> str:
    state = imagined["state_max"] is not None
    largest, bound = ("state_max", "state_bound") if state else ("carried_max", "carried_bound")
    return f"{imagined[largest]:.1f}; {imagined[bound]:,.0f}"


def _exponent(value: dict[str, Any] | None) -> str:
    return "-" if value is None else interval_text(value["value"])


def interval_text(value: dict[str, Any]) -> str:
    """Mean and interval."""
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


def rewrite(document: Path, table: str) -> None:
    """Replace what stands between the markers of a file.

    Raises:
        UserError: a marker is missing.
    """
    text = with_table(document.read_text(), table)
    with atomic_write(document) as aside:
        aside.write_text(text)


def from_words(words: Sequence[str], takes: str, table: Callable[[list[Path]], str], several: bool = False) -> int:
    """Rewrite the last of the files that a command line names with a table of the one before; the exit status.

    Args:
        takes: names of the files, for who names others. several: whether the table is of more than one.
    """
    sources = [Path(word) for word in words[:-1]]
    try:
        if not sources or (len(sources) > 1 and not several):
            raise UserError(f"Give {takes}, not {len(words)} names.")
        document = Path(words[-1])
        if not document.is_file():
            raise UserError(f"There is no {document} to write into.")
        try:
            made = table(sources)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            named = ", ".join(map(str, sources))
            raise UserError(f"A table for {document} cannot be made of {named} ({error!r}).") from error
        rewrite(document, made)
    except UserError as error:
        sys.stderr.write(f"loopwm: {error}\n")
        return error.exit_code
    sys.stdout.write(f"Written: {document}\n")
    return 0


def table_of(sources: Sequence[Path]) -> str:
    """The table of a published result."""
    content = json.loads(sources[0].read_text())
    return adaptive_tables(content) if "parts" in content else results_table(content)


if __name__ == "__main__":
    sys.exit(from_words(sys.argv[1:], "RESULT FILE", table_of))
