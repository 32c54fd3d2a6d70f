"""Several runs at once give what each gives alone, go on after an interruption, and stop together."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from debug_run import debug
from safetensors.torch import load_file

from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.errors import LoopwmError, UserError
from loopwm.progress import SilentProgress
from loopwm.studies import jobs as jobs_module
from loopwm.studies.jobs import Job, large_pages, train_all
from loopwm.studies.systems import pick_rates, with_system
from loopwm.train.checkpoint import NAME, read_checkpoint
from loopwm.train.curriculum import horizon
from loopwm.train.journal import write_config
from loopwm.train.runs import finished, train
from loopwm.train.trainer import Trainer


def test_a_shorter_run_grows_its_windows_faster(billiards_store: Path) -> None:
    whole = debug(billiards_store)
    whole = replace(whole, train=replace(whole.train, updates=20, window=3, curriculum=5))
    short = with_system(whole, "looped", 2e-3, updates=8)
    assert [horizon(short.train, update) for update in range(8)] == [1, 1, 2, 2, 3, 3, 3, 3]
    assert with_system(whole, "looped", 2e-3).train.curriculum == 5


def test_runs_side_by_side_equal_runs_alone_and_finished_ones_are_left_alone(
    billiards_store: Path, tmp_path: Path
) -> None:
    configs = [with_system(debug(billiards_store), "looped", 2e-3, seed) for seed in (0, 1, 2)]
    jobs = [Job(tmp_path / f"side{i}", config) for i, config in enumerate(configs)]
    train_all(jobs, SilentProgress(), again="", workers=2)
    train(configs[1], tmp_path / "alone")
    side, alone = load_file(jobs[1].run / NAME), load_file(tmp_path / "alone" / NAME)
    assert all(torch.equal(side[name], alone[name]) for name in alone)
    assert json.loads((jobs[0].run / "info.json").read_text())["threads"] == 1
    before = (jobs[0].run / NAME).stat().st_mtime_ns
    train_all(jobs, SilentProgress(), again="", workers=2)
    assert (jobs[0].run / NAME).stat().st_mtime_ns == before


def begin(job: Job, updates: int) -> None:
    """A run that was stopped after so many."""
    trainer = Trainer(job.config, job.run)
    job.run.mkdir()
    write_config(job.run, job.config)
    trainer.settle_precision()
    for _ in range(updates):
        trainer.advance()
    trainer.save()


def test_what_was_trained_before_is_counted_from_the_beginning_and_no_part_of_the_pace(
    billiards_store: Path, tmp_path: Path
) -> None:
    config = debug(billiards_store)
    jobs = [Job(tmp_path / name, config) for name in ("fresh", "begun")]
    begin(jobs[1], config.train.updates - 1)
    told = []

    class Noting(SilentProgress):
        def advance(self, done: int, total: int, **fields: float) -> None:
            told.append((done, total))

    train_all(jobs, Noting(), again="", workers=1)
    # The one that was begun waits for the fresh one.
    assert told[0][0] >= config.train.updates and told[-1] == (2 * config.train.updates,) * 2
    assert told == sorted(told)


def test_a_run_that_goes_on_keeps_its_threads_and_the_next_one_has_those_asked_for(
    billiards_store: Path, tmp_path: Path
) -> None:
    config = debug(billiards_store)
    jobs = [Job(tmp_path / name, config) for name in ("begun", "fresh")]
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        begin(jobs[0], 1)
    finally:
        torch.set_num_threads(torch_threads)
    train_all(jobs, SilentProgress(), again="", workers=1, threads=2)
    found = [read_checkpoint(job.run / NAME, ()).state["threads"] for job in jobs]
    assert found == [1, 2] and json.loads((jobs[1].run / "info.json").read_text())["threads"] == 2


def test_after_a_long_run_the_next_one_has_a_process_of_its_own(
    billiards_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, renew = set[int | None](), jobs_module._Crew.renew

    def noticing(crew: jobs_module._Crew) -> None:
        renew(crew)
        seen.update(process.pid for process in crew.processes)

    monkeypatch.setattr(jobs_module._Crew, "renew", noticing)
    jobs = [Job(tmp_path / name, debug(billiards_store)) for name in ("one", "two")]
    train_all(jobs, SilentProgress(), again="", workers=1, long=0.0)
    # The third finds nothing left to do.
    assert len(seen) == 3 and all(finished(job.run) for job in jobs)


_HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_PAGES = """
kept = [bytes(2**16) for _ in range(2000)]
print([line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHuge")][0])
"""


def _asked_for() -> bool:
    """Whether the system gives large pages to who asks for them, and the C library can."""
    library, version = platform.libc_ver()
    known = library == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
    return known and _HUGE.exists() and "[madvise]" in _HUGE.read_text()


@pytest.mark.skipif(not _asked_for(), reason="large pages are not given here to who asks for them")
def test_processes_of_a_study_work_in_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    def kibibytes() -> int:
        return int(subprocess.run([sys.executable, "-c", _PAGES], capture_output=True, check=True).stdout)

    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    small = kibibytes()
    with large_pages():
        large = kibibytes()
    # Of 125 MiB; where memory is in pieces, the system has not a large page for every one of them.
    assert large > small + 2**15
    assert "GLIBC_TUNABLES" not in os.environ
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    with large_pages():
        assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=0"
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=0"


def test_a_failing_run_stops_the_others_and_says_which(billiards_store: Path, tmp_path: Path) -> None:
    good = debug(billiards_store)
    long = replace(good, train=replace(good.train, updates=100_000))
    bad = replace(good, data=tmp_path / "absent.h5")
    with pytest.raises(LoopwmError, match=r"absent\.h5"):
        train_all([Job(tmp_path / "long", long), Job(tmp_path / "bad", bad)], SilentProgress(), again="", workers=2)
    assert finished(tmp_path / "long") is None


def test_a_folder_with_another_run_in_it_is_refused(billiards_store: Path, trained: Path) -> None:
    other = Job(trained, with_system(debug(billiards_store), "looped", 1e-3))
    with pytest.raises(UserError, match="holds a run with other settings"):
        train_all([other], SilentProgress(), again="")


def test_a_finished_run_on_another_recording_is_refused(billiards_store: Path, tmp_path: Path) -> None:
    data = Path(shutil.copy(billiards_store, tmp_path / "data.h5"))
    job = Job(tmp_path / "run", debug(data))
    train(job.config, job.run)
    data.unlink()
    collect(CollectConfig(episodes=60, workers=1, seed=8), data)
    with pytest.raises(UserError, match=r"was trained on another recording than .*data\.h5"):
        train_all([job], SilentProgress(), again="")


def test_a_rate_that_diverges_is_not_picked_and_stops_nobody(billiards_store: Path, tmp_path: Path) -> None:
    config = debug(billiards_store)
    config = replace(config, train=replace(config.train, max_skipped=3), optim=replace(config.optim, clip=1e30))
    best = pick_rates(config, tmp_path, (1e30, 1e-3), 20, SilentProgress(), "", systems=("looped",))
    assert best["looped"].rate == 1e-3 and best["looped"].errors[1e30] == math.inf


def processes_of(session: int) -> list[str]:
    listed = subprocess.run(["ps", "-o", "args=", "-s", str(session)], capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if "python" in line]


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loopwm", "demo", "debug", "--out", str(tmp_path / "demo")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not any(tmp_path.glob("demo/rates/*/log.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    while processes_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(process.pid) == []


def test_the_learning_rate_is_the_one_with_the_lowest_validation_error(billiards_store: Path, tmp_path: Path) -> None:
    rates = (1e-5, 1e-2)
    best = pick_rates(debug(billiards_store), tmp_path, rates, 20, SilentProgress(), "", systems=("looped",))
    stored = [read_checkpoint(tmp_path / f"looped-lr{rate:g}" / NAME).state["validation"]["one_step"] for rate in rates]
    assert best["looped"].errors == dict(zip(rates, stored, strict=True))
    assert best["looped"].rate == 1e-2 and stored[1] < stored[0]


def test_ctrl_c_during_a_demo_saves_every_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "loopwm", "demo", "debug", "--out", str(out)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while not any(out.glob("rates/*/log.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    # A terminal sends Ctrl-C to the whole process group.
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert f"loopwm demo debug --out {out}" in errors
    stopped = {path: path.stat().st_mtime_ns for path in out.rglob("config.yaml")}
    subprocess.run(command, check=True, capture_output=True)
    assert (out / "report.json").is_file()
    # What was begun was continued, not begun again.
    assert stopped and all(path.stat().st_mtime_ns == when for path, when in stopped.items())
