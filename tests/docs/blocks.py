"""The blocks of code in the documents."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    code: str
    not_run: str
    """Why it cannot be run; empty: it is run."""
    output: str
    """What it prints, as the page shows it; empty if it does not."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page. A block `text` after one of code is its output."""
    text = page.read_text(encoding="utf-8")
    found = list(_BLOCK.finditer(text))
    for match, after in zip(found, [*found[1:], None]):
        shows = (
            after and after["language"] == "text" and not text[match.end() : after.start()].strip()
        )
        yield Block(
            page.name,
            text.count("\n", 0, match.start("language")) + 1,
            match["language"],
            match["code"],
            match["reason"] or "",
            after["code"] if after and shows else "",
        )


def commands_in(code: str) -> List[str]:
    """Return the lines of a block of bash, without comments; continued lines are joined."""
    lines = code.replace("\\\n", " ").splitlines()
    bare = (re.sub(r"(^|\s+)#.*$", "", line).strip() for line in lines)
    return [line for line in bare if line]
