"""Everything shown in README.md and docs/ runs.

The blocks of one document are executed in order and share a working directory, and its Python blocks share their
variables. Commands run at their smallest (`SMALLER`), and blocks marked `no-run` are only shown.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SMALLER = {
    r"loopwm (train|demo) (billiards|demo)\b": r"loopwm \1 debug",
    r"loopwm train certified\b": "loopwm train certified --train.updates 4 --optim.warmup 1 --train.batch 8 "
    "--model.width 16 --model.heads 2 --train.no-compile",
    r"loopwm train deferred\b": "loopwm train deferred --train.updates 4 --optim.warmup 1 --train.batch 8 "
    "--train.window 3 --train.curriculum 1 --model.width 16 --model.heads 2 --train.no-compile",
    r"loopwm collect billiards\b": "loopwm collect billiards --episodes 60",
    r"loopwm evaluate\b": "loopwm evaluate --transitions 300 --rollouts 30 --stability-steps 50 --resamples 100",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a document, with the line on which its content starts."""

    language: str
    code: str
    line: int


def runnable_blocks(document: Path) -> list[Block]:
    """The python and bash blocks of a document that are not marked `no-run`."""
    text = document.read_text()
    found = [
        Block(match[1], match[3], text[: match.start()].count("\n") + 2)
        for match in FENCE.finditer(text)
        if "no-run" not in match[2].split()
    ]
    return [block for block in found if block.language in ("python", "bash")]


def smaller(code: str) -> str:
    """The same commands, with as little to do as possible."""
    for command, small in SMALLER.items():
        code = re.sub(command, small, code)
    return code


def run_bash(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a block of shell commands, stopping at the one that fails; standard error follows standard output."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", smaller(block.code)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if runnable_blocks(path)], ids=lambda path: path.name)
def test_every_block_of_the_document_runs(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    variables: dict[str, object] = {"__name__": "__main__"}
    for block in runnable_blocks(document):
        if block.language == "bash":
            done = run_bash(block, tmp_path)
            assert done.returncode == 0, f"{document.name}:{block.line}\n{done.stdout}"
        else:
            # Blank lines put the document's own line numbers into a traceback.
            exec(compile("\n" * (block.line - 1) + block.code, str(document), "exec"), variables)


def test_the_documents_that_promise_running_code_hold_some():
    assert [block.language for block in runnable_blocks(ROOT / "docs" / "loop.md")] == ["python"]
    assert {"python", "bash"} <= {block.language for block in runnable_blocks(ROOT / "README.md")}


def test_the_loop_fits_in_thirty_lines():
    (block,) = runnable_blocks(ROOT / "docs" / "loop.md")
    assert len([line for line in block.code.splitlines() if line.strip()]) <= 30


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path):
    targets = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", document.read_text())
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing


def test_documented_commands_run_at_their_smallest():
    shown = "loopwm train billiards --run runs/billiards\nloopwm collect billiards # data/billiards.h5\n"
    assert smaller(shown).splitlines() == [
        "loopwm train debug --run runs/billiards",
        "loopwm collect billiards --episodes 60 # data/billiards.h5",
    ]
