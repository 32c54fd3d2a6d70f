"""Tables of the documentation are made by commands, which say what they were not given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORLDS = ["results/scienceworld.json", "results/alfworld.json", "results/alfworld-bottleneck.json"]


def made(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"loopwm.studies.{module}", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("module", "sources", "document", "options"),
    [
        ("markdown", ["results/billiards.json"], "README.md", []),
        ("markdown", ["results/adaptive-depth.json"], "docs/adaptive-depth.md", []),
        ("worlds_page", ["results"], "docs/worlds.md", []),
        ("text_page", WORLDS, "docs/text-results.md", []),
        ("text_page", WORLDS[:1], "weights/scienceworld-small/README.md", ["--card"]),
        ("text_page", WORLDS[1:2], "weights/alfworld-small/README.md", ["--card"]),
    ],
)
def test_every_page_is_what_its_command_makes_of_the_results(
    module: str, sources: list[str], document: str, options: list[str], tmp_path: Path
) -> None:
    copy = tmp_path / "page.md"
    text = (ROOT / document).read_text()
    copy.write_text(text.replace("<!-- results:begin -->", "<!-- results:begin -->\n| 99.9 |"))
    done = made(module, *sources, str(copy), *options)
    assert (done.returncode, done.stdout) == (0, f"Written: {copy}\n"), done.stderr
    assert copy.read_text() == text


@pytest.mark.parametrize(
    ("module", "words", "reason"),
    [
        ("text_page", [], "Give RESULT [RESULT ...] FILE, not 0 names."),
        ("text_page", ["results/alfworld.json", "--card"], "Give RESULT [RESULT ...] FILE, not 1 names."),
        ("markdown", ["results/billiards.json", "PAGE", "PAGE"], "Give RESULT FILE, not 3 names."),
        ("text_page", ["results/none.json", "PAGE"], "There is no result at results/none.json; make it with: loopwm"),
        ("text_page", ["results/alfworld.json", "none.md"], "There is no none.md to write into."),
        ("text_page", ["results/billiards.json", "PAGE"], "cannot be made of results/billiards.json (KeyError("),
        ("markdown", ["PAGE", "results/billiards.json"], "page.md (JSONDecodeError("),
        ("markdown", ["results/none.json", "PAGE"], "No such file or directory"),
        ("markdown", ["results/alfworld.json", "PAGE"], "cannot be made of results/alfworld.json (KeyError("),
        ("worlds_page", ["none", "PAGE"], "none"),
        ("text_page", ["results/alfworld.json", "PAGE"], "needs the lines <!-- results:begin -->"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_sentence(
    module: str, words: list[str], reason: str, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page without a place for tables\n")
    done = made(module, *(str(page) if word == "PAGE" else word for word in words))
    assert done.returncode == 2 and reason in done.stderr
    assert done.stderr.startswith("loopwm: ") and len(done.stderr.splitlines()) == 1
    assert page.read_text() == "# A page without a place for tables\n"
