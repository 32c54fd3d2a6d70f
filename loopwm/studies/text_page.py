"""The page FILE, docs/text-results.md, from results of `loopwm study text`: no number there is typed by hand.

python -m loopwm.studies.text_page results/scienceworld.json results/alfworld.json FILE
python -m loopwm.studies.text_page results/alfworld.json weights/alfworld-small/README.md --card
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loopwm.errors import UserError
from loopwm.studies.markdown import from_words
from loopwm.studies.text_earlier import threads_of
from loopwm.text.benchmark.errors import ANSWERS

NAMES = {
    "looped": "looped",
    "stack-equal-flops": "stack, equal FLOPs",
    "stack-equal-params": "stack, equal parameters",
    "all rules": "strongest rules",
}
GOALS = {
    "scienceworld": {"em_history": 78, "em_markov": 60, "em_one_step": 85, "em_one_step_full": 92},
    "alfworld": {"em_full": 95, "em_one_step_full": 97, "em_history": 77},
}
"""EM that was aimed for, by the names of `figures`."""
SOONEST = 50
"""Milliseconds in which a window was to be answered."""
LONGEST, LARGEST = 3, 8
"""Hours that training was to take, and GB of memory."""
Result = dict[str, Any]


def read_results(paths: Sequence[Path]) -> list[Result]:
    """The content of each.

    Raises:
        UserError: a file is not there. Beside a result, NAME-replay.json tells how far its world repeats itself.
    """
    for path in paths:
        if not path.is_file():
            raise UserError(f"There is no result at {path}; make it with: loopwm study text {path.stem} --out {path}")
    found = [json.loads(path.read_text()) for path in paths]
    for path, result in zip(paths, found, strict=True):
        replay = path.with_name(f"{path.stem}-replay.json")
        if replay.is_file():
            result["replay"] = json.loads(replay.read_text())
    return found


def page(results: Sequence[Result]) -> str:
    """All tables of all worlds."""
    return "\n\n".join(map(world, results))


def card(results: Sequence[Result]) -> str:
    """What the card of a published model says of it: hits, price, command."""
    return "\n\n".join("\n".join(table(result)) for result in results for table in (hits, sizes, made_by))


def title(result: Result) -> str:
    """What a study is of."""
    name = {"scienceworld": "ScienceWorld", "alfworld": "ALFWorld"}[result["tracks"]["history"]["world"]]
    return name + ", the latent alone" * (result.get("head", "copy") == "bottleneck")


def world(result: Result) -> str:
    """One world: what is hit, by how much more than others, where, why not, and at what price."""
    tables = (hits, goals, leads, steps, types, answers, misses, depths, latents, sizes, made_by)
    parts = [f"## {title(result)}"]
    if result.get("head", "copy") == "bottleneck":
        tables = (hits, leads, answers, misses, depths, latents, sizes, made_by)
        parts.append("The decoder reads h_k and nothing else: all that a text says went through the latent.")
    return "\n\n".join([*parts, *(text for table in tables if (text := "\n".join(table(result))))])


def hits(result: Result) -> list[str]:
    """EM at the last step of every track."""
    systems = systems_of(result)
    lines = [
        "### Exact match",
        "",
        "EM of the last of five steps, or of the one step, in percent, "
        + ("weighed like the report's own evaluation" if mixed(result) else "mean over task types")
        + ". The ceiling counts what is shown for the first time as missed, unless it is what is usually shown there; "
        "better guessing can pass it.",
        "",
        "| track | " + " | ".join(NAMES[name] for name in systems) + " | ceiling | windows, episodes |",
        "|---|" + "---|" * (len(systems) + 2),
    ]
    for track, found in result["tracks"].items():
        cells = [percent(headline(found["systems"][run_of(result, name)]["steps"][-1]["em"])) for name in systems]
        ceiling = 100 * (1 - headline(found["ceiling"]["unusual"])["mean"])
        sample = f"{found['windows']:,}, {sum(found['episodes'].values()):,}"
        lines.append(f"| {track} | " + " | ".join(cells) + f" | {ceiling:.1f} | {sample} |")
    overall = [row for row in result["reported"]["rows"] if row["task_type"] == "overall" and row["step"] == 5]
    if overall:
        told = ", ".join(f"{row['system']} {row['em']:.1f}" for row in overall)
        lines += ["", f"Reported elsewhere for five steps ({result['reported']['note']}): {told}."]
    return [*lines, *noise(result)]


def noise(result: Result) -> list[str]:
    """How often the world itself answers otherwise, where that was measured."""
    if "replay" not in result:
        return []
    found = result["replay"]["noise"]
    worst = max(found["differs"]["by_type"].items(), key=lambda one: one[1]["mean"])
    return [
        "",
        f"On replay the world itself answers {percent(headline(found['differs']))} percent of the steps differently, "
        f"{percent(headline(found['unordered']))} with lists sorted, most in {worst[0]}, {percent(worst[1])} "
        f"({headline(found['differs'])['n']:,} steps of {sum(found['games'].values())} episodes, weighed alike; "
        f"`{result['replay']['command']}`).",
    ]


def goals(result: Result) -> list[str]:
    """What was aimed for, and whether it is reached."""
    figures, ceilings = result["figures"], result["tracks"]
    lines = ["### What was aimed for", "", "| figure | aimed for | looped | |", "|---|---|---|---|"]
    for name, goal in GOALS[result["tracks"]["history"]["world"]].items():
        track = name.removeprefix("em_")
        if track.replace("_", "-") not in ceilings:
            continue
        mean, low, high = (figures[f"{part}_{track}"] for part in ("em", "low", "high"))
        said = "reached" if mean >= goal else "missed; the interval holds it" if high >= goal else "missed"
        ceiling = 100 * (1 - headline(ceilings[track.replace("_", "-")]["ceiling"]["unusual"])["mean"])
        said += f"; the ceiling is {ceiling:.1f}" * (mean < goal and ceiling < goal)
        lines.append(f"| EM, {track.replace('_', '-')} | {goal} | {mean:.1f} [{low:.1f}, {high:.1f}] | {said} |")
    cores = cores_of(threads_of(result)["looped"])
    for key, name, most, unit, of_one in (
        ("hours", f"training, {cores}", LONGEST, "hours", 1.0),
        ("peak_memory_gib", "the most memory that training needed", LARGEST, "GB", 2**30 / 1e9),
    ):
        if key in figures:
            needed = figures[key] * of_one
            lines.append(f"| {name} | {most} {unit} | {needed:.1f} | {'reached' if needed <= most else 'missed'} |")
    timed = (
        ("window_ms", "one window, its last text"),
        ("window_live_ms", "the same, its context read already"),
        ("window_answered_ms", "one window, every text, as answered above"),
    )
    for key, name in timed:
        if key in figures:
            said = "reached" if figures[key] <= SOONEST else "missed"
            lines.append(f"| {name}, {timed_on(result)} | {SOONEST} ms | {_time(figures, key)} | {said} |")
    return lines


def leads(result: Result) -> list[str]:
    """The looped model against each of the others, paired."""
    others = [name for name in systems_of(result) if name != "looped"]
    lines = [
        "### The looped model's lead, in points of EM, on the same windows",
        "",
        "| track | " + " | ".join(f"over {NAMES[name]}" for name in others) + " |",
        "|---|" + "---|" * len(others),
    ]
    for track, found in result["tracks"].items():
        against = found["systems"][run_of(result, "looped")]["against"]
        cells = [percent(headline(against[run_of(result, name)]), signed=True) for name in others]
        lines.append(f"| {track} | " + " | ".join(cells) + " |")
    return lines


def steps(result: Result) -> list[str]:
    """EM step by step, and the other metrics at the last."""
    found = result["tracks"]["history"]["systems"]
    lines = [
        "### Track `history`, step by step",
        "",
        "| | 1 | 2 | 3 | 4 | 5 | EM, any order | token F1 | BLEU-4 | entity F1 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in systems_of(result):
        own = found[run_of(result, name)]["steps"]
        cells = [f"{100 * headline(step['em'])['mean']:.1f}" for step in own]
        further = ("em_unordered", "token_f1", "bleu4", "entity_f1")
        cells += [f"{100 * headline(own[-1][metric])['mean']:.1f}" for metric in further]
        lines.append(f"| {NAMES[name]} | " + " | ".join(cells) + " |")
    return lines


def types(result: Result) -> list[str]:
    """EM by task type."""
    found, systems = result["tracks"]["history"], systems_of(result)
    told = {row["task_type"]: row["em"] for row in result["reported"]["rows"] if row["task_type"] != "overall"}
    lines = [
        "### Track `history` by task type, step 5",
        "",
        "| task type | windows | " + " | ".join(NAMES[name] for name in systems) + " | reported, indicative |",
        "|---|---|" + "---|" * (len(systems) + 1),
    ]
    for kind, count in found["types"].items():
        ems = [found["systems"][run_of(result, name)]["steps"][-1]["em"]["by_type"][kind] for name in systems]
        other = f"{told[kind]:.1f}" if kind in told else "-"
        lines.append(f"| {kind} | {count} | " + " | ".join(percent(em) for em in ems) + f" | {other} |")
    return lines


def answers(result: Result) -> list[str]:
    """EM by whether the action was answered before; nothing of results that do not tell."""
    systems = systems_of(result)
    lines = [
        "### By whether the action was taken before, and answered otherwise",
        "",
        "EM in percent, over windows. An answer that is another than before cannot be repeated: something has changed.",
        "",
        "| track | answer | windows | " + " | ".join(NAMES[name] for name in systems) + " |",
        "|---|---|---|" + "---|" * len(systems),
    ]
    none = len(lines)
    for track, found in result["tracks"].items():
        own = [found["systems"][run_of(result, name)].get("by_answer", {}) for name in systems]
        for kind in (one for one in ANSWERS if all(one in each for each in own)):
            cells = [percent(each[kind]) for each in own]
            lines.append(f"| {track} | {kind} | {own[0][kind]['n']} | " + " | ".join(cells) + " |")
    return lines if len(lines) > none else []


def misses(result: Result) -> list[str]:
    """Why answers of the looped model are wrong."""
    run = run_of(result, "looped")
    causes = list(result["tracks"]["history"]["systems"][run]["misses"])
    lines = [
        "### What the looped model gets wrong, in percent, weighed like EM",
        "",
        "| track | " + " | ".join(causes) + " |",
        "|---|" + "---|" * len(causes),
    ]
    for track, found in result["tracks"].items():
        own = found["systems"][run]["misses"]
        lines.append(
            f"| {track} | " + " | ".join(f"{100 * headline(own[cause])['mean']:.1f}" for cause in causes) + " |"
        )
    return lines


def depths(result: Result) -> list[str]:
    """EM at T, and who gets the loops."""
    found = result["looping"]
    lines = [
        f"### Loops (track `history`, {found['windows']} windows, greedy, imagined in latents)",
        "",
        "| T | " + " | ".join(f"{loops}{', mu' * (int(loops) == found['mu'])}" for loops in found["depth"]) + " |",
        "|---|" + "---|" * len(found["depth"]),
        "| EM at step 5 | " + " | ".join(percent(em) for em in found["depth"].values()) + " |",
        "",
        f"| exit `{found['rule']}`, threshold | loops per step | EM | cost |",
        "|---|---|---|---|",
    ]
    for early in found["early"]:
        lines.append(
            f"| {early['threshold']:g} | {early['loops']:.2f} | {percent(early['em'])} | "
            f"{percent(early['cost'], signed=True)} |"
        )
    for key, what in (("kind", "what its answer is"), ("type", "task type")):
        told = ", ".join(f"{name} {interval(one)}" for name, one in found[f"loops_by_{key}"].items())
        lines += ["", f"Loops of the last step at {found['chosen']:g}, by {what}: {told}."]
    lines += ["", "The exit is the one of these that saves most for half a point of EM, chosen on these windows."]
    return lines


def latents(result: Result) -> list[str]:
    """Deferred against per-step decoding."""
    found = result["looping"]
    lines = [
        "### Imagining in latents against decoding every step",
        "",
        "| | " + " | ".join(f"K = {k}" for k in range(1, len(found["latent"]) + 1)) + " |",
        "|---|" + "---|" * len(found["latent"]),
    ]
    for key, title in (("latent", "in latents"), ("words", "through words"), ("difference", "difference, paired")):
        cells = [percent(one, signed=key == "difference") for one in found[key]]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def sizes(result: Result) -> list[str]:
    """Parameters, compute, time."""
    figures, threads = result["figures"], threads_of(result)
    # Once for all systems where they had as many.
    alike = f", {cores_of(threads['looped'])}" if len(set(threads.values())) == 1 else ""
    lines = [
        "### Size and time",
        "",
        f"| system | parameters | MFLOPs per step of the latent | hours of training{alike} |",
        "|---|---|---|---|",
    ]
    for name in systems_of(result):
        key = name.removeprefix("looped").removeprefix("stack").replace("-", "_")
        if name in result["systems"]:
            lines.append(
                f"| {NAMES[name]} | {figures[f'params{key}']:,} | {figures[f'flops_step{key}'] / 1e6:.2f} | "
                f"{figures[f'hours{key}']:.2f}{'' if alike else f', {cores_of(threads[name])}'} |"
            )
    memory = f"Training needed at most {figures['peak_memory_gib']:.1f} GiB{_products(result)}."
    return [*lines, "", f"{_spent(result)} {memory}"]


def _spent(result: Result) -> str:
    """What one window takes, in the ways that were measured."""
    figures, live, asked = result["figures"], "", ""
    if "window_live_ms" in figures:
        live = f"; where the words before were read already, as for an agent, {_time(figures, 'window_live_ms')}"
    fed = f", and {_time(figures, 'window_words_ms')} when each is read again" if "window_words_ms" in figures else ""
    if "window_answered_ms" in figures:
        how = f"a beam of {result['beam']}{', every text read again' if result.get('decode') else ''} and all loops"
        asked = f" All five as the tracks above are answered, with {how}: {_time(figures, 'window_answered_ms')}."
    return (
        "From the words of a window to the text after its fifth action, the looped model takes "
        f"{_time(figures, 'window_ms')}{live}; to the texts after all five, {_time(figures, 'window_all_ms')}{fed} "
        f"(median and quartiles, greedy, batch 1, {timed_on(result)}, exit on).{asked}"
    )


def timed_on(result: Result) -> str:
    """How many cores a window had: one, but in results from when it had the threads of the study."""
    threads = re.search(r"(\d+) torch threads", result["processor"])
    return "one core" if "window_answered_ms" in result["figures"] or not threads else f"{threads[1]} cores"


def _products(result: Result) -> str:
    """In which precision matrices were multiplied, where that is known."""
    known = list(dict.fromkeys(result.get("precision", {}).values()))
    return f", with matrix products in {' or '.join(known)}" if known else ""


def _time(figures: dict[str, float], key: str) -> str:
    return f"{figures[key]:.0f} ms [{figures[f'{key}_low']:.0f}, {figures[f'{key}_high']:.0f}]"


def cores_of(threads: int) -> str:
    """What a run of so many threads was trained on."""
    return "one core" if threads == 1 else f"{threads} cores"


def made_by(result: Result) -> list[str]:
    """The command."""
    seeds = ", ".join(map(str, result["seeds"]))
    how = "every predicted text read before the next action" if result.get("decode") else "imagined in latents"
    folders = {Path(path).name: path for path in re.findall(r"--(?:data|further) (\S+)", result["command"])}
    recorded = []
    for name, commands in result.get("recorded_by", {}).items():
        *sources, last = commands.split(" && ")
        # Recordings do not know the folder that they are in; the study does. What one was joined from has other names.
        last = last if sources else last.replace(f"--out {name} ", f"--out {folders.get(name, name)} ")
        recorded += [*sources, last]
    return [
        f"Split `{result['split']}`, {result['updates']:,} updates, seed {seeds}, a beam of {result['beam']}, "
        f"{how}; 95% intervals over episodes. Made by:",
        "",
        "```bash no-run",
        *recorded,
        *(one["command"] for one in result.get("earlier", [])),
        result["command"],
        "```",
    ]


def systems_of(result: Result) -> list[str]:
    """Those that were measured, and the strongest rules."""
    return [*result["systems"], "all rules"]


def run_of(result: Result, system: str) -> str:
    """What a system's leading run is called in the tables."""
    return system if system == "all rules" else f"{system}-seed{result['seeds'][0]}"


def mixed(result: Result) -> bool:
    """Whether averages weigh task types as the report's evaluation does."""
    return result["tracks"]["history"]["ceiling"]["unusual"]["mix"] is not None


def headline(aggregate: dict[str, Any]) -> dict[str, float]:
    """The report's mix, or the mean over task types where there is none."""
    return aggregate["mix"] or aggregate["macro"]


def percent(one: dict[str, float], signed: bool = False) -> str:
    """`78.1 [76.0, 80.2]`."""
    sign = "+" if signed else ""
    return f"{100 * one['mean']:{sign}.1f} [{100 * one['low']:{sign}.1f}, {100 * one['high']:{sign}.1f}]"


def interval(one: dict[str, float]) -> str:
    """`2.31 [2.20, 2.41]`."""
    return f"{one['mean']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"


if __name__ == "__main__":
    made = card if "--card" in sys.argv else page
    files = [word for word in sys.argv[1:] if word != "--card"]
    takes = "RESULT [RESULT ...] FILE"
    sys.exit(from_words(files, takes, lambda results: made(read_results(results)), several=True))
