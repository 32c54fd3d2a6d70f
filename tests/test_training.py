"""Training: what survives an interruption, a kill, a full disk, a bad number."""

from __future__ import annotations

import fcntl
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from debug_run import debug
from safetensors.torch import load_file, save_file

from loopwm.data.cache import open_memmap
from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.data.store import Store, write_store
from loopwm.data.windows import all_windows
from loopwm.errors import LoopwmError, UserError
from loopwm.model.config import SYSTEMS, ExitConfig, ModelConfig
from loopwm.model.encoders import EntityEncoder
from loopwm.model.world_model import WorldModel
from loopwm.train.checkpoint import NAME, Blueprint, load, read_checkpoint, save_checkpoint, world_weights
from loopwm.train.config import OptimConfig
from loopwm.train.data import training_data
from loopwm.train.hardware import Heap, has_bfloat16, native_precision
from loopwm.train.journal import read_config, read_log
from loopwm.train.runs import finished, resume, train
from loopwm.train.trainer import Trainer


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / NAME)


def assert_same_tensors(first: Path, second: Path) -> None:
    a, b = tensors(first), tensors(second)
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


# ---- it learns, and says what it did ----


def test_validation_can_look_a_second_time_with_rows_that_leave_early(trained, billiards_store, tmp_path):
    run = tmp_path / "early"
    train(debug(billiards_store, exit=ExitConfig("residual", 1e9)), run)
    # Looking changes nothing about what is learned.
    assert_same_tensors(trained, run)
    plain, early = (read_log(folder)[-1]["validation"] for folder in (trained, run))
    assert {name: early[name] for name in plain} == plain and set(plain) == {"one_step", "open_loop"}
    assert early["exit_one_step_loops"] == early["exit_open_loop_loops"] == 1
    with Store.open(billiards_store) as store:
        windows = all_windows(open_memmap(store), store.split("validation"), length=10, stride=10)[:512]
    model = load(run)
    with torch.no_grad():
        imagined = model.imagine(windows.actions, observation=windows.observations[:, 0], num_loops=1)
        error = (model.decode(imagined).observation - windows.observations[:, 1:]) / model.observation_std
    wanted = error[..., model.observation_changes].square().mean()
    assert early["exit_open_loop"] == pytest.approx(float(wanted), rel=1e-4)
    assert read_config(run / "config.yaml").train.exit == ExitConfig("residual", 1e9)


@pytest.mark.parametrize(("system", "rule"), [("stack-equal-flops", "residual"), ("looped", "certified")])
def test_an_exit_the_model_cannot_follow_is_refused_before_training(billiards_store, tmp_path, system, rule):
    config = debug(billiards_store, exit=ExitConfig(rule, 0.1))
    with pytest.raises(UserError, match=r"no loop to leave early|needs a certified core"):
        train(replace(config, model=replace(config.model, system=system)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_reduces_the_error_and_logs_every_term(billiards_store: Path, tmp_path: Path) -> None:
    result = train(debug(billiards_store, updates=60, batch=32), tmp_path / "run")
    lines = read_log(tmp_path / "run")
    losses = [line for line in lines if "loss" in line]
    assert losses[-1]["observation"] < 0.9 * losses[0]["observation"]
    fields = "update loss observation reward continue window gradient_norm lr skipped seconds"
    assert set(fields.split()) == set(losses[0])
    assert losses[-1]["update"] == result.updates == 60
    assert result.validation == next(line["validation"] for line in reversed(lines) if "validation" in line)
    assert any((tmp_path / "run" / "tensorboard").iterdir())
    assert finished(tmp_path / "run") == result


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["auto", "native", "bfloat16"])
def test_training_in_other_precisions_reduces_the_error_too(
    billiards_store: Path, tmp_path: Path, precision: str
) -> None:
    run = tmp_path / "run"
    result = train(debug(billiards_store, updates=200, batch=32, log_every=1, precision=precision), run)
    losses = [line for line in read_log(run) if "loss" in line]
    assert len(losses) == 200 and all(math.isfinite(value) for line in losses for value in line.values())
    assert losses[-1]["observation"] < 0.6 * losses[0]["observation"]
    assert result.skipped == 0 and all(math.isfinite(error) for error in result.validation.values())
    info = json.loads((run / "info.json").read_text())
    if precision == "auto" and has_bfloat16(torch.device("cpu")):
        seconds = info["precision_seconds"]
        wanted = "bfloat16" if seconds["bfloat16"] < 0.95 * seconds["float32"] else "float32"
    else:
        wanted = precision if precision == "bfloat16" else native_precision(torch.device("cpu"))
    assert info["precision"] == wanted


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux lists what a processor can do there")
def test_native_is_bfloat16_only_where_the_processor_has_it(billiards_store: Path, tmp_path: Path) -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    run = tmp_path / "run"
    train(debug(billiards_store, updates=2, precision="native"), run)
    had = "avx512_bf16" in flags or "amx_bf16" in flags
    assert json.loads((run / "info.json").read_text())["precision"] == ("bfloat16" if had else "float32")


@pytest.mark.slow
def test_bfloat16_rounds_the_products_and_not_the_weights(billiards_store: Path, tmp_path: Path) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        train(debug(billiards_store, updates=5, log_every=1, precision=precision), tmp_path / precision)
        losses[precision] = [line["loss"] for line in read_log(tmp_path / precision) if "loss" in line]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["bfloat16"] != pytest.approx(losses["float32"], rel=1e-5)
    weights = {name: value.dtype for name, value in tensors(tmp_path / "bfloat16").items() if name.startswith("model.")}
    assert {dtype for name, dtype in weights.items() if name.endswith("weight")} == {torch.float32}


def test_a_loaded_run_predicts_what_the_trainer_averaged(trained: Path) -> None:
    model = load(trained)
    stored = read_checkpoint(trained / NAME).part("ema")
    assert not model.training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, stored[name], rtol=0, atol=0)
    assert not torch.equal(
        load(trained, "model").core.prelude.from_latent.weight, stored["core.prelude.from_latent.weight"]
    )


def test_a_checkpoint_from_before_heads_knew_units_is_read_as_it_was(trained: Path, tmp_path: Path) -> None:
    stored = read_checkpoint(trained / NAME)
    units = ("reward_head.mean", "reward_head.std")
    older = {name: tensor for name, tensor in stored.tensors.items() if not name.endswith(units)}
    assert len(older) == len(stored.tensors) - 4
    save_checkpoint(tmp_path / NAME, stored.blueprint, older, stored.state)
    now, then, latents = load(trained), load(tmp_path), torch.randn(5, 6, stored.blueprint.model.width)
    mean, std = (stored.tensors[f"ema.{name}"] for name in units)
    torch.testing.assert_close(now.decode(latents).reward, mean + std * then.decode(latents).reward)
    # Nothing is added to it, so that what was said of its weights still holds.
    assert set(world_weights(then)) == {name[4:] for name in older if name.startswith("ema.")}


def test_the_configuration_beside_the_run_is_accepted_back(trained: Path, billiards_store: Path) -> None:
    assert read_config(trained / "config.yaml") == debug(billiards_store)


def test_equal_seeds_give_equal_runs_and_other_seeds_others(
    billiards_store: Path, trained: Path, tmp_path: Path
) -> None:
    train(debug(billiards_store), tmp_path / "same")
    train(debug(billiards_store, seed=1), tmp_path / "other")
    assert_same_tensors(trained, tmp_path / "same")
    name = "model.core.prelude.from_latent.weight"
    assert not torch.equal(tensors(trained)[name], tensors(tmp_path / "other")[name])


# ---- memory ----


def resident() -> float:
    """Main memory of this process now, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


trims = pytest.mark.skipif(Heap(0)._trim is None, reason="the C library has no malloc_trim")


@trims
def test_memory_between_tensors_that_stay_is_given_back() -> None:
    # Each smaller than what the C library maps on its own, and the last of them stays.
    tensors = [torch.ones(64 * 256) for _ in range(4000)]
    kept = tensors[::100] + tensors[-1:]
    del tensors
    before = resident()
    assert Heap(every=0).trim()
    assert resident() < before - 150 and all(one.sum() == len(one) for one in kept)


@trims
def test_memory_is_given_back_now_and_then_not_at_every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    # A clock that stands still unless told: a busy machine may take any time to free a few tensors.
    monkeypatch.setattr("loopwm.train.hardware.time", SimpleNamespace(monotonic=lambda: now[0]))
    heap = Heap(every=30)
    tensors = [torch.ones(64 * 256) for _ in range(2000)]
    kept = tensors[-1:]
    del tensors
    now[0] = 29.0
    assert not heap.trim() and kept
    now[0] = 30.0
    assert heap.trim() and not heap.trim()


def test_short_episodes_are_looked_at_whole(tmp_path: Path) -> None:
    collect(CollectConfig(episodes=40, max_steps=6, workers=1), tmp_path / "short.h5")
    data = training_data(debug(tmp_path / "short.h5"))
    assert data.validation.rewards.shape[1] == 6


def test_giving_memory_back_is_part_of_training_and_changes_nothing_about_it(
    trained: Path, billiards_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Eager(Heap):
        def __init__(self) -> None:
            super().__init__(every=0)

        def trim(self) -> bool:
            asked.append(super().trim())
            return asked[-1]

    monkeypatch.setattr("loopwm.train.trainer.Heap", Eager)
    result = train(debug(billiards_store), tmp_path / "run")
    assert_same_tensors(trained, tmp_path / "run")
    assert len(asked) == result.updates


# ---- interruption ----


def start(run: Path, store: Path, updates: int, *options: str) -> subprocess.Popen[str]:
    words = ["debug", "--run", str(run), "--data", str(store), "--train.updates", str(updates)]
    return command("train", *words, "--train.checkpoint-every", "0.05", "--train.log-every", "1", *options)


def command(*words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = (sys.executable, "-m", "loopwm", *words)
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_until_update(run: Path, update: int, process: subprocess.Popen[str], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if (run / NAME).is_file() and any(line["update"] >= update for line in read_log(run)):
            return
        time.sleep(0.02)
    raise AssertionError(f"never reached update {update}: {process.communicate()}")


def test_resume_is_bit_exact_after_kill_minus_nine_in_mid_training(billiards_store: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(run, billiards_store, 150)
    wait_until_update(run, 40, process)
    process.kill()
    process.communicate()
    reached = read_checkpoint(run / NAME).state["update"]
    assert 0 < reached < 150
    # A line torn in half is what a kill can leave in the log.
    with (run / "log.jsonl").open("a") as log:
        log.write('{"update": 9')
    assert resume(run).updates == 150
    train(replace(read_config(run / "config.yaml")), whole)
    assert_same_tensors(run, whole)
    log = [(line["update"], line.get("loss")) for line in read_log(run)]
    assert log == [(line["update"], line.get("loss")) for line in read_log(whole)]


def test_ctrl_c_saves_and_says_how_to_go_on(billiards_store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, billiards_store, 100_000)
    wait_until_update(run, 5, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"loopwm train --resume {run}" in errors and "Traceback" not in errors
    update = read_checkpoint(run / NAME).state["update"]
    assert f"Stopped at update {update} of 100000" in errors


def test_a_run_stopped_before_its_first_checkpoint_begins_again(
    billiards_store: Path, trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(debug(billiards_store), run)
    (run / NAME).unlink()
    resume(run)
    assert_same_tensors(run, trained)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "precision"), [*((system, "float32") for system in SYSTEMS), ("looped", "bfloat16")]
)
def test_resume_of_a_compiled_run_is_bit_exact(
    billiards_store: Path, tmp_path: Path, system: str, precision: str
) -> None:
    """Each part in a process of its own, so that none profits from what another has compiled."""
    run, whole = tmp_path / "killed", tmp_path / "whole"
    options = ("--train.compile", "--model.system", system, "--train.precision", precision)
    process = start(run, billiards_store, 300, *options)
    wait_until_update(run, 40, process, seconds=300)
    process.kill()
    process.communicate()
    if not json.loads((run / "info.json").read_text())["compiled"]:
        pytest.skip("torch cannot compile here")
    assert 0 < read_checkpoint(run / NAME).state["update"] < 300
    for going_on in (command("train", "--resume", str(run)), start(whole, billiards_store, 300, *options)):
        _, errors = going_on.communicate()
        assert going_on.returncode == 0, errors
    assert_same_tensors(run, whole)


# ---- bad numbers ----


def test_a_non_finite_update_is_skipped_and_counted(billiards_store: Path, tmp_path: Path) -> None:
    trainer = Trainer(debug(billiards_store), tmp_path)
    trainer.advance()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert isinstance(trainer.model.encoder, EntityEncoder)
    hook = trainer.model.encoder.embed.weight.register_hook(lambda gradient: gradient * math.inf)
    fields = trainer.advance()
    hook.remove()
    assert (fields["finite"], trainer.skipped, trainer.update) == (0.0, 1, 2)
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
    assert trainer.advance()["finite"] == 1.0


def test_a_run_that_diverges_for_good_stops_and_keeps_its_last_good_checkpoint(
    billiards_store: Path, tmp_path: Path
) -> None:
    config = debug(billiards_store, updates=200, max_skipped=5, checkpoint_every=1e-6)
    config = replace(config, optim=OptimConfig(lr=1e30, warmup=0, clip=1e30))
    with pytest.raises(LoopwmError, match=r"5 updates in a row were non-finite.*lower optim\.lr"):
        train(config, tmp_path / "run")
    assert read_checkpoint(tmp_path / "run" / NAME).state["skipped"] == 0


# ---- bad input ----


def test_an_existing_run_is_not_overwritten(trained: Path, billiards_store: Path) -> None:
    before = (trained / NAME).read_bytes()
    with pytest.raises(UserError, match=r"already exists.*--resume"):
        train(debug(billiards_store), trained)
    assert (trained / NAME).read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(billiards_store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=r"The folder .*file/run cannot be made \(Not a directory\); choose another"):
        train(debug(billiards_store), tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_run_is_not_trained_by_two_processes_at_once(trained: Path) -> None:
    before = tensors(trained)
    with (trained / ".lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"Another process is training .*run; wait until it is done"):
            resume(trained)
    assert all(torch.equal(before[name], now) for name, now in tensors(trained).items())
    assert finished(trained) is not None


def test_another_recording_cannot_be_resumed_on(trained: Path, tmp_path: Path) -> None:
    collect(CollectConfig(episodes=30, workers=1, seed=99), tmp_path / "other.h5")
    trainer = Trainer(debug(tmp_path / "other.h5"), tmp_path)
    with pytest.raises(UserError, match="not the recording"):
        trainer.restore(read_checkpoint(trained / NAME))


def test_a_truncated_checkpoint_is_refused(trained: Path, tmp_path: Path) -> None:
    torn = tmp_path / NAME
    torn.write_bytes((trained / NAME).read_bytes()[:5000])
    with pytest.raises(UserError, match="truncated or not a safetensors file"):
        load(torn)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.zeros(2)}, foreign)
    with pytest.raises(UserError, match="not one that loopwm wrote"):
        load(foreign)
    with pytest.raises(UserError, match="no checkpoint at"):
        load(tmp_path)


def test_a_checkpoint_of_another_architecture_is_refused(trained: Path) -> None:
    checkpoint = read_checkpoint(trained / NAME)
    wider = replace(checkpoint.blueprint, model=ModelConfig(width=32, heads=2)).build()
    with pytest.raises(UserError, match="another architecture"):
        checkpoint.restore(wider, "ema")


def test_a_checkpoint_of_another_format_version_is_refused(trained: Path, tmp_path: Path) -> None:
    header = {"format": 999, "blueprint": {}, "state": {}}
    save_file({"model.w": torch.zeros(1)}, tmp_path / NAME, metadata={"loopwm": json.dumps(header)})
    with pytest.raises(UserError, match="checkpoint format 999"):
        load(tmp_path)


def test_a_full_disk_leaves_the_previous_checkpoint_untouched(trained: Path, tmp_path: Path) -> None:
    model: WorldModel = load(trained)
    path = tmp_path / NAME
    save_checkpoint(path, Blueprint.of(model), {"ema.x": torch.zeros(3)}, {"update": 1})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(LoopwmError, match=r"Could not write .*free some space"):
            save_checkpoint(path, Blueprint.of(model), {"ema.x": torch.zeros(100_000)}, {"update": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_recording_in_which_nothing_changes_is_refused(billiards_store: Path, tmp_path: Path) -> None:
    with Store.open(billiards_store) as store:
        episodes = [store.episode(index) for index in range(40)]
        still = [replace(one, observations=one.observations * 0 + one.observations[0]) for one in episodes]
        write_store(tmp_path / "still.h5", still, store.meta)
    with pytest.raises(UserError, match=r"still\.h5 no feature of the observation ever changes"):
        Trainer(debug(tmp_path / "still.h5"), tmp_path)


def test_an_unknown_device_is_refused(billiards_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Device 'cuda:7' is not available"):
        Trainer(debug(billiards_store, device="cuda:7"), tmp_path)


def test_a_recording_without_held_out_episodes_is_refused(billiards_store: Path, tmp_path: Path) -> None:
    with Store.open(billiards_store) as store:
        train_only = [store.episode(int(index)) for index in store.split("train")[:5]]
        write_store(tmp_path / "few.h5", train_only, store.meta)
    with pytest.raises(UserError, match=r"few\.h5 has 5 training and 0 validation episodes, .* record more episodes"):
        Trainer(debug(tmp_path / "few.h5"), tmp_path)
