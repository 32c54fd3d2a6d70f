"""The study of certified loops and long imagination, end to end with tiny numbers; and several results in one file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loopwm.certify.certificate import check
from loopwm.certify.config import AdversaryConfig
from loopwm.cli import main
from loopwm.data.cache import open_memmap
from loopwm.data.store import Store
from loopwm.errors import UserError
from loopwm.evaluate.config import LyapunovConfig
from loopwm.evaluate.rollout import one_step
from loopwm.evaluate.segments import tile
from loopwm.model.config import CERTIFIED_LOOP
from loopwm.presets import preset
from loopwm.studies import stability
from loopwm.studies.config import GatherConfig, StabilityStudyConfig
from loopwm.studies.gather import gather
from loopwm.studies.stability import run_stability_study
from loopwm.train.checkpoint import load
from loopwm.train.journal import read_config


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[StabilityStudyConfig, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("study")
    config = StabilityStudyConfig(
        preset="debug",
        seeds=(0, 1),
        imagined_steps=30,
        starts=4,
        adversary=AdversaryConfig(pairs=20, steps=10, inputs=20),
        lyapunov=LyapunovConfig(starts=2, burn_in=2, steps=5),
        runs=folder / "runs",
        folder=folder / "stability",
        out=folder / "stability.json",
    )
    assert main(config.command.split()[1:]) == 0
    return config, json.loads(config.out.read_text())


def certified_runs(config: StabilityStudyConfig) -> list[Path]:
    return [config.folder / f"certified-{preset('debug').config.train.updates}-seed{seed}" for seed in config.seeds]


def test_the_command_in_the_result_makes_the_same_study(study: tuple[StabilityStudyConfig, dict[str, Any]]) -> None:
    config, result = study
    assert result["command"] == config.command
    assert result["settings"] == vars(config.adversary)


def test_certified_runs_differ_from_the_others_in_their_loop_and_rate_alone(
    study: tuple[StabilityStudyConfig, dict[str, Any]],
) -> None:
    config, result = study
    for run, seed in zip(certified_runs(config), config.seeds, strict=True):
        (other,) = [path for path in config.runs.glob("**/looped*") if is_seed(path, seed)][:1]
        certified, looped = read_config(run / "config.yaml"), read_config(other / "config.yaml")
        assert certified.model.loop == replace(CERTIFIED_LOOP, mu=looped.model.loop.mu)
        assert replace(certified, model=looped.model, optim=looped.optim) == looped
        assert certified.optim.lr == result["learning_rate"]["picked"]


def is_seed(run: Path, seed: int) -> bool:
    settings = read_config(run / "config.yaml")
    return settings.train.seed == seed and settings.train.updates == preset("debug").config.train.updates


def test_the_error_ratio_is_that_of_the_runs_on_test_episodes(
    study: tuple[StabilityStudyConfig, dict[str, Any]],
) -> None:
    config, result = study
    with Store.open(config.runs / "billiards.h5") as store:
        steps = tile(open_memmap(store), store.split("test"), 1)
    errors = [float(np.nanmean(one_step(load(run), steps).observation)) for run in certified_runs(config)]
    assert result["figures"]["certified_error"] == pytest.approx(np.mean(errors), rel=1e-6)


def test_what_is_measured_stays_within_what_is_certified(study: tuple[StabilityStudyConfig, dict[str, Any]]) -> None:
    figures = study[1]["figures"]
    assert 0 < figures["rate_measured_max"] <= figures["rate_certified"] < 1
    assert 0 < figures["certified_exit_worst"] <= 1
    assert 0 < figures["norm_max"] <= figures["norm_bound"]
    assert 0 < figures["norm_max_certified"] <= figures["norm_bound_certified"]
    assert figures["nonfinite_256"] == 0
    assert {"lyapunov_model", "lyapunov_engine", "lyapunov_guided"} <= figures.keys()


def test_every_certified_run_has_its_certificate(study: tuple[StabilityStudyConfig, dict[str, Any]]) -> None:
    for run in certified_runs(study[0]):
        assert check(run, run / "certificate.json").contraction is not None


def test_what_was_measured_is_not_measured_again_unless_a_run_changed(
    study: tuple[StabilityStudyConfig, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, result = study
    before, stored = config.out.read_text(), config.folder / "measured-seed0.json"
    calls: list[int] = []
    really = stability.measured
    monkeypatch.setattr(stability, "measured", lambda seed, *rest: calls.append(seed) or really(seed, *rest))
    config.out.unlink()
    run_stability_study(config)
    again = json.loads(config.out.read_text())["figures"]
    assert calls == [] and again == pytest.approx(result["figures"], rel=1e-6)
    stored.write_text(stored.read_text().replace('"asked"', '"other"'))
    config.out.unlink()
    run_stability_study(config)
    assert calls == [0]
    config.out.write_text(before)


def test_an_existing_result_is_not_overwritten(study: tuple[StabilityStudyConfig, dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="already exists"):
        run_stability_study(study[0])


# ---- several results in one file ----


def result_file(path: Path, **figures: float) -> Path:
    path.write_text(json.dumps({"command": f"loopwm study {path.stem}", "figures": figures, "seeds": [0]}))
    return path


def test_gathered_results_keep_every_figure_and_every_command(tmp_path: Path) -> None:
    parts = (result_file(tmp_path / "a.json", x=1.0), result_file(tmp_path / "b.json", y=2.0))
    out = tmp_path / "both.json"
    assert main(["study", "gather", *map(str, parts), "--out", str(out)]) == 0
    both = json.loads(out.read_text())
    assert both["figures"] == {"x": 1.0, "y": 2.0}
    assert both["commands"] == ["loopwm study a", "loopwm study b"]
    assert both["parts"]["b"]["seeds"] == [0]
    assert both["command"] == GatherConfig(parts, out).command


def test_gathering_refuses_what_would_mislead(tmp_path: Path) -> None:
    one, two = result_file(tmp_path / "a.json", x=1.0), result_file(tmp_path / "b.json", x=2.0)
    out = tmp_path / "out.json"
    with pytest.raises(UserError, match="gives x again"):
        gather(GatherConfig((one, two), out))
    (tmp_path / "more").mkdir()
    alike = result_file(tmp_path / "more" / "a.json", y=2.0)
    with pytest.raises(UserError, match="Two of the files have one name"):
        gather(GatherConfig((one, alike), out))
    with pytest.raises(UserError, match="There is no result at"):
        gather(GatherConfig((tmp_path / "missing.json",), out))
    with pytest.raises(UserError, match="Name at least one"):
        gather(GatherConfig((), out))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match="it is no JSON"):
        gather(GatherConfig((tmp_path / "broken.json",), out))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match="needs 'command' and 'figures'"):
        gather(GatherConfig((tmp_path / "list.json",), out))
    assert not out.exists()
    with pytest.raises(UserError, match="already exists"):
        gather(GatherConfig((one,), two))
