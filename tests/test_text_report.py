"""`loopwm report` of runs that learned a text world: what the page says is what was measured."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')
pytest.importorskip("pyarrow", reason='text recordings need pip install "loopwm[text]"')
pytest.importorskip("sacrebleu", reason='the benchmark needs pip install "loopwm[text]"')

from test_report import Elements
from timed_once import timed_once
from toy_text import tiny

from loopwm.cli import main
from loopwm.errors import UserError
from loopwm.evaluate.bootstrap import Interval
from loopwm.presets import PRESETS
from loopwm.text.benchmark.errors import MISSES
from loopwm.text.report.findings import compared, findings, verdict_of
from loopwm.text.report.report import all_text, write_text_report
from loopwm.text.report.runs import describe
from loopwm.text.report.stored import Asked, gather
from loopwm.train.runs import train

SYSTEMS = ("looped", "stack-equal-params", "stack-equal-flops")
HISTORY = "benchmark-history-validation.json"
FEW = ["--benchmark", "scienceworld", "--resamples", "20", "--per-type", "6"]


@pytest.fixture(scope="module")
def runs(toy_recording: Path, toy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A looped run and both stacks, which have hardly learned anything, measured on two tracks."""
    folder = tmp_path_factory.mktemp("reported")
    shutil.copytree(toy_run, folder / SYSTEMS[0])
    for system in SYSTEMS[1:]:
        config = tiny(toy_recording, 2)
        train(replace(config, model=replace(config.model, system=system)), folder / system)
    found = [folder / system for system in SYSTEMS]
    against = ["--against", *map(str, found[1:])]
    with timed_once():
        assert main(["evaluate", str(found[0]), *FEW, *against, "--looping"]) == 0
    assert main(["evaluate", str(found[0]), *FEW, "--no-rules", "--track", "one-step"]) == 0
    return found


@pytest.fixture(scope="module")
def written(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report; a stack is named first, and the looped run leads all the same."""
    out = tmp_path_factory.mktemp("written")
    assert main(["report", str(runs[1]), str(runs[0]), str(runs[2]), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def page(written: Path) -> str:
    return (written / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def stored(runs: list[Path]) -> dict[str, Any]:
    return json.loads((runs[0] / HISTORY).read_text())


@pytest.fixture
def copies(runs: list[Path], tmp_path: Path) -> list[Path]:
    """The looped run and the equal-FLOP stack, to be changed."""
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in (runs[0], runs[2])]


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit a stored result."""
    found = json.loads(path.read_text())
    edit(found)
    path.write_text(json.dumps(found))


def asked(runs: list[Path]) -> list[Asked]:
    return gather(describe(runs))


def rows(page: str, caption: str) -> dict[str, list[str]]:
    """The table under a caption: head of the row -> its cells, small print in brackets."""
    body = page[page.index(escape(caption)) :].split("</table>")[0]
    found = {}
    for name, cells in re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', body):
        texts = re.findall(r"<td>(.*?)</td>", cells)
        found[unescape(name)] = [unescape(re.sub(r"<small>(.*?)</small>", r" [\1]", text)) for text in texts]
    return found


def percent(one: dict[str, float]) -> str:
    return f"{100 * one['mean']:.1f} [{100 * one['low']:.1f}\u2013{100 * one['high']:.1f}]"


# ---- the numbers ----


def test_every_average_of_every_metric_is_the_stored_one(page: str, stored: dict[str, Any]) -> None:
    labels: dict[str, str] = dict(zip(SYSTEMS, ("looped", "equal-parameter stack", "equal-FLOP stack"), strict=True))
    averages = {"report's mix": "mix", "mean over task types": "macro", "mean over windows": "micro"}
    for average, kind in averages.items():
        shown = rows(page, f"Every metric at step 5, in percent, {average}")
        for name, system in stored["systems"].items():
            assert shown[labels.get(str(name), str(name))] == [
                percent(one[kind]) for one in system["steps"][-1].values()
            ]
        assert shown["LoopWM report: LoopWM (about 1B) (indicative: protocol not published)"][0] == "68.4"


def test_steps_types_causes_and_differences_are_the_stored_ones(page: str, stored: dict[str, Any]) -> None:
    looped = stored["systems"]["looped"]
    shown = rows(page, "EM at every step, in percent, report's mix")["looped"]
    assert shown == [percent(step["em"]["mix"]) for step in looped["steps"]]
    find = rows(page, "EM at step 5 by task type")["Find"]
    assert find[0] == percent(looped["steps"][-1]["em"]["by_type"]["Find"])
    assert "76.9" in find and "LoopWM report (indicative: protocol not published)" in page
    assert find[-1] == f"{stored['types']['Find']} [{stored['episodes']['Find']} episodes]"
    wrong = rows(page, "Wrong at step 5 by cause")["looped"]
    assert wrong == [percent(looped["misses"][cause]["mix"]) for cause in MISSES]
    lead = looped["against"]["stack-equal-flops"]["mix"]
    shown = rows(page, "differences of rows to columns")["looped"]
    assert shown[2] == f"{100 * lead['mean']:+.1f} [{100 * lead['low']:+.1f} to {100 * lead['high']:+.1f}]"


def test_what_looping_buys_is_the_stored_evidence(page: str, stored: dict[str, Any]) -> None:
    found = stored["looping"]
    shown = rows(page, "EM at the last step with T loops")
    for loops, em in found["depth"].items():
        assert shown[f"T = {loops}" + (" (mu)" if loops == "3" else "")][0] == percent(em)
    spent = rows(page, "Loops of the last step with the exit")
    for name, one in (found["loops_by_kind"] | found["loops_by_type"]).items():
        assert spent[name][0].startswith(f"{one['mean']:.2f} [")
    latents = rows(page, "imagined in the latent or with every step decoded")
    assert [cells[1] for cells in latents.values()] == [percent(one) for one in found["words"]]
    took = {name: f"{one[0]:.0f} ms [{one[1]:.0f}, {one[2]:.0f}]" for name, one in found["milliseconds"].items()}
    assert f"{took['last']} to its last text, {took['live']} where" in page
    assert f"{took['all']} to all of its texts, {took['words']} when" in page


def test_the_page_says_what_the_runs_are(page: str, written: Path, runs: list[Path]) -> None:
    shown = rows(page, "What each run is")
    told = json.loads((written / "report.json").read_text())["runs"]
    assert [one["label"] for one in told] == ["looped", "equal-parameter stack", "equal-FLOP stack"]
    for place, one in enumerate(told):
        assert one["parameters"] == json.loads((runs[place] / "info.json").read_text())["parameters"]
        assert shown["Parameters"][place] == f"{one['parameters']:,}"
        assert shown["Vocabulary"][place] == f"{one['words']:,}"
        log = [json.loads(line) for line in (runs[place] / "log.jsonl").read_text().splitlines()]
        assert one["log"] == log
        final = [line["validation"] for line in log if "validation" in line][-1]
        assert shown["Loss of a word, all seen"][place] == f"{final['one_step']:.4f}"
        assert shown["Sure texts, the first seen"][place] == f"{final['open_loop_sure']:.4f}"
    for text in (told[0]["data_digest"], "--track one-step", "loopwm train text --config", "Recorded with", "optim.lr"):
        assert text in page
    assert '<figure id="training">' in page and '<figure id="sure">' in page


def test_the_json_holds_every_number(written: Path, stored: dict[str, Any], page: str) -> None:
    told = json.loads((written / "report.json").read_text())
    assert set(told["tracks"]) == {"history-validation", "one-step-validation"}
    track = told["tracks"]["history-validation"]
    for key in ("systems", "ceiling", "looping", "examples", "figures", "types", "digest", "command", "reported"):
        assert track[key] == stored[key], key
    assert track["labels"]["stack-equal-flops"] == "equal-FLOP stack" and track["missing"] == []
    assert told["tracks"]["one-step-validation"]["missing"] == ["stack-equal-params", "stack-equal-flops"]
    assert told["command"].startswith("loopwm report ") and "torch" in told["versions"]
    for lines in told["findings"].values():
        for line in lines:
            assert f'<span class="verdict {line["verdict"]}">' in page
            assert line["text"] in unescape(page)


# ---- the lines ----


@given(st.floats(-1, 1), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_difference_has_a_direction_only_where_its_interval_has_one(mean: float, below: float, above: float) -> None:
    lead = Interval(mean, mean - below, mean + above, 10, 5)
    said = compared(lead, "it")
    if lead.low > 0:
        assert verdict_of(lead) == "better" and said.startswith("better than it by ")
    elif lead.high < 0:
        assert verdict_of(lead) == "worse" and said.startswith("worse than it by ")
    else:
        assert verdict_of(lead) == "tie" and said.startswith("not clearly different from it")
    assert f"{100 * abs(mean):.1f} points" in said


def test_a_lost_comparison_is_called_lost(copies: list[Path]) -> None:
    def lose(found: dict[str, Any]) -> None:
        for other in found["systems"]["looped"]["against"].values():
            other["mix"] |= {"mean": -0.25, "low": -0.375, "high": -0.045}

    change(copies[0] / HISTORY, lose)
    lines = findings(asked(copies))["history-validation"]
    against = [line for line in lines if "than the " in line.text]
    assert {line.verdict for line in against} == {"worse"} and len(against) == 2
    assert "worse than the strongest rules" in against[0].text
    assert "The looped model is worse than the equal-FLOP stack by 25.0 points [4.5, 37.5]" in against[1].text
    assert "after 120 updates against 2, which is NOT the same training" in against[1].text


def test_loops_that_do_harm_are_said_to(copies: list[Path]) -> None:
    def harm(found: dict[str, Any]) -> None:
        depth = found["looping"]["depth"]
        for loops, mean in {"1": 0.9, "3": 0.5, "12": 0.2}.items():
            depth[loops] |= {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}
        found["looping"]["difference"][-1] |= {"mean": -0.1, "low": -0.2, "high": -0.05}

    change(copies[0] / HISTORY, harm)
    lines = {line.text: line.verdict for line in findings(asked(copies))["history-validation"]}
    (depth,) = (text for text in lines if "at T = 12" in text)
    assert depth.startswith("3 loops are WORSE than one, and 12 are WORSE (overthinking)") and lines[depth] == "worse"
    (latent,) = (text for text in lines if text.startswith("Imagining 5 steps in the latent"))
    assert "worse than decoding every step" in latent and lines[latent] == "worse"


def test_a_run_that_was_measured_by_itself_joins_where_the_windows_are_the_same(
    copies: list[Path], stored: dict[str, Any]
) -> None:
    looped, stack = copies

    def only(name: str) -> Callable[[dict[str, Any]], None]:
        def edit(found: dict[str, Any]) -> None:
            for other in set(SYSTEMS) - {name}:
                del found["systems"][other], found["runs"][other], found["systems"][name]["against"][other]

        return edit

    shutil.copy(looped / HISTORY, stack / HISTORY)
    change(looped / HISTORY, only("looped"))
    change(stack / HISTORY, only("stack-equal-flops"))
    one = asked(copies)[0]
    assert one.em("stack-equal-flops").mean == stored["systems"]["stack-equal-flops"]["steps"][-1]["em"]["mix"]["mean"]
    assert any("not paired, as the two were not measured together" in line.text for line in findings([one])[one.name])
    change(stack / HISTORY, lambda found: found.update(digest="0" * 32))
    one = asked(copies)[0]
    assert [run.name for run in one.missing] == ["stack-equal-flops"]
    (line,) = (line for line in findings([one])[one.name] if "was not asked about these windows" in line.text)
    assert line.verdict == "unknown" and f"--against {stack}" in line.text


# ---- the examples ----


def test_examples_are_drawn_from_right_and_wrong_answers(stored: dict[str, Any], page: str) -> None:
    kept, looped = stored["examples"], stored["systems"]["looped"]
    assert kept["right"] + kept["wrong"] == stored["windows"] == len(kept["windows"])
    # Counted once more, by the benchmark.
    assert kept["right"] / stored["windows"] == pytest.approx(looped["steps"][-1]["em"]["micro"]["mean"])
    for window in kept["windows"]:
        for name, said in window["answers"].items():
            exact = [a.split() == b.split() for a, b in zip(said["texts"], window["targets"], strict=True)]
            assert exact == said["right"]
            assert all(0 <= value <= 1 for value in said["confidence"])
            assert said["loops"] == ([3] * 5 if name == "looped" else None)
        early = window["answers"]["looped"]["loops_early"]
        # Between what the exit may leave after and mu.
        assert all(1 <= loops <= 3 for loops in early)
        assert unescape(page).count(f"{window['task_type']}, {window['game']}, t = {window['time']}") >= 1
    assert f"of the {kept['wrong']} that it answers wrong" in page


# ---- the page ----


def test_the_page_stands_alone_on_any_screen(page: str) -> None:
    assert len(page.encode()) < 2_000_000
    found = Elements(page).found
    assert not {"script", "link", "iframe", "object", "img"} & {tag for tag, _ in found}
    for _, attributes in found:
        for name in ("src", "srcset", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    counts = Counter(attributes["id"] for _, attributes in found if "id" in attributes)
    assert max(counts.values()) == 1
    assert '<meta name="viewport" content="width=device-width' in page and "prefers-color-scheme: dark" in page
    assert set(re.findall(r"var\((--[\w-]+)\)", page)) <= set(re.findall(r"(--[\w-]+):", page))
    for drawing in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        assert not re.search(r"#[0-9a-f]{6}", drawing)


def test_texts_of_the_world_are_never_markup(copies: list[Path], tmp_path: Path) -> None:
    bad = "<script>alert(1)</script> & <b>bold</b>"

    def poison(found: dict[str, Any]) -> None:
        for window in found["examples"]["windows"]:
            for key in ("game", "task_type", "description", "now"):
                window[key] = bad
            window["actions"], window["targets"] = [bad] * 5, [bad] * 5
            for said in window["answers"].values():
                said["texts"] = [f"{bad} too"] * 5
        found["command"] = bad

    change(copies[0] / HISTORY, poison)
    report = write_text_report(copies, tmp_path / "out", bad)
    text = report.html.read_text()
    assert "&lt;script&gt;" in text and "<script" not in text and "<b>bold" not in text
    Elements(text)


def test_results_without_examples_and_looping_are_shown_all_the_same(copies: list[Path], tmp_path: Path) -> None:
    def strip(found: dict[str, Any]) -> None:
        for key in ("examples", "looping", "runs", "command", "versions"):
            del found[key]

    change(copies[0] / HISTORY, strip)
    (copies[0] / "log.jsonl").unlink()
    text = write_text_report(copies[:1], tmp_path / "out", "loopwm report x").html.read_text()
    section = text[text.index('id="track-history-validation"') : text.index('id="track-one-step-validation"')]
    assert "<h3>Examples</h3>" not in section and "What looping buys" not in section
    assert "The journal of the training is gone" in text


def test_a_stack_alone_is_reported_as_one(copies: list[Path], tmp_path: Path) -> None:
    stack = copies[1]
    shutil.copy(copies[0] / HISTORY, stack / HISTORY)
    report = write_text_report([stack], tmp_path / "out", "loopwm report x")
    assert report.lines[0].text.startswith("The equal-FLOP stack, track history, 5 actions ahead: EM ")
    text = report.html.read_text()
    assert "looped (not of this report)" in text and '<figure id="depth-' not in text
    Elements(text)


# ---- bad input ----


def refused(capsys: pytest.CaptureFixture[str], out: Path, *runs: Path) -> str:
    assert main(["report", *map(str, runs), "--out", str(out)]) == 2
    assert not (out / "report.json").exists()
    return capsys.readouterr().err


def test_runs_that_cannot_be_reported_are_refused_in_a_sentence(
    copies: list[Path], billiards_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    looped, stack = copies
    out = tmp_path / "out"
    # The stack has no results of its own, and no other run is there to have any about it.
    said = refused(capsys, out, stack)
    assert f"has not been measured; measure it with: loopwm evaluate {stack} --benchmark scienceworld" in said
    twin = Path(shutil.copytree(stack, tmp_path / "more" / stack.name))
    assert f"Two of the runs are called '{stack.name}'" in refused(capsys, out, stack, twin)
    assert "There is no checkpoint at" in refused(capsys, out, looped, tmp_path / "nowhere")
    config, numbers = PRESETS["debug"].config, tmp_path / "numbers"
    train(replace(config, data=billiards_store, train=replace(config.train, updates=2)), numbers)
    said = refused(capsys, out, looped, numbers)
    assert f"{looped} learned a text world and {numbers} did not; report on one kind of run at a time." in said
    out.mkdir()
    (out / "report.html").write_text("mine")
    assert "already exists" in refused(capsys, out, looped)
    assert (out / "report.html").read_text() == "mine"


def test_results_of_other_weights_and_damaged_ones_are_refused(copies: list[Path], tmp_path: Path) -> None:
    assert all_text(copies) and not all_text([tmp_path])
    change(copies[0] / HISTORY, lambda found: found["runs"]["looped"].update(checkpoint="0" * 32))
    with pytest.raises(UserError, match=r"not measured with the weights that .* has now; measure again with: loopwm"):
        asked(copies)
    change(copies[0] / HISTORY, lambda found: found.update(world="alfworld"))
    with pytest.raises(UserError, match="different worlds"):
        asked(copies)
    (copies[0] / HISTORY).write_text("{}")
    with pytest.raises(UserError, match="is not a result of the text benchmark"):
        asked(copies)
