"""Tables of the documentation are made by commands, which say what they were not given."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORLDS = ["results/scienceworld.json", "results/scienceworld-stacks.json", "results/alfworld.json"]


def made(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"loopwm.studies.{module}", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("module", "sources", "document"),
    [
        ("markdown", ["results/billiards.json"], "README.md"),
        ("markdown", ["results/adaptive-depth.json"], "docs/adaptive-depth.md"),
        ("worlds_page", ["results"], "docs/worlds.md"),
        ("text_page", WORLDS, "docs/text-results.md"),
    ],
)
def test_every_page_is_what_its_command_makes_of_the_results(
    module: str, sources: list[str], document: str, tmp_path: Path
) -> None:
    copy = tmp_path / "page.md"
    shutil.copy(ROOT / document, copy)
    text = copy.read_text()
    copy.write_text(text.replace("<!-- results:begin -->", "<!-- results:begin -->\n| 99.9 |"))
    done = made(module, *sources, str(copy))
    assert (done.returncode, done.stdout) == (0, f"Written: {copy}\n"), done.stderr
    assert copy.read_text() == text


@pytest.mark.parametrize(
    ("module", "words", "reason"),
    [
        ("text_page", [], "0 files were named; give RESULT [RESULT ...] FILE."),
        ("text_page", ["results/alfworld.json", "--card"], "1 files were named; give RESULT [RESULT ...] FILE."),
        ("markdown", ["results/billiards.json", "README.md", "docs/loop.md"], "3 files were named; give RESULT FILE."),
        ("worlds_page", ["none", "docs/worlds.md"], "There is no none."),
        ("text_page", ["results/alfworld.json", "docs/loop.md"], "needs the lines <!-- results:begin -->"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_sentence(module: str, words: list[str], reason: str) -> None:
    done = made(module, *words)
    assert done.returncode == 2 and reason in done.stderr and "Traceback" not in done.stderr
