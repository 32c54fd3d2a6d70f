"""Image worlds by the commands that serve all worlds: recorded, trained on, interrupted, evaluated, reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from loopwm.cli import main
from loopwm.data.cache import Columns, open_memmap
from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.data.store import Store
from loopwm.envs.imagined import Starts, WorldModelEnv
from loopwm.errors import UserError
from loopwm.evaluate.controls import fit_controls
from loopwm.evaluate.pixel_controls import LinearComponents
from loopwm.evaluate.rollout import control_errors, control_single, one_step, open_loop
from loopwm.evaluate.scores import Scorer, psnr
from loopwm.evaluate.segments import Segments, rollouts, rows_at_once, tile
from loopwm.model.config import ModelConfig
from loopwm.model.world_model import WorldModel
from loopwm.presets import RunConfig, preset
from loopwm.train.checkpoint import load
from loopwm.train.config import EmbedConfig, LossConfig
from loopwm.train.runs import resume, train
from loopwm.train.trainer import Trainer
from loopwm.train.validation import validate

SMALL = ["--horizon", "4", "--transitions", "60", "--rollouts", "10", "--training-rollouts", "60", "--resamples", "50"]
SMALL += ["--stability-steps", "20", "--speed.rounds", "1", "--speed.seconds", "0.001", "--speed.batches", "1"]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pixels") / "pixels.h5"
    collect(CollectConfig("billiards-pixels", episodes=70, max_steps=14, workers=1, seed=3), path)
    return path


@pytest.fixture(scope="module")
def columns(recording: Path) -> Columns:
    with Store.open(recording) as store:
        return open_memmap(store)


def debug(data: Path, **changes: object) -> RunConfig:
    """The debug preset for images, smaller still."""
    config = preset("debug").config
    settings = {"updates": 6, "batch": 4, "window": 4, "shift": 4, "validate_every": 3} | changes
    return replace(
        config,
        data=data,
        model=replace(config.model, tokens=4),
        loss=LossConfig(shown=3),
        train=replace(config.train, **settings),
    )


@pytest.fixture(scope="module")
def run(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(debug(recording), folder)
    return folder


# ---- training ----


def test_an_interrupted_run_goes_on_bit_for_bit(recording: Path, run: Path, tmp_path: Path) -> None:
    """Windows are read ahead and shifted; what was read and not used must not count."""
    config = debug(recording)
    trainer = Trainer(config, tmp_path / "half")
    (tmp_path / "half").mkdir()
    from loopwm.train.journal import write_config

    write_config(tmp_path / "half", config)
    trainer.settle_precision()
    for _ in range(3):
        trainer.advance()
    trainer.save()
    trainer.windows.close()
    resume(tmp_path / "half")
    whole, halves = load(run), load(tmp_path / "half")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, halves.state_dict()[name]), name


def test_a_shift_of_what_is_no_image_is_refused(billiards_store: Path, tmp_path: Path) -> None:
    config = preset("debug").config
    config = replace(config, data=billiards_store, train=replace(config.train, shift=4))
    with pytest.raises(UserError, match=r"train\.shift moves images, and .* holds observations of kind 'entities'"):
        train(config, tmp_path / "run")


def fitted(recording: Path, tmp_path: Path, embed: EmbedConfig) -> tuple[float, float]:
    """Spread and effective rank of the embeddings after a short training without a decoder."""
    config = debug(recording, updates=40, batch=12, window=3, shift=0)
    config = replace(
        config,
        model=replace(config.model, summary=True),
        loss=LossConfig(objective="embed", shown=3, embed=embed),
        optim=replace(config.optim, lr=8e-3),
    )
    trainer = Trainer(config, tmp_path / "none")
    for _ in range(40):
        trainer.advance()
    trainer.windows.close()
    with torch.no_grad():
        samples = trainer.model.encode(trainer.validation.observations.flatten(0, 1)).flatten(1)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(samples.T)).clamp(min=0)
    share = eigenvalues / eigenvalues.sum()
    return float(samples.std(0).square().mean().sqrt()), float(torch.special.entr(share).sum().exp())


def test_embeddings_collapse_without_the_regulariser_and_not_with_it(recording: Path, tmp_path: Path) -> None:
    spread, rank = fitted(recording, tmp_path, EmbedConfig(slices=64))
    lost_spread, _ = fitted(recording, tmp_path, EmbedConfig(gaussian=0.0, slices=64))
    assert 0.5 < spread < 1.5
    assert lost_spread < 0.2 * spread
    assert rank > 8


def test_the_probe_changes_nothing_but_itself(recording: Path, tmp_path: Path) -> None:
    config = debug(recording, shift=0)
    config = replace(
        config, model=replace(config.model, summary=True), loss=LossConfig(objective="embed", reward=0, continues=0)
    )
    trainer = Trainer(config, tmp_path / "none")
    windows, draws = trainer.draw(), torch.Generator().manual_seed(0)
    trainer.windows.close()
    latents = trainer.objective.unroll(trainer.model, windows, 2, draws)
    terms = trainer.objective.terms(trainer.model, windows, latents)
    terms.observation.backward(retain_graph=True)
    touched = {name.split(".")[0] for name, p in trainer.model.named_parameters() if p.grad is not None}
    assert touched == {"observation_head"}
    parts = terms.further["alignment"] + 10 * terms.further["gaussian"] + terms.observation
    torch.testing.assert_close(terms.total, parts)


def test_validation_watches_before_it_counts(recording: Path, run: Path, columns: Columns) -> None:
    model, windows = load(run), Trainer(debug(recording), run.parent / "other").validation
    found = validate(model, windows, torch.device("cpu"))
    seen, actions = windows.observations, windows.actions
    with torch.no_grad():
        watched = model.observe(seen[:, :3], actions[:, :3])[:, -1]
        imagined = model.decode(model.imagine(actions[:, 3:], observation=seen[:, 3], h=watched)).observation
        error = (model.normalise(imagined) - model.normalise(seen[:, 4:])).square().mean()
    assert found["open_loop"] == pytest.approx(float(error), rel=1e-5)


# ---- evaluation ----


def test_a_warm_up_is_watched_and_not_scored(run: Path, columns: Columns) -> None:
    model = load(run)
    segments = rollouts(columns, np.arange(8), 5, stride=6, warmup=3)
    assert segments.observations.dtype == np.uint8 and segments.length == 8
    assert not segments.valid[:, :3].any() and segments.start.min() == 0
    errors = open_loop(model, segments, batch=3)
    assert np.isnan(errors.observation[:, :3]).all()
    np.testing.assert_array_equal(np.isfinite(errors.observation), segments.valid)
    observations, actions = torch.as_tensor(segments.observations), torch.as_tensor(segments.actions)
    with torch.no_grad():
        h = model.observe(observations[:, :3], actions[:, :3])[:, -1]
        imagined = model.decode(model.imagine(actions[:, 3:], observation=observations[:, 3], h=h)).observation
    scorer = Scorer.of(model)
    expected = scorer.normalised_error(imagined.double().numpy(), segments.observations[:, 4:])
    np.testing.assert_allclose(errors.observation[segments.valid], expected[segments.ahead.valid], rtol=1e-4)
    # The floor sees the same images, and with nothing hidden one step is one step.
    seeing = one_step(model, segments)
    np.testing.assert_allclose(seeing.observation[:, 3], errors.observation[:, 3], rtol=1e-4)


def test_tiles_with_a_warm_up_cover_what_has_one_once(columns: Columns) -> None:
    segments = tile(columns, np.arange(12), 2, warmup=3)
    covered = [
        (int(e), int(s) + k)
        for e, s, valid in zip(segments.episode, segments.start, segments.valid, strict=True)
        for k in np.flatnonzero(valid)
    ]
    assert sorted(covered) == [(e, k) for e in range(12) for k in range(3, int(columns.ep_len[e]))]
    with pytest.raises(UserError, match="No episode is longer than the 99 transitions that are watched"):
        tile(columns, np.arange(12), 1, warmup=99)


def drifting(batch: int, steps: int) -> np.ndarray:
    """Images (B, steps, 16, 16, 1) whose two patterns grow and shrink at speeds of their own: linear, and seen only in
    the difference of two images."""
    draws = np.random.default_rng(0)
    start, speed = draws.uniform(80, 120, (2, batch, 1)), draws.uniform(-5, 5, (2, batch, 1))
    level = (start + speed * np.arange(steps))[..., None, None, None]
    rows = (np.arange(16) < 8)[:, None, None]
    return np.where(rows, level[0], level[1]).repeat(16, axis=3).round().astype(np.uint8)


def test_the_linear_control_continues_what_two_images_show(columns: Columns) -> None:
    images = drifting(300, 8)
    scorer = Scorer(
        replace(columns.meta.observation, shape=(16, 16, 1), names=("grey",)),
        np.array([100.0]),
        np.array([20.0]),
        np.array([True]),
    )
    zeros = np.zeros((300, 7), np.float32)
    segments = Segments(
        images,
        np.random.default_rng(1).normal(size=(300, 7, 2)).astype(np.float32),
        zeros,
        zeros + 1,
        {},
        np.broadcast_to(np.arange(7) >= 3, (300, 7)),
        np.arange(300),
        np.zeros(300, np.int64),
        warmup=3,
    )
    copy, linear = fit_controls(segments, scorer, columns.meta.action)
    assert isinstance(linear, LinearComponents)
    last = {control.name: control_errors(control, segments, scorer).observation for control in (copy, linear)}
    assert np.isnan(last[copy.name][:, :3]).all()
    assert np.nanmean(last[linear.name]) < 0.05 * np.nanmean(last[copy.name])
    single = control_single(linear, segments, scorer)
    assert single.shape == (300 * 4,) and single.mean() < 0.2 * control_single(copy, segments, scorer).mean()
    np.testing.assert_allclose(
        last[copy.name][:, 3], ((images[:, 3].astype(float) - images[:, 4]) ** 2).mean((1, 2, 3)) / 400, rtol=1e-9
    )


def test_few_images_are_predicted_at_once() -> None:
    image = preset("pixels").evaluation
    spec = replace(_image(), shape=(64, 64, 3))
    assert rows_at_once(spec, 40) * 40 * spec.size <= 2**22 and image.watched(spec) == 3
    assert psnr(255.0) == 0 and psnr(25.5) == pytest.approx(20)


def _image():
    from loopwm.spaces import ObservationSpec, channel_names

    return ObservationSpec("image", (8, 8, 3), channel_names(3))


def test_images_are_recorded_trained_on_evaluated_and_reported_by_the_same_commands(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["collect", "billiards-pixels", "--episodes", "2", "--workers", "1"]) == 0
    assert "next: loopwm train pixels --data data/billiards-pixels.h5" in capsys.readouterr().out
    words = ["--data", str(recording), "--model.tokens", "4", "--model.image-encoder", "patch", "--train.updates", "4"]
    assert main(["train", "debug", *words, "--loss.shown", "2", "--train.shift", "4", "--run", "run"]) == 0
    assert main(["evaluate", "run", *SMALL]) == 0
    assert "imagined images, PSNR in dB at 1 step, 4 steps" in capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    curves = {curve["name"]: curve for curve in found["horizon"]}
    assert list(curves) == [
        "imagined",
        "floor, every observation in view",
        "copy last",
        "linear, principal components",
    ]
    assert all(len(curve["error"]) == 4 and set(curve["rmse"]) == {"pixel"} for curve in curves.values())
    # An error of pixels is that of their normalised values, in units of 255.
    assert 1 < curves["copy last"]["rmse"]["pixel"][0]["mean"] < 255
    assert main(["report", "run", "--out", "report"]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "peak signal-to-noise ratio in dB" in page and "There is no control of constant velocity" in page
    assert "which saw only 4 observations" in page and "data:image/gif" in page
    assert main(["certify", "run"]) == 0
    assert main(["monitor", "run"]) == 0
    assert main(["calibrate", "run"]) == 2
    assert "an image does not allow" in capsys.readouterr().err


def test_the_default_model_reads_images_too(columns: Columns) -> None:
    from loopwm.data.statistics import compute_statistics

    statistics = compute_statistics(columns, np.arange(4))
    model = WorldModel(ModelConfig(), columns.meta.observation, columns.meta.action, statistics)
    assert model.tokens == 8 and model.flops().total > 0


# ---- imagined ----


def test_an_imagined_world_of_images_shows_bytes_and_begins_after_a_few_frames(run: Path) -> None:
    env = WorldModelEnv.from_run(run, max_steps=3)
    began, _ = env.reset(seed=0)
    starts = Starts.of_run(run)
    assert starts.actions.shape[1] == 3
    assert any(np.array_equal(began, frame) for frame in starts.observations[:, 3])
    observation, *_ = env.step(np.zeros(2, np.float32))
    assert env.observation_space.contains(began) and env.observation_space.contains(observation)
    assert observation.std() > 0
