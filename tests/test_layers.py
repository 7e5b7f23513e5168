"""The import table of architecture.md, held: which room may know which, and what a board without torch and onnx can import."""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sr_deploy"

# Room: what its modules may import at the top, and what more inside functions only. `sr_deploy` itself and a room's own
# modules are always allowed, and so is the standard library. A dotted name allows that module and what is below it.
TABLE = {
    "core": ({"numpy"}, {"cv2", "skimage"}),
    "results": ({"numpy", "core"}, {"matplotlib", "jinja2"}),
    "nets": ({"numpy", "core", "torch"}, {"safetensors"}),
    "runtime": (
        {"numpy", "core"},
        {"nets", "onnx", "onnxruntime", "torch", "tensorrt", "tensorrt_rtx", "cuda", "pycuda"},
    ),
    # Of the runtime what the check after an export needs: ONNX Runtime's session. AdaDSR's two ways are timed.
    "export": (
        {
            "numpy",
            "core",
            "nets",
            "torch",
            "onnx",
            "runtime.ort",
            "runtime.preflight",
            "runtime.adaptive",
        },
        {"onnxruntime", "onnxscript"},
    ),
    "bench": ({"numpy", "core", "results", "runtime"}, {"nets"}),
    "upscale": ({"numpy", "core", "runtime"}, {"cv2", "av", "nets"}),
    # Validation scores by the code of eval and bench.
    "train": (
        {
            "numpy",
            "core",
            "nets",
            "torch",
            "lightning",
            "tqdm",
            "bench.evaluate",
            "runtime.torch_module",
        },
        {"tensorboard"},
    ),
    "cli": (
        {"click", "core", "results"},
        {"runtime", "bench", "nets", "train", "export", "upscale"},
    ),
}
BOARD = ("core", "results", "runtime", "bench", "upscale", "cli")
"""The rooms that a board uses: Python 3.8 with numpy and click."""
HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "cv2",
    "tensorrt",
    "tensorrt_rtx",
    "safetensors",
    "skimage",
    "lightning",
    "matplotlib",
    "av",
)
POSIX_ONLY = {
    "fcntl",
    "resource",
    "pwd",
    "grp",
    "termios",
    "tty",
    "pty",
    "posix",
    "syslog",
    "crypt",
    "readline",
    "curses",
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imports(tree):
    """Yield (line, module, inside a function, only for type checkers) of every import."""

    def walk(node, inside, typing_only):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield child.lineno, alias.name, inside, typing_only
            elif isinstance(child, ast.ImportFrom):
                yield child.lineno, "." * child.level + (child.module or ""), inside, typing_only
                if child.module is not None and is_module(child.module):
                    for alias in child.names:
                        if is_module(f"{child.module}.{alias.name}"):
                            yield child.lineno, f"{child.module}.{alias.name}", inside, typing_only
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                yield from walk(child, True, typing_only)
            elif (
                isinstance(child, ast.If)
                and isinstance(child.test, ast.Name)
                and child.test.id == "TYPE_CHECKING"
            ):
                for statement in child.body:
                    yield from walk(ast.Module([statement], []), inside, True)
                for statement in child.orelse:
                    yield from walk(ast.Module([statement], []), inside, typing_only)
            else:
                yield from walk(child, inside, typing_only)

    return walk(tree, False, False)


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return name.startswith("sr_deploy") and (path.with_suffix(".py").is_file() or path.is_dir())


def is_standard(name):
    top = name.split(".")[0]
    if hasattr(sys, "stdlib_module_names"):
        return top in sys.stdlib_module_names
    if top in sys.builtin_module_names:
        return True
    spec = importlib.util.find_spec(top)
    home = Path(sysconfig.get_paths()["stdlib"])
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    return spec is not None and (
        origin is None or (home in origin.parents and "site-packages" not in origin.parts)
    )


def short(name):
    return name[len("sr_deploy.") :] if name.startswith("sr_deploy.") else name


def violations(room, source):
    """Return the imports of a module of `room` that the table does not allow."""
    top, inside_only = TABLE[room]
    found = []
    for line, name, inside, typing_only in imports(ast.parse(source)):
        what = short(name)
        allowed = {room, "sr_deploy", *top, *(inside_only if inside or typing_only else ())}
        if name.startswith("."):
            found.append(f"line {line}: {name} is relative")
        elif not is_standard(name) and not any(
            what == a or what.startswith(a + ".") for a in allowed
        ):
            found.append(f"line {line}: {name}" + (" (inside a function)" if inside else ""))
    return found


def test_every_room_is_in_the_table():
    assert {room_of(path) for path in MODULES} - {""} <= set(TABLE)
    assert {"core", "runtime", "bench", "nets", "train", "export", "upscale", "results", "cli"} <= {
        room_of(path) for path in MODULES
    }


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_room_knows_only_whom_it_may(path):
    source = path.read_text(encoding="utf-8")
    if room_of(path):
        assert violations(room_of(path), source) == []
    else:  # the package itself: its API is imported on first use
        assert [
            name
            for _, name, _, _ in imports(ast.parse(source))
            if not is_standard(name) and name != "sr_deploy"
        ] == []


@pytest.mark.parametrize(
    "room, source",
    [
        ("core", "import torch"),
        ("core", "def f():\n    import onnx"),
        ("core", "import cv2"),
        ("core", "from sr_deploy.runtime import BACKENDS"),
        ("core", "from sr_deploy import runtime"),
        ("runtime", "from sr_deploy.nets.checkpoint import load_checkpoint"),
        ("runtime", "import tensorrt"),
        ("runtime", "try:\n    import onnxruntime\nexcept ImportError:\n    pass"),
        ("bench", "from sr_deploy.nets import checkpoint"),
        ("bench", "def f():\n    from sr_deploy.export import pipeline"),
        ("bench", "class A:\n    import torch"),
        ("nets", "from sr_deploy.export import graph"),
        ("train", "import onnx"),
        ("export", "from sr_deploy.runtime.tensorrt_engine import read_header"),
        ("cli", "from sr_deploy.bench.measure import rows_from_artifacts"),
        ("cli", "import numpy"),
        ("cli", "from . import output"),
    ],
)
def test_the_table_can_be_broken(room, source):
    assert len(violations(room, source)) >= 1


@pytest.mark.parametrize(
    "room, source",
    [
        (
            "core",
            "import json, os.path\nimport numpy as np\nfrom sr_deploy.core.errors import InputError",
        ),
        ("core", "def f():\n    import cv2"),
        ("bench", "def f():\n    from sr_deploy.nets.checkpoint import load_checkpoint"),
        ("runtime", "import sr_deploy\ndef f():\n    import tensorrt_rtx"),
        (
            "cli",
            "import click\ndef f():\n    from sr_deploy.export.pipeline import onnx_from_checkpoint",
        ),
    ],
)
def test_the_table_can_be_kept(room, source):
    assert violations(room, source) == []


@pytest.mark.parametrize(
    "path", [p for p in MODULES if room_of(p) in (*BOARD, "")], ids=module_name
)
def test_no_module_that_windows_lacks(path):
    names = {
        name.split(".")[0] for _, name, _, _ in imports(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert not names & POSIX_ONLY


@pytest.mark.parametrize(
    "path", [p for p in MODULES if room_of(p) in (*BOARD, "")], ids=module_name
)
def test_the_syntax_is_python_3_8_s(path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 8))
    compile(source, str(path), "exec")
    # New spellings of types are fine in annotations only while these are never evaluated.
    annotations = any(
        isinstance(n, ast.ImportFrom)
        and n.module == "__future__"
        and n.names[0].name == "annotations"
        for n in tree.body
    )
    only_docstring = all(isinstance(n, ast.Expr) for n in tree.body)
    assert annotations or only_docstring, "from __future__ import annotations is missing"


def test_a_board_imports_everything_it_needs_and_shows_every_help(run_python):
    """In a process where every heavy package is blocked."""
    names = [module_name(p) for p in MODULES if room_of(p) in (*BOARD, "")]
    code = f"""
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ImportError(name + " is blocked here", name=name)

sys.meta_path.insert(0, Blocked())
for name in {names!r}:
    importlib.import_module(name)

from click.testing import CliRunner
from sr_deploy.cli.main import main

for args in ([], ["models"], ["targets"], *([name] for name in main.commands)):
    if args in (["models"], ["targets"]):
        result = CliRunner().invoke(main, args)
        assert result.exit_code == 0, (args, result.output, result.exception)
    result = CliRunner().invoke(main, [*args, "--help"])
    assert result.exit_code == 0 and "Usage:" in result.output, (args, result.output, result.exception)

loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
missing = CliRunner().invoke(main, ["complexity", "asrn_x4"])
assert missing.exit_code == 1 and "pip install" in missing.output, missing.output
print("fine")
"""
    result = run_python("-c", code)
    assert result.returncode == 0 and result.stdout.strip() == "fine", result.stderr


def test_the_api_is_listed_without_importing_anything_heavy(run_python):
    code = f"import sr_deploy, sys; assert 'load_checkpoint' in dir(sr_deploy); print([n for n in sys.modules if n in {HEAVY!r}])"
    result = run_python("-c", code)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_plain_commands_import_nothing_heavy(run_python):
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom sr_deploy.cli.main import main\n"
        "for args in (['--version'], ['export', '--help'], ['models', '--json']):\n"
        "    assert CliRunner().invoke(main, args).exit_code == 0\n"
        f"print([n for n in sys.modules if n in {HEAVY!r}])"
    )
    result = run_python("-c", code)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr
