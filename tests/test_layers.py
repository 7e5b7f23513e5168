"""The import rules of docs/architecture.md, and the limits of CONTRIBUTING.md."""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sr_deploy"

# Room: modules it may import at the top of a file, and modules it may import inside functions only.
# A room may always import itself and the standard library. A dotted name allows that
# module and its children. Rooms stand in order: each may import only rooms that stand before it.
TABLE = {
    "core": ("numpy", "av cv2 skimage"),
    "results": ("numpy core", "matplotlib jinja2"),
    "nets": (
        "numpy core torch",
        "safetensors spandrel spandrel_extra_arches torchvision openmodeldb",
    ),
    "runtime": (
        "numpy core",
        "nets onnx onnxruntime onnxslim openvino torch tensorrt tensorrt_rtx cuda pycuda",
    ),
    # An export is checked by ONNX Runtime's session, and the two kinds of AdaDSR plans are timed.
    "export": ("numpy core nets torch onnx runtime", "onnxruntime onnxscript"),
    "fast": ("numpy core runtime", "export nets torch"),
    "upscale": ("numpy core runtime fast", "cv2 av"),
    # Images are scored in tiles within the same bound on memory as they are upscaled.
    "bench": ("numpy core results runtime fast upscale.memory upscale.upscaler", ""),
    # Validation uses the same code as `srdeploy eval` and `srdeploy bench`.
    "train": (
        "numpy core nets torch lightning tqdm bench.evaluate runtime.torch_module",
        "tensorboard",
    ),
    "selftest": ("numpy core results runtime fast bench upscale", "export nets torch av"),
    "deploy": (
        "numpy core results runtime fast bench upscale",
        "export nets torch av cv2 skimage",
    ),
    "cli": (
        "click core results",
        "runtime fast bench nets train export upscale selftest deploy rich",
    ),
}
BOARD = (
    "core", "results", "runtime", "fast", "upscale", "bench", "selftest", "deploy", "cli",
)  # fmt: skip
"""Rooms that run on a board: Python 3.8 with numpy and click."""
# fmt: off
HEAVY = (
    "torch", "onnx", "onnxruntime", "onnxscript", "cv2", "tensorrt", "tensorrt_rtx", "safetensors",
    "skimage", "lightning", "matplotlib", "av", "onnxslim", "spandrel", "openmodeldb", "openvino",
)
POSIX_ONLY = {
    "fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog", "crypt",
    "readline", "curses",
}
# fmt: on

MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = {path: path.read_text(encoding="utf-8") for path in MODULES}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imports(tree):
    """Yield (line, module, inside a function, under TYPE_CHECKING) of each import."""

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
    """Return the imports in a module of `room` that the table does not allow."""
    # The package itself imports its API on first use.
    top, inside_only = TABLE[room] if room else ("core.version", " ".join(TABLE))
    messages = []
    for line, name, inside, typing_only in imports(ast.parse(source)):
        module = name[len("sr_deploy.") :] if name.startswith("sr_deploy.") else name
        lazy = typing_only or (inside and room)
        allowed = [*([room] if room else ()), *top.split(), *(inside_only.split() if lazy else ())]
        if name.startswith("."):
            messages.append(f"line {line}: {name} is relative")
        elif not is_standard(name) and not any(f"{module}.".startswith(f"{a}.") for a in allowed):
            messages.append(f"line {line}: {name}" + (" (inside a function)" if inside else ""))
    return messages


def board_modules():
    return [path for path in MODULES if room_of(path) in (*BOARD, "")]


def test_the_table_lists_every_room_and_no_room_imports_a_later_one():
    rooms = {room_of(path) for path in MODULES} - {""}
    assert rooms == set(TABLE)
    order = list(TABLE)
    upward = [
        (room, name)
        for room, names in TABLE.items()
        for name in " ".join(names).split()
        if name.split(".")[0] in TABLE and order.index(name.split(".")[0]) >= order.index(room)
    ]
    assert upward == []


@pytest.mark.smoke
def test_rooms_import_only_what_the_table_allows():
    messages = [
        f"{module_name(path)}, {message}"
        for path, source in SOURCES.items()
        for message in violations(room_of(path), source)
    ]
    assert messages == []


def test_violations_are_found():
    for room, source in [
        ("", "from sr_deploy.core.errors import InputError"),
        ("", "def f():\n    import torch"),
        ("core", "import torch"),
        ("core", "def f():\n    import onnx"),
        ("core", "import cv2"),
        ("core", "from sr_deploy.runtime import BACKENDS"),
        ("core", "from sr_deploy import runtime"),
        ("runtime", "from sr_deploy.nets.checkpoint import load_checkpoint"),
        ("runtime", "import tensorrt"),
        ("runtime", "try:\n    import onnxruntime\nexcept ImportError:\n    pass"),
        ("bench", "def f():\n    from sr_deploy.nets import checkpoint"),
        ("upscale", "import cv2"),
        ("bench", "def f():\n    from sr_deploy.export import pipeline"),
        ("bench", "class A:\n    import torch"),
        ("nets", "from sr_deploy.export import graph"),
        ("train", "import onnx"),
        ("export", "from sr_deploy.bench.measure import rows_from_artifacts"),
        ("cli", "from sr_deploy.bench.measure import rows_from_artifacts"),
        ("cli", "import numpy"),
        ("cli", "from . import output"),
        ("bench", "import sr_deploy"),
    ]:
        assert violations(room, source), (room, source)
    for room, source in [
        ("core", "import os.path\nimport numpy\nfrom sr_deploy.core.errors import InputError"),
        ("core", "def f():\n    import cv2"),
        ("runtime", "def f():\n    from sr_deploy.nets.checkpoint import load_checkpoint"),
        ("runtime", "import numpy\ndef f():\n    import tensorrt_rtx"),
        ("cli", "import click\ndef f():\n    from sr_deploy.export import pipeline"),
    ]:  # fmt: skip
        assert violations(room, source) == [], (room, source)


def test_board_modules_use_no_module_that_windows_lacks():
    messages = [
        f"{module_name(path)}, line {line}: {name}"
        for path in board_modules()
        for line, name, _, _ in imports(ast.parse(SOURCES[path]))
        if name.split(".")[0] in POSIX_ONLY
    ]
    assert messages == []


def test_board_modules_use_the_syntax_of_python_3_8():
    messages = []
    for path in board_modules():
        try:
            tree = ast.parse(SOURCES[path], str(path), feature_version=(3, 8))
            compile(SOURCES[path], str(path), "exec")
        except SyntaxError as e:
            messages.append(f"{module_name(path)}, line {e.lineno}: {e.msg}")
            continue
        # New spellings of types are accepted in annotations only if these are never evaluated.
        lazy = any(
            isinstance(n, ast.ImportFrom)
            and n.module == "__future__"
            and n.names[0].name == "annotations"
            for n in tree.body
        )
        if not lazy and not all(isinstance(n, ast.Expr) for n in tree.body):
            messages.append(f"{module_name(path)}, line 1: no `import annotations`")
    assert messages == []


def test_functions_are_short_and_take_few_parameters():
    """CONTRIBUTING.md: at most 60 lines and 8 parameters. Options are fields of a dataclass."""
    messages = []
    for path, source in SOURCES.items():
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            parameters = [a.arg for a in arguments if a.arg not in ("self", "cls")]
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > 60 or len(parameters) > 8:
                messages.append(
                    f"{module_name(path)}, line {node.lineno}: {node.name} has {lines} lines and "
                    f"{len(parameters)} parameters"
                )
    assert messages == []


def test_a_class_name_is_used_once():
    modules = {}
    for path, source in SOURCES.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                modules.setdefault(node.name, []).append(f"{module_name(path)}, line {node.lineno}")
    assert {name: where for name, where in modules.items() if len(where) > 1} == {}


@pytest.mark.smoke
def test_a_board_imports_everything_it_needs_and_shows_every_help(run_python):
    """Runs in a process in which every heavy package is blocked."""
    names = [module_name(path) for path in board_modules()]
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
from sr_deploy.core.errors import how_to_install

for args in ([], ["models"], ["targets"], *([name] for name in main.list_commands(None))):
    if args in (["models"], ["targets"]):
        result = CliRunner().invoke(main, args)
        assert result.exit_code == 0, (args, result.output, result.exception)
    result = CliRunner().invoke(main, [*args, "--help"])
    assert result.exit_code == 0, (args, result.output, result.exception)
    assert "Usage:" in result.output, (args, result.output)

loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
missing = CliRunner().invoke(main, ["complexity", "asrn_x4"])
assert missing.exit_code == 1 and how_to_install("torch") in missing.output, missing.output
print("fine")
"""
    result = run_python("-c", code)
    assert result.returncode == 0 and result.stdout.strip() == "fine", result.stderr


def test_the_api_is_listed_without_importing_anything_heavy(run_python):
    code = (
        "import sr_deploy, sys\nassert 'load_checkpoint' in dir(sr_deploy)\n"
        f"print([n for n in sys.modules if n in {HEAVY!r}])"
    )
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
