"""The command that a result names gives the settings that the result was made with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from loopwm.certify.config import AdversaryConfig
from loopwm.commands.study import MEASUREMENTS, chosen
from loopwm.evaluate.config import LyapunovConfig
from loopwm.studies.config import (
    AdaptiveStudyConfig,
    CapacityStudyConfig,
    DeferredStudyConfig,
    GatherConfig,
    StabilityStudyConfig,
    StudyConfig,
    TextStudyConfig,
    WorldStudyConfig,
)

SETTINGS = {
    "billiards": StudyConfig(seeds=(3,), long_updates=0, folder=Path("a folder"), out=Path("it's here.json")),
    "adaptive": AdaptiveStudyConfig(settle=(0.5,), rules=("gate",), confidence=0.9, runs=Path("elsewhere")),
    "stability": StabilityStudyConfig(
        starts=3, adversary=AdversaryConfig(pairs=7, lr=0.1), lyapunov=LyapunovConfig(seed=4)
    ),
    "deferred": DeferredStudyConfig(horizons=(2, 3), rounds=1),
    "world": WorldStudyConfig("gym:CartPole-v1", seeds=(1, 0), hold=2, out=Path("cartpole.json")),
    "capacity": CapacityStudyConfig(worlds=("fluid", "cloth"), steps=5, recorded=6),
    "text": TextStudyConfig(
        "alfworld", further=(Path("more.parquet"), Path("most.parquet")), systems=("looped",), numbers=False,
        decode=True, out=Path("alf.json"),
    ),
    "gather": GatherConfig((Path("one.json"), Path("two.json")), out=Path("both.json")),
}  # fmt: skip


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_the_command_of_a_study_gives_its_settings(name: str) -> None:
    settings: Any = SETTINGS[name]
    measurement, typed = chosen(shlex.split(settings.command)[2:])
    assert measurement is MEASUREMENTS[name]
    assert typed == settings


def test_a_result_that_is_not_named_is_where_the_study_would_put_it() -> None:
    unnamed = WorldStudyConfig("dmc:walker-walk")
    assert chosen(shlex.split(unnamed.command)[2:])[1].result == unnamed.result
