"""The pages for those who come from elsewhere name what is there."""

import re

import pytest

import checkpoint
import persistence
import sessions
import vectorstore
from tests.unasync import ROOT

FACES = (persistence, checkpoint, vectorstore, sessions)


@pytest.mark.parametrize("page", ["from-aragora", "from-ciris", "from-synapse", "when-to-persist"])
def test_every_class_and_method_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    ours = "\n".join(row.split(" | ", 1)[-1] for row in rows)
    names = set(re.findall(r"`([A-Z]\w*[a-z]\w*(?:\.\w+)?)`", ours))
    assert names
    missing = []
    for name in sorted(names):
        owner, _, method = name.partition(".")
        found = next((getattr(face, owner) for face in FACES if hasattr(face, owner)), None)
        if found is None or (method and not hasattr(found, method)):
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("page", ["from-aragora", "from-ciris", "from-synapse", "when-to-persist"])
def test_every_link_and_example_of_a_page_is_there(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    for link in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (ROOT / "docs" / link).exists(), link
    for example in re.findall(r"`(examples/\w+\.py)`", text):
        assert (ROOT / example).exists(), example
