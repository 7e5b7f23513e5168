"""The page docs/api.md, from the code. `python3 docs/make_reference.py` writes it."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path
from typing import Iterator, List, Optional, Union

Definition = Union[ast.FunctionDef, ast.ClassDef]


def api() -> str:
    """Return the page, in Markdown: every name of `sr_deploy`, in the order of its own text."""
    import sr_deploy

    parts = [
        "# Python API",
        "Written by `python3 docs/make_reference.py`. A test compares it with the code. "
        "Each name is imported on first use, so `import sr_deploy` needs numpy only.",
    ]
    for name in sr_deploy.__all__:
        if name != "__version__":
            parts += _entry(name, getattr(sr_deploy, name))
    return "\n\n".join(parts) + "\n"


def _entry(name: str, item: object) -> Iterator[str]:
    if inspect.ismodule(item):  # one that can be called, like its function
        item = vars(item)[name]
    module = importlib.import_module(item.__module__)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    wanted = getattr(item, "__name__", name)
    node = next(n for n in tree.body if getattr(n, "name", "") == wanted)
    assert isinstance(node, (ast.FunctionDef, ast.ClassDef))
    yield f"## {name}"
    fields = list(_fields(node)) if isinstance(node, ast.ClassDef) else []
    if isinstance(node, ast.FunctionDef):
        yield _code(_signature(name, node))
    elif not fields:
        method = _method(node, "__init__")
        yield _code(_signature(name, method) if method else f"{name}()")
    yield _text(inspect.getdoc(item) or "")
    if fields:
        yield "\n".join(["| field | default | meaning |", "|---|---|---|", *fields])
    elif isinstance(node, ast.ClassDef):
        init = _method(node, "__init__")
        if init and ast.get_docstring(init):
            yield _text(ast.get_docstring(init) or "")
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                yield _code(_signature(f"{name}.{method.name}", method))
                yield _text(ast.get_docstring(method) or "")


def _method(node: ast.ClassDef, name: str) -> Optional[ast.FunctionDef]:
    found = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == name]
    return found[0] if found else None


def _fields(node: ast.ClassDef) -> Iterator[str]:
    """Yield the rows of a dataclass's fields: each has its meaning in the string below it."""
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return
    following = [*node.body[1:], None]
    for item, after in zip(node.body, following):
        if not isinstance(item, ast.AnnAssign) or ast.unparse(item.target).startswith("_"):
            continue
        has_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        text = " ".join(str(after.value.value).split()) if has_text else ""
        default = f"`{ast.unparse(item.value)}`" if item.value else "required"
        cells = (f"`{ast.unparse(item.target)}`", default, text)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _signature(name: str, node: ast.FunctionDef) -> str:
    arguments: List[str] = []
    spec = node.args
    padding: List[Optional[ast.expr]] = [None] * (len(spec.args) - len(spec.defaults))
    for argument, default in zip(spec.args, [*padding, *spec.defaults]):
        if argument.arg != "self":
            arguments.append(_argument(argument, default))
    if spec.kwonlyargs:
        arguments.append("*")
    for argument, default in zip(spec.kwonlyargs, spec.kw_defaults):
        arguments.append(_argument(argument, default))
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{name}({', '.join(arguments)}){result}"


def _argument(argument: ast.arg, default: Optional[ast.expr]) -> str:
    text = argument.arg
    if argument.annotation is not None:
        text += f": {ast.unparse(argument.annotation)}"
    return text + (f" = {ast.unparse(default)}" if default is not None else "")


def _code(signature: str) -> str:
    if len(signature) > 96:
        head, _, rest = signature.partition("(")
        inside, close, result = rest.rpartition(")" if ") -> " not in rest else ") -> ")
        parts = _at_top_level(inside)
        signature = f"{head}(\n" + "".join(f"    {part},\n" for part in parts) + close + result
    return f"```python\n{signature}\n```"


def _at_top_level(text: str) -> List[str]:
    """Split at the commas that lie in no brackets."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return [*parts, text[start:].strip()]


def _as_list(lines: List[str]) -> List[str]:
    """Make items of the lines that begin with the name of an argument, such as `image: ...`."""
    items = [re.sub(r"^(\w+(?:, \w+)*): ", r"- `\1`: ", line) for line in lines]
    starts = [i for i, line in enumerate(items) if line.startswith("- `")]
    if starts and starts[0] > 0:
        items.insert(starts[0], "")
    return items


def _text(docstring: str) -> str:
    """Return a docstring as Markdown: its examples become blocks of code."""
    blocks = []
    for block in re.split(r"\n\s*\n", docstring):
        lines = block.split("\n")
        if lines[0].lstrip().startswith(">>>"):
            code = textwrap.dedent(block)
            blocks.append(f"```pycon\n{code}\n```")
        elif all(line.startswith("    ") for line in lines if line):
            blocks.append(f"```text\n{textwrap.dedent(block)}\n```")
        else:
            lines = _as_list(lines)
            first = next((i for i, line in enumerate(lines) if line.lstrip()[:3] == ">>>"), None)
            if first is None:
                blocks.append("\n".join(lines))
            else:
                blocks.append("\n".join(lines[:first]))
                code = textwrap.dedent("\n".join(lines[first:]))
                blocks.append(f"```pycon\n{code}\n```")
    return "\n\n".join(blocks)
