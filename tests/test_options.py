"""Preset < size < file < command line: who decides what a run is made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from loopwm.cli import main
from loopwm.commands.train import parse_train
from loopwm.model.config import SIZES
from loopwm.presets import PRESETS
from loopwm.train.checkpoint import load


def test_the_command_line_beats_the_file_and_the_file_beats_the_preset(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("optim: {lr: 0.5, warmup: 1}\nmodel: {loop: {mu: 5}}\n")
    settings = parse_train(["debug", "--config", str(file), "--optim.lr", "0.25"]).settings
    debug = PRESETS["debug"].config
    assert settings == replace(
        debug,
        optim=replace(debug.optim, lr=0.25, warmup=1),
        model=replace(debug.model, loop=replace(debug.model.loop, mu=5)),
    )


def test_a_size_beats_the_preset_and_loses_to_the_file_and_the_command_line(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: {heads: 8}\n")
    words = ["debug", "--size", "small", "--config", str(file), "--model.tokens", "5", "--model.loop.mu", "3"]
    model = parse_train(words).settings.model
    debug = PRESETS["debug"].config.model
    assert model == replace(SIZES["small"], heads=8, tokens=5, loop=replace(debug.loop, mu=3))
    assert parse_train(["debug", "--size=small"]).settings.model == replace(SIZES["small"], loop=debug.loop)


def test_the_measured_preset_is_of_size_tiny():
    assert parse_train(["billiards", "--size", "tiny"]).settings == parse_train(["billiards"]).settings


def test_a_run_of_a_named_size_is_of_that_size_and_its_configuration_is_accepted_back(
    billiards_store: Path, tmp_path: Path
):
    run = tmp_path / "run"
    words = ["--size", "nano", "--train.updates", "2", "--data", str(billiards_store)]
    assert main(["train", "debug", *words, "--run", str(run)]) == 0
    assert load(run).config.width == SIZES["nano"].width
    again = parse_train(["billiards", "--config", str(run / "config.yaml")])
    assert again.settings == parse_train(["debug", *words]).settings


def test_the_help_of_train_names_every_size(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, size in SIZES.items():
        assert f"{name} (width {size.width})" in shown


def test_underscores_and_hyphens_mean_the_same():
    assert parse_train(["debug", "--train.log-every", "3"]) == parse_train(["debug", "--train.log_every", "3"])
