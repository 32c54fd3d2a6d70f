"""The report of really trained runs: self-contained, complete, and honest in its opening lines."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from three_systems import SMALL, SPEED

from loopwm.certify.certificate import certify
from loopwm.certify.config import MeasureConfig
from loopwm.data.episode import Episode
from loopwm.data.store import StoreMeta, write_store
from loopwm.errors import UserError
from loopwm.evaluate.animation import Spending, frame, scene_of
from loopwm.evaluate.comparison import Comparison, compare
from loopwm.evaluate.evaluation import FILE, Evaluation, evaluate, measure, read_evaluation
from loopwm.evaluate.findings import number
from loopwm.evaluate.report import Report, typical_rollout, write_report
from loopwm.model.config import SYSTEMS, ExitConfig
from loopwm.model.heads import ObservationHead
from loopwm.presets import PRESETS
from loopwm.spaces import ActionSpec, ObservationSpec
from loopwm.train.checkpoint import NAME, load, read_checkpoint, save_checkpoint
from loopwm.train.runs import train

COMMAND = "loopwm report a b & c"


@pytest.fixture(scope="module")
def written(evaluated, tmp_path_factory) -> Report:
    # The stack is named in front: the looped run must lead all the same.
    return write_report([evaluated[1], evaluated[0], evaluated[2]], tmp_path_factory.mktemp("out"), COMMAND, SPEED)


@pytest.fixture(scope="module")
def page(written) -> str:
    return written.html.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def evaluations(evaluated) -> list[Evaluation]:
    return [read_evaluation(run) for run in evaluated]


@pytest.fixture(scope="module")
def comparison(evaluated) -> Comparison:
    return compare(evaluated, SPEED)


class Elements(HTMLParser):
    """Tags with their attributes; complains about a page that does not nest."""

    EMPTY = frozenset({"meta", "img", "source", "link", "br", "path", "use"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


# ---- the page ----


def test_the_page_shows_how_the_leading_run_looped_when_its_training_ended(page):
    assert "Does it loop as it did?" in page
    assert 'id="monitor-residual"' in page and 'id="monitor-halting"' in page


def test_the_page_needs_no_network_and_no_scripts_and_is_small(page):
    assert len(page.encode()) < 2_000_000
    elements = Elements(page)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in elements.found}
    for _, attributes in elements.found:
        for name in ("src", "srcset", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#"))
    addresses = {address for address in re.findall(r"https?://[^\s\"'<)]+", page)}
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "url(" not in page.replace("url(#", "")


def test_ids_are_unique_and_every_reference_finds_its_target(page):
    elements = Elements(page).found
    counts = Counter(attributes["id"] for _, attributes in elements if "id" in attributes)
    assert max(counts.values()) == 1
    wanted = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'xlink:href="#([^"]+)"', page))
    assert wanted and wanted <= set(counts)


def test_the_page_adapts_to_phones_and_dark_mode(page):
    assert '<meta name="viewport" content="width=device-width' in page
    assert "@media (prefers-color-scheme: dark)" in page
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) >= 9
    for drawing in drawings:
        # Colours come from the theme, text stays text, and the width is the screen's.
        assert not re.search(r"#[0-9a-f]{6}", drawing)
        assert "<text" in drawing
        assert 'width="' not in drawing.split(">", 1)[0]
    assert set(re.findall(r"var\((--[\w-]+)\)", page)) <= set(re.findall(r"(--[\w-]+):", page))


def test_every_figure_says_how_to_read_it_and_what_would_be_bad(page):
    figures = re.findall(r"<figure.*?</figure>", page, flags=re.DOTALL)
    assert len(figures) >= 10
    for figure in figures:
        caption = re.search(r"<figcaption>(.*?)</figcaption>", figure, flags=re.DOTALL)
        assert caption and len(caption[1]) > 80
        assert "Bad would be:" in caption[1]


def test_the_page_opens_with_the_five_lines_of_the_looped_run(page, written):
    assert len(written.lines) == 5
    assert page.index("Run looped:") < page.index('<ol class="lines">') < page.index("<h2>")
    opening = page[page.index('<ol class="lines">') : page.index("</ol>")]
    assert opening.count("<li>") == 5
    assert "Where it fails" in opening


def test_all_systems_stand_in_one_table(page, evaluations):
    table = page[page.index("<table") : page.index("</table>")]
    for one in evaluations:
        assert f"{one.run.parameters:,}" in table
    for row in ("MFLOPs per step", "ms per step, batch 1", "ms per step, batch 4", "Learning rate", "One-step error"):
        assert row in table
    assert "equal-parameter stack" in table and "equal-FLOP stack" in table


def test_the_contraction_is_shown_and_called_measured_not_proved(page, written, evaluations):
    (found,) = (one.contraction for one in evaluations if one.contraction is not None)
    table = page[page.index("Contraction: spectral norm") : page.index("Effective rank of the tokens")]
    assert f"<td>{number(found.norm.median)}<small>" in table and f"<td>{number(found.radius.median)}<small>" in table
    assert f"1 or more: {found.expanding} of 64" in table
    text = " ".join(page[page.index("<dt>Contraction</dt>") :].split())
    assert "measured by power iteration, not proved" in text
    stored = json.loads(written.json.read_text())["evaluations"]
    assert stored[0]["contraction"]["radius"]["median"] == found.radius.median
    assert [one["contraction"] for one in stored[1:]] == [None, None]


def test_the_page_says_where_its_numbers_come_from(page, evaluations):
    for text in (evaluations[0].run.data_digest, "loopwm report a b &amp; c", "torch 2.", "optim.lr", "model.loop.mu"):
        assert text in page


def test_the_json_holds_every_number(written, evaluations):
    stored = json.loads(written.json.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert stored["command"] == COMMAND
    assert {"torch", "numpy", "python"} <= set(stored["versions"])
    assert [one["run"]["system"] for one in stored["evaluations"]] == list(SYSTEMS)
    for one, kept in zip(evaluations, stored["evaluations"], strict=True):
        assert kept["one_step"]["mean"] == one.one_step.mean
        assert len(kept["horizon"][0]["error"]) == 40
        assert kept["run"]["config"]["train"]["seed"] == 0
    assert [line["text"] for line in stored["findings"]] == [line.text for line in written.lines]
    assert len(stored["comparison"]["speed"]) == 3


def test_one_run_makes_a_report_that_says_what_is_missing(evaluated, tmp_path):
    report = write_report([evaluated[0]], tmp_path, COMMAND, SPEED)
    assert len(report.lines) == 5
    assert "No stack was evaluated beside it" in report.lines[0].text


def test_a_report_of_a_stack_alone_needs_no_loop(evaluated, tmp_path):
    report = write_report([evaluated[2]], tmp_path, COMMAND, SPEED)
    assert report.lines[2].text.startswith("Task:")
    Elements(report.html.read_text())


def test_an_existing_report_is_not_overwritten(evaluated, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(UserError, match="already exists and is not overwritten"):
        write_report(evaluated, tmp_path, COMMAND, SPEED)
    assert (tmp_path / "report.html").read_text() == "mine"
    assert not (tmp_path / "report.json").exists()


def test_a_run_without_evaluation_and_no_run_at_all_are_refused(evaluated, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(evaluated[0], bare, ignore=shutil.ignore_patterns(FILE))
    with pytest.raises(UserError, match="loopwm evaluate"):
        write_report([evaluated[0], bare], tmp_path / "out", COMMAND, SPEED)
    with pytest.raises(UserError, match="at least one"):
        write_report([], tmp_path / "out", COMMAND, SPEED)
    assert not (tmp_path / "out").exists()


def test_a_world_of_vectors_and_discrete_actions_without_labels_gets_its_report(tmp_path):
    env = gymnasium.make("CartPole-v1")
    names = ("x", "v", "angle", "spin")
    observation = ObservationSpec.from_gymnasium(env.observation_space, names, (("x", "v"), ("angle", "spin")), 0.02)
    meta = StoreMeta("cartpole", observation, ActionSpec.from_gymnasium(env.action_space), seed=0)
    write_store(tmp_path / "cartpole.h5", (cartpole_episode(env, seed) for seed in range(80)), meta)
    config = PRESETS["debug"].config
    config = replace(config, data=tmp_path / "cartpole.h5", train=replace(config.train, updates=3))
    train(config, tmp_path / "run")
    found = evaluate(tmp_path / "run", config=replace(SMALL, horizon=10))
    assert found.difficulty == ()
    assert set(found.horizon[0].rmse) == {"position", "velocity"}
    # A pole that falls for 0.2 s mostly keeps falling: the control knows that much physics.
    assert found.controls["constant velocity"].mean < found.controls["copy last"].mean
    report = write_report([tmp_path / "run"], tmp_path, COMMAND, SPEED)
    text = report.html.read_text()
    Elements(text)
    assert "Engine and imagination" not in text


def cartpole_episode(env: gymnasium.Env, seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    observations, actions, rewards, terminated = [env.reset(seed=seed)[0]], [], [], False
    while not terminated and len(actions) < 40:
        # Mostly alternating pushes keep the pole up for longer than chance does.
        actions.append([(len(actions) + (rng.random() < 0.2)) % 2])
        observation, reward, terminated, _, _ = env.step(int(actions[-1][0]))
        observations.append(observation)
        rewards.append(float(reward))
    columns = [np.array(column, np.float32) for column in (observations, actions, rewards)]
    return Episode(columns[0], columns[1], columns[2], terminated, {}, seed)


def test_a_model_that_predicts_nan_still_gets_its_report(evaluated, billiards_columns, tmp_path, evaluations):
    model = load(evaluated[0])
    assert isinstance(model.observation_head, ObservationHead)
    with torch.no_grad():
        model.observation_head.read.bias[1] = torch.nan
    broken = measure(model, billiards_columns, np.arange(8), np.arange(8, 50), evaluations[0].run, SMALL)
    run = tmp_path / "broken"
    shutil.copytree(evaluated[0], run)
    broken.save(run / FILE)
    report = write_report([run, evaluated[1]], tmp_path / "out", COMMAND, SPEED)
    assert broken.nonfinite > 0
    assert re.search(r"\d+ predicted numbers were NaN or infinite", report.lines[4].text)
    assert report.lines[3].verdict == "worse"
    Elements(report.html.read_text())
    assert broken.one_step.mean == math.inf


# ---- leaving early, and guarantees ----


def test_the_section_on_leaving_early_shows_every_rule_and_names_the_cheapest(page, evaluations):
    section = page[page.index("<h2>Leaving the loop early</h2>") : page.index("<h2>Long rollouts</h2>")]
    found = evaluations[0].frontier
    assert found is not None
    for curve in found.curves:
        assert curve.rule in section
    assert f"Fewest loops at no more than 1% above the error of all {found.mu} loops" in section
    assert "needs a certified core" in section and '<figure id="frontier">' in section
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", section)
    assert len(rows) == len(found.curves)


def test_a_report_of_a_stack_alone_has_nothing_to_leave(evaluated, tmp_path):
    text = write_report([evaluated[2]], tmp_path, COMMAND, SPEED).html.read_text()
    assert "Leaving the loop early" not in text and "Certificate" not in text


def test_errors_with_an_exit_are_labelled_beside_those_of_all_loops(evaluated, tmp_path):
    run = Path(shutil.copytree(evaluated[0], tmp_path / "looped"))
    found = evaluate(run, config=replace(SMALL, exit=ExitConfig("residual", 0.7)), existing="replace")
    assert found.early is not None
    text = write_report([run, evaluated[1]], tmp_path / "out", COMMAND, SPEED).html.read_text()
    table = text[text.index("<table") : text.index("</table>")]
    row = table[table.index("One-step error, leaving early") :].split("</tr>")[0]
    assert "residual &lt; 0.7, T &lt;= 2" in row and number(found.early.one_step.mean) in row and "no loop" in row
    assert "Asked for with the evaluation, residual &lt; 0.7" in text
    moving = typical_rollout(run, found)
    assert moving is not None and moving[0].exit == found.config.exit and set(moving[0].loops) <= {1, 2}


def test_a_certificate_is_shown_only_for_the_weights_it_was_made_for(evaluated, tmp_path):
    run = Path(shutil.copytree(evaluated[0], tmp_path / "looped"))
    claims = certify(run, config=MeasureConfig(states=8, depth=1, iterations=4))
    good = write_report([run], tmp_path / "good", COMMAND, SPEED)
    text = good.html.read_text()
    assert claims.sha256 in text and "Checked against the weights" in text and "C. not claimed" in text
    assert json.loads(good.json.read_text())["certificate"]["holds"] is True
    stored = read_checkpoint(run / NAME)
    moved = {name: value * 1.5 if name.endswith("weight") else value for name, value in stored.tensors.items()}
    save_checkpoint(run / NAME, stored.blueprint, moved, stored.state)
    text = write_report([run], tmp_path / "bad", COMMAND, SPEED).html.read_text()
    assert "NOT the one of its" in text and "made for other weights" in text and claims.sha256 not in text


# ---- the animation ----


def test_the_loops_of_every_step_are_coloured():
    scene = scene_of("billiards", ObservationSpec("entities", (6, 5), ("x", "y", "vx", "vy", "cue")))
    assert scene is not None
    spending = Spending((1, 7, 4), 7)
    observation = np.zeros((6, 5), np.float32)
    colours = []
    for step in range(4):
        image = np.asarray(frame(scene, observation, observation, step, spending))
        # The middle of each step's cell in the strip, and the frame around the imagination.
        colours.append([tuple(image[248, round((k + 0.5) * 448 / 3)]) for k in range(3)])
        if step:
            assert tuple(image[20, 300]) == spending.colour(spending.loops[step - 1])
    wanted = [spending.colour(loops) for loops in spending.loops]
    assert len(set(wanted)) == 3
    for step, shown in enumerate(colours):
        assert shown[:step] == wanted[:step] and set(shown[step:]).isdisjoint(wanted)
    assert frame(scene, observation, observation, 1).height < frame(scene, observation, observation, 1, spending).height


def test_the_animation_shows_the_engine_and_the_imagination_over_forty_steps(evaluated, evaluations):
    found = typical_rollout(evaluated[0], evaluations[0])
    assert found is not None
    animation, scene = found
    assert animation.steps == 40
    image = Image.open(io.BytesIO(base64.b64decode(animation.moving.split(",")[1])))
    assert isinstance(image, GifImageFile) and image.n_frames == 41
    opening = np.asarray(image.convert("RGB")).astype(float)
    image.seek(40)
    end = np.asarray(image.convert("RGB")).astype(float)
    left, right = slice(0, 220), slice(228, 448)
    # Both tables move, and the barely trained model imagines something else than what happened.
    assert np.abs(end[20:, left] - opening[20:, left]).mean() > 2
    assert np.abs(end[20:, left] - end[20:, right]).mean() > 2
    assert "2 units wide" in scene.note


def test_the_animated_rollout_is_the_median_one(evaluated, evaluations):
    found = typical_rollout(evaluated[0], evaluations[0])
    assert found is not None
    assert found[0].rank == pytest.approx(0.5, abs=0.5 / found[0].candidates)


def test_a_missing_recording_costs_the_animation_and_nothing_else(evaluated, evaluations, tmp_path):
    moved = replace(evaluations[0], run=replace(evaluations[0].run, data=str(tmp_path / "moved.h5")))
    assert typical_rollout(evaluated[0], moved) is None
