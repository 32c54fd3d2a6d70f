"""The examples run, from nothing to a plot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_an_example_draws_its_horizon_plot(name: str, tmp_path: Path) -> None:
    words = ["--updates", "20", "--episodes", "60", "--folder", "out"]
    made = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "out" / "horizon.png").read_bytes().startswith(b"\x89PNG")
    assert "Written: out/horizon.png" in made.stdout
