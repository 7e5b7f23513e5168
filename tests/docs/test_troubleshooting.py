"""The errors of docs/troubleshooting.md are those of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Iterator, List

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### (.*)$", PAGE, re.MULTILINE)
ERRORS = [text for heading in HEADINGS for text in re.findall(r"`([^`]+)`", heading)]


def texts() -> Iterator[str]:
    """Yield each string of the package; what is filled in becomes `…`."""
    for path in sorted((ROOT / "sr_deploy").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                )


@pytest.fixture(scope="module")
def words() -> List[str]:
    return [" ".join(text.split()) for text in texts()]


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_of_the_page_is_in_the_code(error, words):
    pattern = ".*".join(map(re.escape, re.split(r"\s*…\s*", error)))
    assert any(re.search(pattern, text) for text in words), f"no message reads {error!r}"


def test_words_that_no_message_has_are_found(words):
    assert len(ERRORS) > 30
    assert not any(re.search("the moon is full", text) for text in words)
