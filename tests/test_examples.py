"""Every example runs: the programs in `examples/` and the Python blocks of README.md and docs/."""

import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unasync import ROOT

TIMEOUT_SECONDS = 120
# Options that make an example quick and independent of servers, which others of its runs use.
QUICK = {"research_agent.py": ("--store", "sqlite", "--questions", "20")}

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<info>.*)$")
_NO_RUN = re.compile(r"<!--\s*no-run\b:?(?P<reason>.*?)-->")


@dataclass(frozen=True)
class Block:
    """A Python block of a page; `line` is that of its first line of code."""

    line: int
    code: str
    no_run: str | None


def python_blocks(page: str) -> list[Block]:
    """Return the page's ```python blocks in order; refuse other spellings of the language, which would not run."""
    blocks: list[Block] = []
    lines = page.splitlines()
    before, number = "", 0
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        if opening is None:
            before = lines[number] if lines[number].strip() else before
            number += 1
            continue
        start = number = number + 1
        closing = re.compile(rf"^ *{opening['ticks']}{opening['ticks'][0]}*\s*$")
        while number < len(lines) and not closing.match(lines[number]):
            number += 1
        language = opening["info"].strip().partition(" ")[0]
        if language == "python":
            mark = _NO_RUN.fullmatch(before.strip())
            code = textwrap.dedent("\n".join(lines[start:number]))
            blocks.append(Block(start + 1, code, mark["reason"].strip() if mark else None))
        elif language.lower().startswith("py"):
            raise ValueError(f"line {start}: write ```python, not ```{language}, so that the block is run")
        before, number = "", number + 1
    return blocks


def script_of(blocks: list[Block]) -> str:
    """Join the blocks that run into one script in which each line stands where it stands in the page."""
    lines: list[str] = []
    for block in blocks:
        if block.no_run is None:
            lines += [""] * (block.line - 1 - len(lines)) + block.code.splitlines()
    return "\n".join(lines) + "\n"


def run_script(script: Path, *arguments: str, folder: Path) -> None:
    """Run it in `folder` with warnings as errors; fail with its output."""
    command = [sys.executable, "-W", "error", str(script), *arguments]
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    # What is raised in a finalizer, a ResourceWarning above all, ends no process.
    assert "Exception ignored" not in done.stderr, done.stderr


PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if page.name == "README.md" or re.search(r"(?mi)^ *(`{3,}|~{3,})\s*py", page.read_text())
]
EXAMPLES = sorted(QUICK.keys() | {path.name for path in (ROOT / "examples").glob("[!_]*.py")})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run_in_order(page: Path, tmp_path: Path) -> None:
    blocks = python_blocks(page.read_text())
    assert blocks, f"{page.name} shows no Python"
    assert [block.line for block in blocks if block.no_run == ""] == [], "no-run needs a reason"
    script = tmp_path / f"page_{page.stem}.py"  # no page shadows a package
    script.write_text(script_of(blocks))
    run_script(script, folder=tmp_path)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(example: str, tmp_path: Path) -> None:
    run_script(ROOT / "examples" / example, *QUICK.get(example, ()), folder=tmp_path)


PAGE = """\
Text.
```python
x = 1
```
<!-- no-run: needs a key -->
```python
raise SystemExit("must not run")
```
<!-- no-run -->

```python
y = x
```
- In a list:
  ```python
  z = x
  ```
~~~~text
```python
raise SystemExit("shown, not run")
```
~~~~
"""


def test_blocks_are_found_with_their_lines_and_reasons() -> None:
    found = [(block.line, block.no_run) for block in python_blocks(PAGE)]
    assert found == [(3, None), (7, "needs a key"), (12, ""), (16, None)]


def test_a_line_of_the_script_is_the_line_of_the_page() -> None:
    lines = script_of(python_blocks(PAGE)).splitlines()
    assert (lines[2], lines[15]) == ("x = 1", "z = x")
    assert "must not run" not in "".join(lines)


def test_a_block_in_another_spelling_of_python_is_refused() -> None:
    with pytest.raises(ValueError, match="line 1"):
        python_blocks("```py\nx = 1\n```\n")


@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit(3)",
        "import warnings; warnings.warn('old')",
        "open(__file__)",
    ],
)
def test_a_script_that_fails_warns_or_leaks_fails_the_test(code: str, tmp_path: Path) -> None:
    script = tmp_path / "bad.py"
    script.write_text(code)
    with pytest.raises(AssertionError):
        run_script(script, folder=tmp_path)
