"""A small real recording, made once per test process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from loopwm.data.cache import Columns, open_memmap
from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.data.store import Store

LONGEST = (
    "test_docs", "test_text_training", "test_text_report", "test_text_evaluate", "test_text_playing", "test_jobs",
    "test_study", "test_cli", "test_capacity_study", "test_training", "test_monitor", "test_report", "test_collect",
    "test_collect_text", "test_stability_study", "test_deferred_study", "test_text_study", "test_adaptive_study",
    "test_examples", "test_physics_worlds", "test_mujoco_worlds", "test_world_study",
)  # fmt: skip
"""Files that take longest. `make test` gives a process whole files, so that what a file prepares is made once; these
come ahead of the others, so that at the end no process is alone with one of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    rank = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


# A busy machine must not fail a property because one example took long.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """Resuming a run takes its number of threads; what another test trains would differ in the last bits."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def billiards_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a store with 60 billiards episodes of at most 60 steps. Read it, never change it."""
    path = tmp_path_factory.mktemp("billiards") / "billiards.h5"
    collect(CollectConfig(episodes=60, max_steps=60, workers=1, seed=7), path)
    return path


@pytest.fixture(scope="session")
def billiards_columns(billiards_store: Path) -> Columns:
    """The columns of `billiards_store`."""
    with Store.open(billiards_store) as store:
        return open_memmap(store)


@pytest.fixture(scope="session")
def trained(billiards_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the preset `debug`. Copy it before changing anything."""
    from debug_run import debug

    from loopwm.train.runs import train

    run = tmp_path_factory.mktemp("trained") / "run"
    train(debug(billiards_store), run)
    return run


@pytest.fixture(scope="session")
def toy_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of the text world of toy_text.py. Read it, never change it."""
    pytest.importorskip("pyarrow", reason='text recordings need pip install "loopwm[text]"')
    from toy_text import record

    return record(tmp_path_factory.mktemp("text") / "toy.parquet")


@pytest.fixture(scope="session")
def toy_run(toy_recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned most of it. Copy it before changing anything."""
    pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')
    from toy_text import tiny

    from loopwm.train.runs import train

    run = tmp_path_factory.mktemp("text-run") / "toy"
    train(tiny(toy_recording, 120, initial=0.25), run)
    return run


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory, billiards_store: Path) -> list[Path]:
    """Evaluated runs of the looped model and of both stacks. Copy them before changing anything."""
    from three_systems import trained_and_evaluated

    return trained_and_evaluated(tmp_path_factory.mktemp("evaluated"), billiards_store)
