"""A hook of mkdocs: files outside of docs/ that a page links to become part of the site.

On the site they keep their path in the repository: `../CONTRIBUTING.md` of a page is the page
`CONTRIBUTING.md`, and `../examples/espcn.py` a file.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Dict

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, *, config) -> Files:
    """Add the linked files of the repository, and the files that these link to."""
    queue = [path for path in DOCS.glob("*.md")]
    seen = set(queue)
    while queue:
        page = queue.pop()
        for link in _LINK.findall(page.read_text(encoding="utf-8")):
            target = Path(os.path.normpath(page.parent / link))
            if target in seen or not target.is_file():
                continue
            seen.add(target)
            if DOCS not in target.parents:
                name = target.relative_to(ROOT).as_posix()
                files.append(File.generated(config, name, abs_src_path=str(target)))
            if target.suffix == ".md":
                queue.append(target)
    return files


def on_page_markdown(markdown: str, *, page, **_: Dict) -> str:
    """Let links lead to where the files are on the site."""
    source = Path(page.file.abs_src_path)
    folder = posixpath.dirname(page.file.src_uri)

    def on_site(match: re.Match) -> str:
        target = Path(os.path.normpath(source.parent / match[1]))
        if not target.exists():
            return match[1]  # mkdocs reports it
        home = DOCS if DOCS in target.parents else ROOT
        return posixpath.relpath(target.relative_to(home).as_posix(), folder or ".")

    return _LINK.sub(on_site, markdown)
