"""Own the generator of the sync side: it writes each folder `_sync/` from its neighbour `_async/` by the table RULES.

``python -m tests.unasync`` writes the twins and removes those whose source is gone; ``--check`` writes nothing and
fails when one is stale. The rules read text, not syntax, so that docstrings and examples in them turn too.

A source steers them by marks: a line that ends in ``# async-only`` is left out, and so is all from a line
``# [async-only]`` to a line ``# [/async-only]``; a line ``# sync-only: code`` becomes the code. A file whose first line
says ``unasync: skip`` is written by hand: in a package on both sides (`compat.py`), in the tests on either.
"""

import argparse
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("persistence", "checkpoint", "vectorstore", "sessions")
COMMAND = "python -m tests.unasync"
GENERATED = "# Generated from "
SKIP = "unasync: skip"

# In this order. test_twins fails for a rule that no source needs: take its line out then.
RULES = {
    r"(?ms)^ *# \[async-only\]\n.*?^ *# \[/async-only\]\n": "",
    r"(?m)^.*# async-only\n": "",
    r"(?m)^( *)# sync-only: ": r"\1",
    r"\bredis\.asyncio\b": "redis",
    r"\bpytest_asyncio\b": "pytest",
    r"\basync (?=(?:def|with|for)\b)": "",
    r"\bawait ": "",
    r"Async(?=[A-Z])": "",
    r"(?<![A-Za-z])a(?=clos(?:e|ing)(?![a-z]))": "",
    r"__a(?=(?:enter|exit|iter|next)__)": "__",
    r"\bAwaitable,\s+": "",
    r"\bAwaitable\[((?:[^\[\]]|\[(?:[^\[\]]|\[[^\[\]]*\])*\])*)\]": r"\1",
    r"\b_async\b": "_sync",
}

# `AsyncIterator, Iterator` turns into the same name twice.
_IMPORT = re.compile(r"(?m)^( *from \S+ import \(?\s*)(\w+(?:,\s*\w+)+)(?=,?\s*\)?$)")


def _without_repeats(match: re.Match[str]) -> str:
    names, separators = re.findall(r"\w+", match[2]), re.findall(r",\s*", match[2])
    return str(match[1]) + str(separators[0]).join(dict.fromkeys(names))


def twin(source: str, used: Counter[str] | None = None) -> str:
    """Return the sync twin of a source's text; add to `used` how often each rule changed something."""
    for pattern, replacement in RULES.items():
        source, count = re.subn(pattern, replacement, source)
        if used is not None:
            used[pattern] += count
    return _IMPORT.sub(_without_repeats, source)


@dataclass
class Survey:
    """What a tree's `_sync/` folders should hold, and what only a person can mend."""

    twins: dict[Path, str] = field(default_factory=dict)
    orphans: list[Path] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)

    def stale(self) -> list[Path]:
        """Return the twins that are missing or differ from what their source gives."""
        return [path for path, text in self.twins.items() if not path.exists() or path.read_text() != text]


def survey(root: Path = ROOT) -> Survey:
    """Read every `_async/` and `_sync/` folder of the tree at `root`; change nothing."""
    result = Survey()
    for parent in (*PACKAGES, "tests"):
        sources, targets = root / parent / "_async", root / parent / "_sync"
        for name in sorted({path.relative_to(side) for side in (sources, targets) for path in side.rglob("*.py")}):
            _survey_pair(result, sources / name, targets / name, one_sided=parent == "tests")
            if (sources / name).exists() and SKIP not in _first_line(sources / name):
                text = f"{GENERATED}../_async/{name} by tests/unasync.py: edit that one.\n"
                result.twins[targets / name] = text + twin((sources / name).read_text(), result.used)
    return result


def _survey_pair(result: Survey, source: Path, target: Path, *, one_sided: bool) -> None:
    by_hand = SKIP in _first_line(source), SKIP in _first_line(target)
    if not any(by_hand):
        if not source.exists() and _first_line(target).startswith(GENERATED):
            result.orphans.append(target)
        elif not source.exists():
            result.faults.append(f"{target}: neither generated nor marked `# {SKIP}` in its first line")
    elif source.exists() and target.exists() and not all(by_hand):
        result.faults.append(f"{target}: only one side is marked `# {SKIP}`")
    elif not all(by_hand) and not one_sided:
        result.faults.append(f"{target}: written by hand on one side only")


def _first_line(path: Path) -> str:
    return path.read_text().partition("\n")[0] if path.exists() else ""


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run the command line; return 1 when something is stale, or wrong in a way that generating can't mend."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Generate each _sync/ folder from its _async/ folder.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a twin is stale")
    check = parser.parse_args(arguments).check
    found = survey(root)
    faults = list(found.faults)
    if check:
        faults += [f"{path}: stale; run `{COMMAND}`" for path in found.stale()]
        faults += [f"{path}: its source is gone; run `{COMMAND}`" for path in found.orphans]
    elif not faults:
        for path in found.stale():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(found.twins[path])
        for path in found.orphans:
            path.unlink()
    print(*faults, sep="\n", end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
