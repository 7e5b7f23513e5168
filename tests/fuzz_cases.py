"""Small valid inputs of every kind of file that a command reads, for tests/fuzz.py."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Optional, Tuple

import fuzz_mutations as mutate
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "upscale")]
Files = Dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """Files of a folder, one of which is mutated, and the commands that read it there."""

    files: Files
    mutated: str
    mutation: Callable[..., bytes]
    commands: Tuple[str, ...]
    """One is chosen. What it writes goes to the folder `out`."""
    keeps: Tuple[str, ...] = ()
    """Ends of the names of files that a failed command may leave in `out`."""
    seal: Optional[Callable[[Files, str], None]] = None
    """Corrects checksums after the mutation."""


UPSCALE = "upscale p.png -o out/p.png -m "


def picture(h=12, w=10, channels=3):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (h // 4 + 1, w // 4 + 1, channels), dtype=np.uint8)
    return np.ascontiguousarray(small.repeat(4, 0).repeat(4, 1)[:h, :w])


def png():
    from sr_deploy.core.images import write_png

    with tempfile.TemporaryDirectory() as folder:
        write_png(Path(folder) / "p.png", picture())
        return (Path(folder) / "p.png").read_bytes()


def nearest(scale=2, batch=1, hw=("h", "w"), out_hw=("H", "W"), names=("x", "y")):
    """A graph that repeats pixels."""
    from onnx import TensorProto, helper, numpy_helper

    scales = numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32), "scales")
    node = helper.make_node("Resize", [names[0], "", "scales"], [names[1]], mode="nearest")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [value(names[0], TensorProto.FLOAT, [batch, 3, *hw])],
        [value(names[1], TensorProto.FLOAT, [batch, 3, *out_hw])],
        [scales],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def read_folder(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


@contextlib.contextmanager
def working_folder():
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def run(line):
    """Run a command that makes a valid input."""
    from sr_deploy.cli.main import main

    with contextlib.redirect_stdout(sys.stderr):
        main(line.split(), standalone_mode=False)


def sealed_manifest(files, name):
    """Write a graph's checksum into its manifest."""
    manifest = json.loads(files[name + ".json"])
    manifest["sha256"] = hashlib.sha256(files[name]).hexdigest()
    files[name + ".json"] = json.dumps(manifest).encode()


def sealed_plan(files, name):
    for plan in [n for n in files if n.endswith((".routed.json", ".adadsr.json"))]:
        data = json.loads(files[plan])
        if name in data["graphs"]:
            data["graphs"][name] = hashlib.sha256(files[name]).hexdigest()
            files[plan] = json.dumps(data).encode()


def sealed_weights(files, name):
    card = name.replace(".safetensors", ".json")
    data = json.loads(files[card])
    data["weights_sha256"] = hashlib.sha256(files[name]).hexdigest()
    files[card] = json.dumps(data).encode()


def graph_cases():
    from doubles.foreign_graphs import FOREIGN
    from doubles.graphs import tiny_model

    read = (UPSCALE + "g.onnx", UPSCALE + "g.onnx", "check g.onnx --target cpu", "doctor g.onnx")
    check = "check g.onnx --target xavier"
    build = "build-engine g.onnx --target cpu -o out"
    graphs = [
        nearest(),
        nearest(hw=(12, 10), out_hw=(24, 20)),
        tiny_model(None).SerializeToString(),
        tiny_model((12, 10), extra="Relu").SerializeToString(),
        *(FOREIGN[n].make().SerializeToString() for n in ("bytes_nhwc", "luma_opset10")),
    ]
    commands = (*read, check, build, "import-onnx g.onnx -o out", "complexity g.onnx")
    files = {**external(), "p.png": png()}
    return [
        Case({"g.onnx": g, "p.png": png()}, "g.onnx", mutate.mutated_onnx, commands) for g in graphs
    ] + [Case(files, name, mutate.mutated_onnx, commands) for name in ("g.onnx", "g.onnx.data")]


def external():
    """A graph with its weights in a second file, by name."""
    import onnx
    from doubles.graphs import tiny_model

    model = tiny_model(None)
    (weight,) = model.graph.initializer
    content = weight.raw_data
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "g.onnx.data"), ("offset", "0"), ("length", len(content))):
        weight.external_data.add(key=key, value=str(value))
    return {"g.onnx": model.SerializeToString(), "g.onnx.data": content}


def exported(target="cpu", precision="fp32"):
    """A graph with its manifest, by name."""
    from doubles.graphs import tiny_manifest, tiny_model

    content = tiny_model(None).SerializeToString()
    manifest = tiny_manifest((8, 8), (32, 32))
    data = dataclasses.asdict(dataclasses.replace(manifest, target=target))
    data["sha256"] = hashlib.sha256(content).hexdigest()
    data["precision_asked"] = precision
    return {"g.onnx": content, "g.onnx.json": json.dumps(data).encode()}


def manifest_cases():
    files = {**exported(), "p.png": png()}
    commands = (
        UPSCALE + "g.onnx", "doctor g.onnx", "check g.onnx --target cpu",
        "build-engine g.onnx --target cpu -o out", "check g.onnx --target xavier",
    )  # fmt: skip
    with_graph = Case(files, "g.onnx", mutate.mutated_onnx, commands, seal=sealed_manifest)
    files = {**imported(), "p.png": png()}
    export = "export g.onnx --size 12x10 --precision fp32 -o out"
    of_import = [
        Case(files, "g.onnx.json", mutate.mutated_json, (*commands, export)),
        Case(files, "g.onnx", mutate.mutated_onnx, (*commands, export), seal=sealed_manifest),
    ]
    plain = Case({**exported(), "p.png": png()}, "g.onnx.json", mutate.mutated_json, commands)
    return [plain] * 3 + [with_graph, *of_import]


def imported():
    """A graph of another exporter with the manifest of its import, by name."""
    import tempfile
    from pathlib import Path

    from doubles.foreign_graphs import save_foreign

    from sr_deploy.runtime.import_onnx import ImportOptions, graph_from_file

    with tempfile.TemporaryDirectory() as folder:
        file = save_foreign("bytes_nhwc", Path(folder))
        graph = graph_from_file(file, Path(folder) / "out", ImportOptions(name="g")).path
        return {path.name: path.read_bytes() for path in graph.parent.iterdir()}


def engine_cases():
    with working_folder() as folder:
        for name, content in exported().items():
            (folder / name).write_bytes(content)
        run("build-engine g.onnx --target cpu -o built")
        files = {Path(n).name: c for n, c in read_folder(folder / "built").items()}
    (name,) = [n for n in files if n.endswith(".engine")]
    files = {n: c for n, c in files.items() if n.startswith(name)}
    files["p.png"] = png()
    commands = (UPSCALE + name, f"doctor {name}")
    return [
        Case(files, name, mutate.mutated_bytes, commands, seal=sealed_manifest),
        Case(files, name, mutate.mutated_onnx, commands, seal=sealed_manifest),
        Case(files, name + ".json", mutate.mutated_json, commands),
    ]


def small_network(arch="fsrcnn", variant="w4", scale=2):
    from doubles.networks import network

    return network(arch, scale, variant)


def checkpoint_files(arch="fsrcnn", variant="w4", scale=2):
    from sr_deploy.core.spec import Variant
    from sr_deploy.nets import ARCHITECTURES
    from sr_deploy.nets.checkpoint import save_checkpoint

    spec = ARCHITECTURES[arch].spec(scale, Variant.parse(variant), elastic=False)
    with working_folder() as folder:
        save_checkpoint(folder, "n", spec, small_network(arch, variant, scale).state_dict())
        return read_folder(folder)


def checkpoint_cases():
    files = {**checkpoint_files(), "p.png": png()}
    read = UPSCALE + "n.safetensors"
    commands = ("complexity ./n.safetensors --size 16x16", read, read)
    return [
        Case(files, "n.json", mutate.mutated_json, commands),
        Case(files, "n.safetensors", mutate.mutated_safetensors, commands),
        Case(files, "n.safetensors", mutate.mutated_safetensors, commands, seal=sealed_weights),
    ]


def state_dict_cases():
    import io

    import torch

    cases = []
    for kind, arch, variant in (("fsrcnn_x2", "fsrcnn", "w4"), ("asrn", "asrn", "d1")):
        buffer = io.BytesIO()
        torch.save({"params": small_network(arch, variant).state_dict()}, buffer)
        command = f"import-checkpoint {kind} f.pth -o out"
        cases.append(Case({"f.pth": buffer.getvalue()}, "f.pth", mutate.mutated_pickle, (command,)))
    weights = {"f.safetensors": checkpoint_files()["n.safetensors"]}
    command = "import-checkpoint fsrcnn_x2 f.safetensors -o out"
    return [*cases, Case(weights, "f.safetensors", mutate.mutated_safetensors, (command,))]


def router_cases():
    models = ROOT / "models"
    name = "cdnsr-fsrcnn_x4.router"
    files = {
        f"r.router.{e}": (models / f"{name}.{e}").read_bytes() for e in ("json", "safetensors")
    }
    files["p.png"] = png()
    commands = (UPSCALE + "r.router.safetensors",)
    weights = "r.router.safetensors"
    return [
        Case(files, "r.router.json", mutate.mutated_json, commands),
        Case(files, weights, mutate.mutated_safetensors, commands),
        Case(files, weights, mutate.mutated_safetensors, commands, seal=sealed_weights),
    ]


def routed_plan_cases():
    from onnx import TensorProto, helper, numpy_helper

    value, opset = helper.make_tensor_value_info, [helper.make_opsetid("", 17)]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["lr"], ["m"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["m", "w"], ["sr"]),
        ],
        "router",
        [value("lr", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [value("sr", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.ones((3, 2), np.float32), "w")],
    )
    branch = nearest(batch="n", hw=(32, 32), out_hw=(64, 64), names=("lr", "sr"))
    files = {
        "r.router.onnx": helper.make_model(
            graph, opset_imports=opset, ir_version=8
        ).SerializeToString(),
        "r.b1.onnx": branch,
        "r.b2.onnx": branch,
    }
    plan = {
        "model": "r", "scale": 2, "names": ["m.d1", "m.d2"], "macs": [10, 20], "router_macs": 1,
        "patch": 32, "parent_sha256": "ab" * 32, "overlap": 4,
        "graphs": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "checks": {},
    }  # fmt: skip
    files["r.routed.json"] = json.dumps(plan).encode()
    files["p.png"] = png()
    commands = (UPSCALE + "r.routed.json", UPSCALE + ".")
    onnx = mutate.mutated_onnx
    return [
        Case(files, "r.routed.json", mutate.mutated_json, commands),
        Case(files, "r.router.onnx", onnx, commands, seal=sealed_plan),
        Case(files, "r.b1.onnx", onnx, commands, seal=sealed_plan),
    ]


def depth_plan_cases():
    from sr_deploy.core.spec import Variant
    from sr_deploy.nets import ARCHITECTURES
    from sr_deploy.nets.checkpoint import save_checkpoint

    config = {"channels": 8, "blocks": 2}
    architecture = ARCHITECTURES["adaedsr"]
    spec = architecture.spec(2, Variant.parse("d2"), elastic=True)
    spec = dataclasses.replace(spec, config=config)
    with working_folder() as folder:
        weights = architecture.build(2, Variant.parse("d2"), config).state_dict()
        save_checkpoint(folder, "a", spec, weights)
        run("export a.safetensors --adaptive -o plans")
        files = read_folder(folder / "plans")
    plans = [n for n in files if n.endswith(".adadsr.json")]
    graphs = [n for n in files if n.endswith(".onnx")]
    files["p.png"] = png()
    commands = tuple(UPSCALE + plan for plan in plans)
    return [Case(files, plan, mutate.mutated_json, (UPSCALE + plan,)) for plan in plans] + [
        Case(files, name, mutate.mutated_onnx, commands, seal=sealed_plan) for name in graphs
    ]


def rows_cases():
    lines = (ROOT / "benchmarks" / "rows.jsonl").read_bytes().splitlines(keepends=True)
    new = [json.loads(line) for line in lines[:4] + lines[-4:]]
    for row in new:
        row["latencies_ms"] = row["latencies_ms"][:3]
    old = [{**row, "schema": 1} for row in new[:1]]
    oldest = [{key: value for key, value in new[0].items() if key != "schema"}]
    commands = (
        "table r.jsonl",
        "table r.jsonl --layout ntire",
        "table r.jsonl --layout srn5 --format csv",
        "table r.jsonl --where scale=4 --format latex",
        "select r.jsonl --target cpu --max-ms 1000 --where input_hw=64x64",
        "report r.jsonl -o out/r.html",
        "report r.jsonl -o out/r.html",
    )
    contents = ["".join(json.dumps(row) + "\n" for row in rows) for rows in (new, new, old, oldest)]
    return [
        Case({"r.jsonl": text.encode()}, "r.jsonl", mutate.mutated_lines, commands)
        for text in (*contents[:2], *contents)
    ]


def recipe_cases():
    commands = ("recipes ./r.json", "recipes ./r.json --json")
    recipes = ROOT / "sr_deploy" / "train" / "recipes"
    cases = []
    for file, name in (
        ("small/networks", "asrn-x4-small"),
        ("small/routers", ""),
        ("imdeception/imdeception", ""),
        ("adadsr/adaptive", ""),
    ):
        every = json.loads((recipes / f"{file}.json").read_bytes())
        for recipe in [every[name]] if name else list(every.values())[:2]:
            content = json.dumps(recipe).encode()
            cases.append(Case({"r.json": content}, "r.json", mutate.mutated_json, commands))
    own = {"extends": "asrn-x4-small", "steps": 20, "schedule": "halving", "periods": [10]}
    content = json.dumps(own).encode()
    return [*cases, Case({"r.json": content}, "r.json", mutate.mutated_json, commands)]


def target_cases():
    files = {**exported(), "p.png": png()}
    commands = (
        "check g.onnx --target ./mine.json", "build-engine g.onnx --target ./mine.json -o out",
        "build-engine g.onnx --target ./mine.json --bundle out/b.tar",
    )  # fmt: skip
    cases = []
    for name in ("cpu", "cuda", "xavier", "rtx", "orin"):
        profile = json.loads((ROOT / "engines" / "targets" / f"{name}.json").read_bytes())
        content = json.dumps({**profile, "name": "mine"}).encode()
        case = Case({**files, "mine.json": content}, "mine.json", mutate.mutated_json, commands)
        cases.append(case)
    return cases


def sweep_cases():
    plan = {
        "models": ["missing_x2"], "variants": ["all"], "shapes": ["16x16"], "batch": [1],
        "precisions": ["fp32"], "backends": ["torch"], "targets": ["cpu"], "runs": 1,
        "protocols": ["steady"], "threads": 1,
    }  # fmt: skip
    files = {"plan.json": json.dumps(plan).encode(), "hr/p.png": png()}
    command = "bench --sweep plan.json --data hr -o out"
    return [Case(files, "plan.json", mutate.mutated_json, (command,))]


def board_cases():
    """A result that the stand-in for trtexec gave, and the bundle it was made from."""

    from doubles.graphs import tiny_manifest, tiny_model

    graph = tiny_model((16, 24), repeats=True).SerializeToString()
    data = dataclasses.asdict(tiny_manifest())
    data["sha256"] = hashlib.sha256(graph).hexdigest()
    environment = {
        "STAND_IN_TRTEXEC_VERSION": "8.5.2", "STAND_IN_TRTEXEC_MISBEHAVE": "",
        "STAND_IN_TRTEXEC_SM": "7.2", "STAND_IN_TRTEXEC_SCALE": "2",
        "TRTEXEC": str(ROOT / "tests" / "doubles" / "trtexec"),
    }  # fmt: skip
    with working_folder() as folder:
        (folder / "t.onnx").write_bytes(graph)
        (folder / "t.onnx.json").write_text(json.dumps(data))
        run("build-engine t.onnx --target xavier --bundle job.tar")
        bundle = (folder / "job.tar").read_bytes()
        with tarfile.open("job.tar") as archive:
            archive.extractall(str(folder / "board"))
        (board,) = (folder / "board").iterdir()
        subprocess.run(
            ["sh", "build.sh"],
            cwd=str(board),
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        result = (board / "result.tar").read_bytes()
    change = mutate.mutated_board_tar
    commands = ("adopt r.tar -o out",)
    logs = (".log",)
    return [
        Case({"r.tar": result}, "r.tar", change, commands, keeps=logs),
        Case({"r.tar": result}, "r.tar", change, commands, keeps=logs),
        Case({"r.tar": bundle}, "r.tar", change, commands, keeps=logs),
    ]


def selftest_cases():
    from sr_deploy.results.rows import BenchmarkRow, append_rows
    from sr_deploy.selftest.archive import write_archive
    from sr_deploy.selftest.checks import CheckResult
    from sr_deploy.selftest.runner import Selftest

    with working_folder() as folder:
        append_rows(folder / "rows.jsonl", [BenchmarkRow("m_x4", "c4", "torch", cell="a: m_x4.c4")])
        (folder / "artifacts" / "cpu").mkdir(parents=True)
        (folder / "artifacts" / "cpu" / "m.engine.json").write_text('{"kind": "engine"}')
        facts = {"cpu": "a CPU, 2 cores", "version": "0", "board": {"gpu": "NVIDIA H100"}}
        results = (CheckResult("environment", "pass"), CheckResult("a", "fail", "no x.onnx"))
        selftest = Selftest("2026-11-28T13:00:00Z", facts, results)
        archive = write_archive(selftest, folder).read_bytes()
    change = mutate.mutated_selftest_tar
    return [Case({"s.tar.gz": archive}, "s.tar.gz", change, ("adopt s.tar.gz -o out",))]


def encoded(suffix, image, *settings):
    import cv2

    done, content = cv2.imencode(suffix, image, settings)
    assert done, suffix
    return content.tobytes()


def pictures():
    """(name, content) of pictures of every format, and of those with metadata."""
    import cv2

    colour, grey, alpha = (picture(40, 36, channels) for channels in (3, 1, 4))
    deep = colour.astype(np.uint16) * 257
    made = []
    for suffix in (
        ".png",
        ".jpg",
        ".tif",
        ".webp",
        ".bmp",
        ".ppm",
        ".pgm",
        ".gif",
        ".jp2",
        ".avif",
    ):
        with contextlib.suppress(cv2.error, AssertionError):  # OpenCV was built without it
            image = grey if suffix == ".pgm" else colour
            made.append(("p" + suffix, encoded(suffix, image)))
    for suffix in (".png", ".tif", ".webp"):
        made.append(("alpha" + suffix, encoded(suffix, alpha)))
    for suffix in (".png", ".tif", ".jp2"):
        made.append(("deep" + suffix, encoded(suffix, deep)))
    made.append(("grey.jpg", encoded(".jpg", grey)))
    made.append(("progressive.jpg", encoded(".jpg", colour, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)))
    exif = (
        b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\6\0\0"
        b"\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\0"
    )
    xmp = (
        b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/'>caf\xc3\xa9</x:xmpmeta>"
    )
    icc = b"ICC_PROFILE\0\1\1" + (132).to_bytes(4, "big") + bytes(32) + b"acsp" + bytes(92)
    jpeg = encoded(".jpg", picture(24, 24))
    segments = b"".join(
        bytes((0xFF, marker)) + (len(data) + 2).to_bytes(2, "big") + data
        for marker, data in ((0xE1, exif), (0xE1, xmp), (0xE2, icc))
    )
    made.append(("metadata.jpg", jpeg[:2] + segments + jpeg[2:]))
    made.append(("metadata.png", png_with_chunks(encoded(".png", colour), exif[6:], icc[14:])))
    return made


def png_with_chunks(content, exif, icc):
    import struct
    import zlib

    def chunk(name, data):
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    xmp = b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    extra = b"".join(
        (
            chunk(b"gAMA", struct.pack(">I", 45455)),
            chunk(b"cICP", b"\1\x0d\0\1"),
            chunk(b"iCCP", b"profile\0\0" + zlib.compress(icc)),
            chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
            chunk(b"tEXt", b"Title\0caf\xe9"),
            chunk(b"iTXt", xmp),
            chunk(b"eXIf", exif),
        )
    )
    return content[:33] + extra + content[33:]


def picture_cases():
    cases = []
    for name, content in pictures():
        suffix = name[name.rindex(".") :]
        change = mutate.mutated_png if suffix == ".png" else mutate.mutated_bytes
        commands = tuple(
            f"upscale {name} -m g.onnx -o out/x{end}" for end in (".png", ".jpg", ".webp")
        )
        files = {name: content, "g.onnx": nearest()}
        cases.append(
            Case(files, name, change, (*commands, f"upscale {name} -m g.onnx -o out/x.tif"))
        )
    return cases


def folder_cases():
    """Folders of pictures, with the log of an earlier run and its claims."""
    cases = []
    command = "upscale in -m g.onnx -o out"
    with working_folder() as folder:
        (folder / "g.onnx").write_bytes(nearest())
        (folder / "in").mkdir()
        for name in ("a.png", "b.png"):
            (folder / "in" / name).write_bytes(png())
        run(command)
        files = read_folder(folder)
    log = [name for name in files if name.endswith(".srdeploy.jsonl")][0]
    kept = (".png", ".jsonl", ".claim")
    cases.append(Case(files, log, mutate.mutated_lines, (command,), kept))
    claim = {**files, "out/a.png.claim": b"1 host", "out/.a.png.claim": b"1 host"}
    cases.append(Case(claim, "out/a.png.claim", mutate.mutated_bytes, (command,), kept))
    return [*cases, Case(files, "in/a.png", mutate.mutated_png, (command,), kept)]


def data_cases():
    import io

    files = {"g.onnx": nearest()}
    command = "eval g.onnx --data hr"
    array = io.BytesIO()
    np.save(array, picture(24, 24))
    cases = [
        Case(
            {**files, "hr/p.npy": array.getvalue()},
            "hr/p.npy",
            mutate.mutated_bytes,
            (command,),
        )
    ]
    for suffix in (".png", ".jpg", ".bmp", ".tif", ".webp"):
        content = encoded(suffix, picture(24, 24))
        change = mutate.mutated_png if suffix == ".png" else mutate.mutated_bytes
        cases.append(Case({**files, "hr/p" + suffix: content}, "hr/p" + suffix, change, (command,)))
    return cases


def video_cases():
    from video_files import make_video

    cases = []
    for name, settings in (
        ("v.mp4", {}),
        ("v.mkv", {"sound": True}),
        ("v.webm", {"codec": "libvpx-vp9"}),
        ("v.mov", {"pix_fmt": "yuv444p", "sound": True}),
        ("v.avi", {"codec": "mpeg4"}),
    ):
        with working_folder() as folder:
            make_video(folder / name, 3, size="16x16", **settings)
            content = (folder / name).read_bytes()
        files = {name: content, "g.onnx": nearest()}
        commands = tuple(
            f"upscale {name} -m g.onnx -o out/x{end} --codec {codec}"
            for end, codec in ((".mkv", "ffv1"), (".mp4", "libx264"))
        )
        kept = (".partial.mkv", ".partial.mp4", ".bin", ".json")
        cases.append(Case(files, name, mutate.mutated_bytes, commands, kept))
    return cases


def state_cases():
    """The state of a training run."""
    from sr_deploy.core.images import write_png

    recipe = {
        "arch": "fsrcnn", "scale": 2, "variant": "w4", "method": "supervised", "steps": 2,
        "patch_hr": 8, "batch_size": 1, "lr": 0.001, "schedule": "cosine", "valid_every": 2,
    }  # fmt: skip
    command = "train ./r.json --data hr -o out --workers 0 --devices 1"
    with working_folder() as folder:
        (folder / "r.json").write_text(json.dumps(recipe))
        (folder / "hr").mkdir()
        write_png(folder / "hr" / "p.png", picture(24, 24))
        run(command)
        files = read_folder(folder)
    files = {n: c for n, c in files.items() if "/" not in n or n.endswith((".pt", "hr/p.png"))}
    state = [name for name in files if name.endswith(".state.pt")][0]
    return [Case(files, state, mutate.mutated_pickle, (command + " --resume",), ("",))]


KINDS = {
    "graph": (graph_cases, 16),
    "manifest": (manifest_cases, 8),
    "engine": (engine_cases, 4),
    "checkpoint": (checkpoint_cases, 7),
    "state-dict": (state_dict_cases, 5),
    "router": (router_cases, 4),
    "routed-plan": (routed_plan_cases, 5),
    "depth-plan": (depth_plan_cases, 3),
    "rows": (rows_cases, 8),
    "recipe": (recipe_cases, 6),
    "target": (target_cases, 5),
    "sweep": (sweep_cases, 3),
    "board-result": (board_cases, 4),
    "selftest": (selftest_cases, 3),
    "picture": (picture_cases, 16),
    "folder": (folder_cases, 3),
    "data": (data_cases, 4),
    "video": (video_cases, 5),
    "training-state": (state_cases, 1),
}
"""The cases of each kind, and its share of the inputs."""
