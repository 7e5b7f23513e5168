"""The source files of a user's code: a file, and those beside it that it imports."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Iterator, List, Tuple


def package_root(path: Path) -> Path:
    """Return the folder that a file's imports start from: above its package, or its own folder."""
    folder = path.parent
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        folder = folder.parent
    return folder


def code_files(path: Path) -> Tuple[Path, ...]:
    """Return a file and all that it imports from beside it, directly or not, the file first.

    path: resolved. Files that cannot be parsed import nothing.
    """
    root = package_root(path)
    found = [path]
    for file in found:  # which grows
        targets = [target.resolve() for target in _imported(file, root)]
        found += [target for target in dict.fromkeys(targets) if target not in found]
    return tuple(found)


def defined_names(path: Path) -> List[str]:
    """Return the names of the classes and functions at the top of a file, without running it."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    return [node.name for node in _tree(path).body if isinstance(node, kinds)]


def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return ast.Module([], [])


def _imported(file: Path, root: Path) -> Iterator[Path]:
    """Yield the files below `root` that a file imports, anywhere in it."""
    for node in ast.walk(_tree(file)):
        names: List[str] = []
        start = root
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = file.parents[node.level - 1] if 0 < node.level <= len(file.parents) else root
            base = f"{node.module}." if node.module else ""
            names = [base + alias.name for alias in node.names]
        for name in names:
            yield from _files_of(start, name.split("."))


def _files_of(folder: Path, parts: List[str]) -> Iterator[Path]:
    """Yield the packages and the module that a dotted name passes; its end may be no module."""
    for part in parts:
        if (folder / f"{part}.py").is_file():
            yield folder / f"{part}.py"
            return
        folder = folder / part
        if (folder / "__init__.py").is_file():
            yield folder / "__init__.py"
        elif not folder.is_dir():
            return
