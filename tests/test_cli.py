"""What a person at the keyboard sees: help, hints, one sentence per mistake, and exit codes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
import yaml

from loopwm.cli import COMMANDS, main
from loopwm.commands.demo import make_room
from loopwm.errors import UserError
from loopwm.presets import PRESETS

Run = Callable[..., tuple[int, str, str]]

SMALL_EVALUATION = (
    "--transitions 100 --horizon 5 --rollouts 4 --training-rollouts 50 --stability-steps 5 --resamples 20 "
    "--speed.rounds 1 --speed.seconds 0.001 --device cpu"
)


@pytest.fixture
def loopwm(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in an empty folder: words -> (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def trained(billiards_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the debug preset."""
    run = tmp_path_factory.mktemp("runs") / "debug"
    assert main(["train", "debug", "--data", str(billiards_store), "--run", str(run)]) == 0
    return run


def started(folder: Path, *words: str | Path, **variables: str) -> subprocess.Popen[str]:
    """A command line in a process of its own, with environment variables, for what only a real process can show."""
    return subprocess.Popen(
        [sys.executable, "-m", "loopwm", *map(str, words)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def assert_one_sentence(error: str) -> None:
    """One line for a person, and no traceback."""
    assert error.startswith("loopwm: ")
    assert len(error.splitlines()) == 1
    assert "Traceback" not in error


# ---- help and hints ----


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command_and_every_preset(loopwm: Run, words: list[str]):
    code, out, _ = loopwm(*words)
    assert code == 0
    for name in [*COMMANDS, *PRESETS]:
        assert f"\n  {name} " in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(loopwm: Run, command: str):
    code, out, _ = loopwm(command, "--help")
    assert code == 0
    assert out.startswith(f"usage: loopwm {command}")
    assert "--help" in out


ANSWERED_AT_ONCE = [
    "--help",
    *(f"{command} --help" for command in COMMANDS),
    "trian",
    "train debg",
    "train debug --size smal",
    "evaluate --horizon 0 runs/x",
    "evaluate --exit.rule residul runs/x",
    "train debug --train.exit.threshold -1",
    "collect --episodes 0",
    "study --seeds --long-updates 0",
]


@pytest.mark.parametrize("words", ANSWERED_AT_ONCE)
def test_help_and_mistakes_are_answered_without_importing_anything_heavy(words: str):
    program = (
        "import sys; from loopwm.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'gymnasium', 'h5py', 'matplotlib', 'pydantic', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program, *words.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_version_is_the_installed_one(loopwm: Run):
    assert loopwm("--version") == (0, "loopwm 0.1.0\n", "")


def test_an_unknown_command_gets_the_nearest_one(loopwm: Run):
    assert loopwm("trian") == (2, "", "loopwm: There is no command 'trian'; did you mean 'train'?\n")
    assert "choose one of demo, collect, data, train" in loopwm("xyz")[2]


@pytest.mark.parametrize("command", ["train", "demo"])
def test_an_unknown_preset_gets_the_nearest_one(loopwm: Run, command: str):
    assert loopwm(command, "debgu") == (2, "", "loopwm: There is no preset 'debgu'; did you mean 'debug'?\n")


def test_an_unknown_world_gets_the_nearest_one(loopwm: Run):
    code, _, error = loopwm("collect", "biliards")
    assert code == 2
    assert_one_sentence(error)
    assert "did you mean 'billiards'?" in error


def test_an_unknown_option_gets_the_nearest_ones(loopwm: Run):
    code, _, error = loopwm("train", "debug", "--model.loop.muu", "6")
    assert code == 2
    assert "--model.loop.muu" in error
    assert "--model.loop.mu INT" in error


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train debug --model.loop.mu six", "invalid literal for int() with base 10: 'six'"),
        ("train debug --model.system lopped", "Expected one of"),
        ("evaluate", "RUN"),
        ("report", "RUN"),
        ("collect billiards --episodes", "--episodes"),
    ],
)
def test_a_value_that_does_not_fit_its_option_is_refused(loopwm: Run, words: str, expected: str):
    code, _, error = loopwm(*words.split())
    assert code == 2
    assert expected in " ".join(error.replace("│", " ").split())


# ---- bad input ----


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train debug --model.loop.mu 0", "model.loop.mu must be at least 1, got 0"),
        ("train debug --model.width 10 --model.heads 4", "must be a multiple of model.heads"),
        ("train debug --size smal", "There is no model size 'smal'; did you mean 'small'?"),
        ("train debug --optim.lr -1", "optim.lr must be positive"),
        ("train --optim.lr 1 debug", "loopwm train debug ..."),
        ("train debug --data nowhere.h5", "There is no store at nowhere.h5; record one with"),
        ("train debug --config nowhere.yaml", "nowhere.yaml cannot be read"),
        ("train --resume nowhere", "There is no interrupted run at nowhere"),
        ("evaluate nowhere", "There is no checkpoint at nowhere"),
        ("report nowhere", "nowhere"),
        ("collect billiards --episodes 0", "at least 1 episode"),
    ],
)
def test_bad_input_ends_with_one_sentence_and_exit_code_2(loopwm: Run, words: str, expected: str, tmp_path: Path):
    code, out, error = loopwm(*words.split())
    assert (code, out) == (2, "")
    assert_one_sentence(error)
    assert expected in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["evaluate", "no where"], "loopwm train billiards --run 'no where'"),
        (["report", "no where"], "loopwm evaluate 'no where'"),
        (["train", "--resume", "no where"], "loopwm train billiards --run 'no where'"),
        (["train", "debug", "--data", "no where.h5"], "loopwm collect billiards --out 'no where.h5'"),
    ],
)
def test_a_command_in_a_message_can_be_copied_as_it_stands(loopwm: Run, words: list[str], remedy: str):
    code, _, error = loopwm(*words)
    assert code == 2
    assert_one_sentence(error)
    assert error.endswith(f": {remedy}\n")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("model: {widht: 3}", "there is no option 'model.widht'; did you mean 'model.width'?"),
        ("model: 3", "'model' must be a mapping"),
        ("- 1", "the file must be a mapping"),
        ("model: {width: many}", "model.width: Input should be a valid integer"),
        ("model: {loop: {mu: 0}}", "model.loop.mu must be at least 1"),
        ("model: [", "is not a YAML file"),
    ],
)
def test_a_configuration_file_with_a_mistake_is_refused_by_its_line(
    loopwm: Run, tmp_path: Path, content: str, expected: str
):
    (tmp_path / "mine.yaml").write_text(content)
    code, _, error = loopwm("train", "debug", "--config", "mine.yaml")
    assert code == 2
    assert_one_sentence(error)
    assert expected in error


def damage(recording: Path, how: str, path: Path) -> None:
    """Write a damaged variant of a recording to `path`."""
    content = recording.read_bytes()
    if how == "foreign bytes":
        content = b"not a recording" * 99
    if how == "cut short":
        content = content[: len(content) // 2]
    path.write_bytes(content)
    if how == "another HDF5 file":
        path.unlink()
        with h5py.File(path, "w") as file:
            file["x"] = [1.0]
    if how == "another schema version":
        with h5py.File(path, "a") as file:
            file.attrs["loopwm"] = str(file.attrs["loopwm"]).replace('"schema_version": 1', '"schema_version": 99')
    if how == "a NaN":
        with h5py.File(path, "a") as file:
            rows = file["observation"]
            assert isinstance(rows, h5py.Dataset)
            rows[7] = float("nan")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("foreign bytes", "is not a readable HDF5 file"),
        ("cut short", "truncated"),
        ("another HDF5 file", "not a loopwm store"),
        ("another schema version", "has schema version 99"),
        ("a NaN", "NaN or an infinite number"),
    ],
)
def test_a_recording_that_cannot_be_used_is_refused(
    loopwm: Run, billiards_store: Path, tmp_path: Path, how: str, expected: str
):
    path = tmp_path / "bad.h5"
    damage(billiards_store, how, path)
    before = path.read_bytes()
    code, _, error = loopwm("train", "debug", "--data", path)
    assert code == 2
    assert_one_sentence(error)
    assert expected in error
    assert path.read_bytes() == before
    assert not (tmp_path / "runs").exists()


def test_an_existing_recording_is_not_overwritten(loopwm: Run, billiards_store: Path):
    before = billiards_store.read_bytes()
    code, _, error = loopwm("collect", "billiards", "--episodes", "1", "--out", billiards_store)
    assert code == 2
    assert_one_sentence(error)
    assert "already exists and is not overwritten" in error
    assert billiards_store.read_bytes() == before


def test_an_existing_run_is_not_overwritten(loopwm: Run, trained: Path, billiards_store: Path):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    code, _, error = loopwm("train", "debug", "--data", billiards_store, "--run", trained)
    assert code == 2
    assert_one_sentence(error)
    assert error.endswith(f": loopwm train --resume {trained}\n")
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_an_existing_evaluation_is_replaced_only_on_request(loopwm: Run, trained: Path):
    small = SMALL_EVALUATION.split()
    assert loopwm("evaluate", trained, *small)[0] == 0
    before = (trained / "evaluation.json").read_bytes()
    code, _, error = loopwm("evaluate", trained, *small, "--horizon", "6")
    assert code == 2
    assert_one_sentence(error)
    assert f"{trained}/evaluation.json was made with horizon 5 instead of 6, and is not overwritten" in error
    assert (trained / "evaluation.json").read_bytes() == before
    code, out, _ = loopwm("evaluate", trained, *small, "--horizon", "6", "--overwrite")
    assert code == 0 and "6 steps ahead" in out
    assert loopwm("evaluate", trained, "--device", "cuda:77")[0] == 2


@pytest.mark.parametrize(
    ("run", "wanted"),
    [
        ("file/run", 2),
        pytest.param(
            "/proc/run", 1, marks=pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
        ),
    ],
)
def test_what_is_in_the_way_is_bad_input_and_what_the_system_refuses_is_not(
    loopwm: Run, billiards_store: Path, tmp_path: Path, run: str, wanted: int
):
    (tmp_path / "file").write_text("in the way")
    code, _, error = loopwm("train", "debug", "--data", billiards_store, "--run", run)
    assert code == wanted
    assert_one_sentence(error)
    assert f"The folder {run} cannot be made" in error


def test_a_folder_that_is_not_a_demo_is_not_touched_by_one(loopwm: Run, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    code, _, error = loopwm("demo", "debug", "--out", "mine")
    assert code == 2
    assert_one_sentence(error)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("preset", ["text", "certified"])
def test_a_preset_that_stacks_or_billiards_know_nothing_of_has_no_demo(loopwm: Run, preset: str, tmp_path: Path):
    code, _, error = loopwm("demo", preset)
    assert code == 2 and f"The preset '{preset}' has no demo" in error
    assert_one_sentence(error)
    assert not (tmp_path / "runs").exists()


def test_a_demo_is_kept_from_one_of_another_preset(tmp_path: Path):
    make_room("demo", tmp_path / "out")
    (tmp_path / "out" / "report.html").write_text("ten minutes of work")
    with pytest.raises(UserError, match="holds a demo of the preset 'demo'"):
        make_room("debug", tmp_path / "out")
    make_room("demo", tmp_path / "out")
    assert (tmp_path / "out" / "report.html").read_text() == "ten minutes of work"


def test_a_debug_demo_makes_room_for_the_next(tmp_path: Path):
    make_room("debug", tmp_path / "out")
    (tmp_path / "out" / "report.html").write_text("numbers without meaning")
    make_room("demo", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["preset.txt"]


# ---- stopping and going on ----


def interrupted(process: subprocess.Popen[str], ready: Callable[[], bool], patience: float = 60) -> tuple[int, str]:
    """Press Ctrl-C, which reaches all processes of a terminal, once `ready` says so: (exit code, standard error)."""
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=patience)
    return process.returncode, error


def test_ctrl_c_in_training_saves_and_says_how_to_go_on(loopwm: Run, billiards_store: Path, tmp_path: Path):
    run, log = tmp_path / "stopped", tmp_path / "stopped" / "log.jsonl"
    words = ("train", "debug", "--data", billiards_store, "--run", run, "--train.updates", "100000")
    code, error = interrupted(started(tmp_path, *words), lambda: log.is_file() and log.stat().st_size > 0)
    assert code == 130
    sentence = error.splitlines()[-1]
    assert_one_sentence(sentence)
    assert f"loopwm train --resume {run}" in sentence
    assert "Traceback" not in error
    # Going on finishes what is left; the configuration is shortened so that little is.
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["train"]["updates"] = int(sentence.split("update ")[1].split()[0]) + 5
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    code, out, _ = loopwm("train", "--resume", run)
    assert code == 0
    assert out.startswith(f"Trained {run}: {settings['train']['updates']} updates")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_ctrl_c_while_the_compiler_is_at_work_spares_it(loopwm: Run, billiards_store: Path, tmp_path: Path):
    # Nothing is compiled already.
    cache, run = tmp_path / "compiled", tmp_path / "stopped"
    words = ("train", "debug", "--data", billiards_store, "--run", run, "--train.updates", "3", "--train.compile")
    # Sources are written before they are compiled; the run is there once torch has found out that it can compile.
    process = started(tmp_path, *words, TORCHINDUCTOR_CACHE_DIR=str(cache))
    code, error = interrupted(
        process, lambda: (run / "config.yaml").is_file() and len(list(cache.glob("**/*.main.cpp"))) > 1, patience=240
    )
    assert code == 130
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith("loopwm: Stopped at update 1 of 3, everything is saved")
    # Half a library in the cache would be loaded, and fail, from now on. The newest is of the model itself.
    max(cache.glob("**/*.so"), key=lambda library: library.stat().st_mtime).write_bytes(b"")
    words = ("train", "--resume", run)
    broken = started(tmp_path, *words, TORCHINDUCTOR_CACHE_DIR=str(cache))
    sentence = broken.communicate(timeout=240)[1].splitlines()[-1]
    assert sentence.startswith("loopwm: torch could not compile the model (") and "file too short" in sentence
    assert broken.returncode == 1
    shutil.rmtree(cache)
    assert loopwm(*words)[0] == 0


def test_a_resumed_run_keeps_its_configuration(loopwm: Run, trained: Path):
    code, _, error = loopwm("train", "--resume", trained, "--optim.lr", "1")
    assert code == 2
    assert "--optim.lr" in error


@pytest.mark.parametrize("size", [0, 100_000], ids=["while workers start", "while writing"])
def test_ctrl_c_in_recording_leaves_nothing_behind(tmp_path: Path, size: int):
    words = ("collect", "billiards", "--episodes", "100000", "--workers", "2", "--out", "data/x.h5")

    def begun() -> bool:
        return any(path.stat().st_size >= size for path in tmp_path.glob("data/.x.h5.*"))

    code, error = interrupted(started(tmp_path, *words), begun)
    assert code == 130
    assert error.splitlines()[-1] == "loopwm: Stopped; nothing half-written was left behind."
    assert "Traceback" not in error
    assert not list((tmp_path / "data").iterdir())


# ---- gates ----


def test_a_gate_is_trained_and_replaced_only_on_request(loopwm: Run, billiards_store: Path, tmp_path: Path):
    run, short = tmp_path / "run", ["--updates", "3", "--batch", "4", "--device", "cpu"]
    assert loopwm("train", "debug", "--data", billiards_store, "--run", run, "--train.updates", "3")[0] == 0
    code, out, error = loopwm("train-gate", run, *short)
    assert code == 0 and out.startswith(f"Trained a gate for {run}: 3 updates") and "training the gate 3/3" in error
    code, _, error = loopwm("train-gate", run, *short)
    assert code == 2
    assert_one_sentence(error)
    assert "has a gate already, which is not overwritten" in error
    assert loopwm("train-gate", run, *short, "--target", "ouro", "--overwrite")[0] == 0
    code, _, error = loopwm("train-gate", "nowhere", *short)
    assert code == 2
    assert_one_sentence(error)


# ---- certificates ----


def test_a_certified_run_is_certified_and_its_certificate_checked(loopwm: Run, billiards_store: Path, tmp_path: Path):
    run = tmp_path / "run"
    options = ["--train.updates", "4", "--train.batch", "8", "--optim.warmup", "1", "--model.loop.lipschitz", "0.8"]
    size = ["--model.width", "16", "--model.heads", "2", "--train.no-compile"]
    assert loopwm("train", "certified", "--data", billiards_store, "--run", run, *options, *size)[0] == 0
    code, out, _ = loopwm("certify", run)
    assert code == 0
    assert "C. contracting, for every input" in out and "rho = 0." in out and "measured" not in out
    code, out, _ = loopwm("certify", run, "--check", run / "certificate.json")
    assert code == 0
    assert out.endswith(f"certificate.json holds for the weights of {run}\n")


def test_an_uncertified_run_is_told_that_its_rate_is_measured_and_not_proved(loopwm: Run, trained: Path):
    code, out, _ = loopwm("certify", trained, "--states", "10")
    assert code == 0
    assert "measured, not proved: factor per whole step" in out and "rho" not in out
    assert "for observations within 10 standard deviations" in out
    assert (trained / "certificate.json").is_file()


def test_a_certificate_of_another_run_is_refused(loopwm: Run, trained: Path, billiards_store: Path, tmp_path: Path):
    other = tmp_path / "other"
    assert loopwm("train", "debug", "--data", billiards_store, "--run", other, "--train.updates", "3")[0] == 0
    assert loopwm("certify", other, "--states", "5")[0] == 0
    code, _, error = loopwm("certify", trained, "--check", other / "certificate.json")
    assert code == 2
    assert_one_sentence(error)
    assert "was made for other weights" in error
