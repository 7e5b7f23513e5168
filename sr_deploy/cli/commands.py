"""The commands by task: where each is defined, an example and a summary. Imports none of them."""

from __future__ import annotations

from typing import Dict, NamedTuple, Tuple


class ListedCommand(NamedTuple):
    """A command. `srdeploy --help` shows its example and summary."""

    defined: str  # module of `sr_deploy.cli`, and the function there
    example: str
    summary: str


TASKS: Tuple[Tuple[str, Dict[str, ListedCommand]], ...] = (
    (
        "Look around",
        {
            "demo": ListedCommand("demo:demo", "demo", "everything, on its own pictures"),
            "doctor": ListedCommand("doctor:doctor", "doctor", "is this machine ready?"),
            "models": ListedCommand("models:models", "models", "the networks that are included"),
            "targets": ListedCommand("build_engine:targets", "targets", "the devices to deploy to"),
        },
    ),
    (
        "Upscale",
        {
            "upscale": ListedCommand(
                "upscale:upscale", "upscale photo.jpg", "pictures, folders, videos"
            ),
        },
    ),
    (
        "Deploy",
        {
            "deploy": ListedCommand(
                "deploy:deploy", "deploy asrn_x4 --target rtx", "all for a target, in one folder"
            ),
            "export": ListedCommand("export:export", "export", "ONNX graphs, each verified"),
            "check": ListedCommand(
                "check:check", "check --target xavier", "what a target would refuse"
            ),
            "build-engine": ListedCommand(
                "build_engine:build_engine", "build-engine --target xavier", "engines of graphs"
            ),
            "adopt": ListedCommand(
                "build_engine:adopt", "adopt result.tar", "engines from another machine"
            ),
            "selftest": ListedCommand(
                "selftest:selftest", "selftest", "prove what this machine can do"
            ),
        },
    ),
    (
        "Measure",
        {
            "bench": ListedCommand("bench:bench", "bench", "speed, memory and quality"),
            "eval": ListedCommand(
                "eval:evaluate", "eval asrn_x4 --data Set5/HR", "quality on folders of images"
            ),
            "prepare": ListedCommand(
                "prepare:prepare",
                "prepare test2k --from DIV8K -o sets",
                "papers' sets of large images",
            ),
            "compare": ListedCommand(
                "table:compare", "compare asrn_x4.d1 asrn_x4.d5", "which of two is faster"
            ),
            "complexity": ListedCommand(
                "complexity:complexity", "complexity asrn_x4", "parameters and FLOPs"
            ),
            "table": ListedCommand("table:table", "table", "a table of measured rows"),
            "select": ListedCommand(
                "table:select",
                "select --target cpu --fps 30",
                "the best network within limits",
            ),
            "reproduce": ListedCommand(
                "reproduce:reproduce", "reproduce asrn", "a paper's tables, ours beside them"
            ),
            "report": ListedCommand(
                "report:report", "report rows.jsonl -o report.html", "a page with charts"
            ),
        },
    ),
    (
        "Your own network",
        {
            "import-checkpoint": ListedCommand(
                "models:import_checkpoint", "import-checkpoint net.pth -o mine", "from its weights"
            ),
            "import-onnx": ListedCommand(
                "import_onnx:import_onnx", "import-onnx net.onnx -o mine", "from an ONNX graph"
            ),
            "recipes": ListedCommand("train:recipes", "recipes", "the training recipes"),
            "train": ListedCommand(
                "train:train",
                "train asrn-x4-small --data HR -o runs",
                "train a network by a recipe",
            ),
        },
    ),
    (
        "This command",
        {
            "completion": ListedCommand(
                "completion:completion", "completion bash", "the Tab key completes names"
            ),
        },
    ),
)
COMMANDS = {name: entry for _, entries in TASKS for name, entry in entries.items()}

SECTIONS = {
    "Adaptive networks": ("--adaptive", "--max-flops", "--max-ms", "--depth", "--decisions"),
    "Videos": ("--codec", "--crf", "--drop", "--governor", "--fps", "--max-watts"),
    "Networks given as code": ("--weights", "--scale", "--value-range"),
    "How networks run": (
        "--device",
        "--runtime",
        "--precision",
        "--channels-last",
        "--compile",
        "--cuda-graph",
    ),
}
"""Options that stand in a section of their own in the help of commands that have all of them."""
