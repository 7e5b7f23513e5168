"""Builds over SSH on a "board": a real sshd on 127.0.0.1 with a stand-in for trtexec."""

from __future__ import annotations

import os
import pwd  # noqa: TID251
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sr_deploy.core.errors import BuildError, InputError
from sr_deploy.core.manifest import read_manifest
from sr_deploy.runtime.boards import ssh
from sr_deploy.runtime.boards.ssh import parse_board
from sr_deploy.runtime.build import engine_from_onnx

STAND_IN = Path(__file__).resolve().parents[2] / "doubles" / "trtexec"
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


@pytest.mark.parametrize(
    "url, words",
    [
        ("ssh://xavier", ["--", "xavier"]),
        ("ssh://nvidia@10.0.0.7", ["--", "nvidia@10.0.0.7"]),
        ("ssh://nvidia@My-Board:2222", ["-p", "2222", "--", "nvidia@My-Board"]),
        ("ssh://nvidia@[fe80::1]:22", ["-p", "22", "--", "nvidia@fe80::1"]),
    ],
)
def test_addresses(url, words):
    assert parse_board(url).ssh_arguments == words


@pytest.mark.parametrize(
    "url",
    [
        "xavier",
        "http://xavier",
        "ssh://",
        "ssh://a:b@host",
        "ssh://host/path",
        "ssh://host:x",
        "ssh://-oProxyCommand=x",
    ],
)
def test_invalid_addresses(url):
    with pytest.raises(InputError, match="invalid board address .*; expected ssh://user@host"):
        parse_board(url)


class Board:
    """An sshd with its own keys, home and trtexec. `ssh` on PATH uses a configuration for it."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.home = folder / "home of the board"
        self.home.mkdir()
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        for name in ("host", "other", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)],
                check=True,
            )
        shutil.copy(str(folder / "user.pub"), str(folder / "authorized"))
        os.chmod(str(folder / "authorized"), 0o600)
        self.knows("host")
        self.settings(version="8.5.2")
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey "
            f"{folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
            f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication "
            f"no\nForceCommand {folder}/board\n"
        )
        me = pwd.getpwuid(os.getuid()).pw_name
        (folder / "config").write_text(
            f"Host board\n HostName 127.0.0.1\n Port {self.port}\n User {me}\n IdentityFile "
            f"{folder}/user\n IdentitiesOnly yes\n"
            f" UserKnownHostsFile {folder}/known\n GlobalKnownHostsFile none\n "
            f"StrictHostKeyChecking yes\n LogLevel ERROR\n BatchMode yes\n"
        )
        real = shutil.which("ssh")
        self.script(folder / "bin" / "ssh", f'exec {real} -F "{folder}/config" "$@"')
        monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
        Path("/run/sshd").mkdir(exist_ok=True)
        self.log = open(str(folder / "sshd.log"), "wb")
        self.process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=self.log, stdout=self.log
        )
        self.wait()

    def script(self, path, line):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def settings(self, version="8.5.2", *, misbehave="", sm="7.2", trtexec=True):
        """Set the environment in which every command over SSH runs."""
        bin_ = self.folder / "board-bin"
        bin_.mkdir(exist_ok=True)
        (bin_ / "trtexec").unlink() if (bin_ / "trtexec").is_symlink() else None
        if trtexec:
            (bin_ / "trtexec").symlink_to(STAND_IN)
        environment = (
            f"STAND_IN_TRTEXEC_VERSION={version} STAND_IN_TRTEXEC_SM={sm} STAND_IN_TRTEXEC_SCALE=2"
        )
        environment += f" STAND_IN_TRTEXEC_MISBEHAVE={misbehave}" if misbehave else ""
        path = f"{bin_}:{Path(sys.executable).parent}:/usr/bin:/bin"
        line = (
            f'env -i HOME="{self.home}" PATH="{path}" {environment} sh -c "$SSH_ORIGINAL_COMMAND"'
        )
        self.script(self.folder / "board", line)

    def knows(self, key):
        (self.folder / "known").write_text(
            f"[127.0.0.1]:{self.port} {(self.folder / f'{key}.pub').read_text()}"
        )

    def wait(self):
        for _ in range(100):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def cut(self):
        """Cut every connection; processes on the board run on."""
        subprocess.run(["pkill", "-9", "-P", str(self.process.pid)])

    def kill_build(self):
        """Kill the build and its children, as a power failure would."""
        (job,) = self.jobs
        os.killpg(os.getpgid(int((job / "pid").read_text())), signal.SIGKILL)

    @property
    def jobs(self):
        return list((self.home / ".cache" / "srdeploy" / "jobs").glob("*"))

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


@pytest.fixture()
def board(tmp_path, monkeypatch):
    if sys.platform == "win32" or not os.access(SSHD, os.X_OK) or shutil.which("ssh") is None:
        pytest.skip("OpenSSH's server and client are not installed (Debian: openssh-server)")
    made = Board(tmp_path / "ssh" if (tmp_path / "ssh").mkdir() is None else None, monkeypatch)
    monkeypatch.delenv("TRTEXEC", raising=False)
    yield made
    made.stop()


@pytest.mark.parametrize(
    "target, version, sm",
    [("xavier-jp4", "8.2.1", "7.2"), ("xavier", "8.5.2", "7.2"), ("orin", "10.3.0", "8.7")],
)
def test_an_engine_comes_back_with_its_receipts(target, version, sm, board, repeating, tmp_path):
    board.settings(version, sm=sm)
    lines = []
    graph = repeating("it's a graph", opset=13 if target == "xavier-jp4" else 17)
    (engine,) = engine_from_onnx(
        graph, tmp_path / "out dir", target=target, on="ssh://board", progress=lines.append
    )
    manifest = read_manifest(engine)
    assert manifest.versions["tensorrt"] == version and manifest.precision_obtained == "fp16"
    assert (
        manifest.checks["accuracy"]["psnr_db_vs_fp32"] > 60
        and manifest.build["latency_ms"]["runs"] > 50
    )
    assert (
        "board" in manifest.build and (tmp_path / "out dir" / f"{engine.name}.build.log").is_file()
    )
    assert (
        tmp_path / "out dir" / f".timing-{target}-{version}-sm{sm.replace('.', '')}.cache"
    ).is_file()
    assert any("Compute Capability" in line for line in lines), "the log is streamed"
    assert board.jobs == [], "nothing is left on the board"
    engine_from_onnx(
        graph, tmp_path / "out dir", target=target, on="ssh://board", progress=lines.append
    )
    assert lines[-1] == f"{engine.name}: up to date"


@pytest.mark.slow
def test_a_dropped_connection_is_resumed(board, repeating, tmp_path, monkeypatch):
    board.settings(misbehave="slow:3")
    lines = []

    def progress(line):
        lines.append(line)
        if "building" in line and "srdeploy: [1/1]" in line:
            threading.Timer(0.5, board.cut).start()

    (engine,) = engine_from_onnx(
        repeating(), tmp_path / "out", target="xavier", on="ssh://board", progress=progress
    )
    assert any("connection was lost" in line for line in lines)
    assert sum("[1/1]" in line and line.endswith("building") for line in lines) == 1, (
        "built once, no line twice"
    )
    assert "accuracy" in read_manifest(engine).checks


@pytest.mark.slow
def test_an_abandoned_build_is_resumed_by_the_same_command(board, repeating, tmp_path, monkeypatch):
    """The connection drops and cannot be restored: the client gives up, the board builds on."""
    board.settings(misbehave="slow:3")
    monkeypatch.setattr(ssh, "ATTEMPTS", 2)
    graph = repeating()

    def progress(line):
        if "srdeploy: [1/1]" in line and line.endswith("building"):
            board.knows("other")  # from here on no new connection is made
            threading.Timer(0.3, board.cut).start()

    with pytest.raises(
        BuildError, match="connection to board was lost while following the build, and 2 attempts"
    ) as e:
        engine_from_onnx(
            graph, tmp_path / "out", target="xavier", on="ssh://board", progress=progress
        )
    assert "run the same command again" in e.value.hint and len(board.jobs) == 1
    assert [p for p in (tmp_path / "out").iterdir() if "engine" in p.name] == []
    board.knows("host")
    lines = []
    (engine,) = engine_from_onnx(
        graph, tmp_path / "out", target="xavier", on="ssh://board", progress=lines.append
    )
    assert (
        lines[0].startswith("resuming the job on board: ")
        and read_manifest(engine).precision_obtained == "fp16"
    )


@pytest.mark.slow
def test_a_board_restarted_in_the_middle_builds_again(board, repeating, tmp_path):
    board.settings(misbehave="slow:3")

    def progress(line):
        if "srdeploy: [1/1]" in line and line.endswith("building"):
            board.kill_build()

    graph = repeating()
    with pytest.raises(BuildError, match="stopped without an error message"):
        engine_from_onnx(
            graph, tmp_path / "out", target="xavier", on="ssh://board", progress=progress
        )
    board.settings()
    lines = []
    engine_from_onnx(
        graph, tmp_path / "out", target="xavier", on="ssh://board", progress=lines.append
    )
    assert lines[0] == "resuming the job on board: stopped"


@pytest.mark.slow
def test_a_login_greeting_and_a_reused_pid(board, repeating, tmp_path):
    script = (board.folder / "board").read_text()
    (board.folder / "board").write_text(
        script.replace("#!/bin/sh\n", "#!/bin/sh\necho Welcome to the board\n")
    )
    graph = repeating()
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target="xavier", on="ssh://board")
    assert "accuracy" in read_manifest(engine).checks
    board.settings(misbehave="slow:30")

    def progress(line):
        if "srdeploy: [1/1]" in line and line.endswith("building"):
            board.kill_build()
            (board.jobs[0] / "pid").write_text(str(os.getpid()))

    with pytest.raises(BuildError, match="stopped without an error message"):
        engine_from_onnx(
            graph, tmp_path / "other", target="xavier", on="ssh://board", progress=progress
        )


@pytest.mark.slow
def test_two_machines_with_the_same_job_both_get_the_result(board, repeating, tmp_path):
    board.settings(misbehave="slow:2")
    graph, made = repeating(), []

    def desk(name):
        made.extend(engine_from_onnx(graph, tmp_path / name, target="xavier", on="ssh://board"))

    threads = [threading.Thread(target=desk, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(p.parent.name for p in made) == ["one", "two"]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"trtexec": False}, "no trtexec runs here; tried: trtexec"),
        ({"version": "8.6.2"}, "TensorRT 8.6.2 is installed, but the job is for >=8.5,<8.6"),
        ({"sm": "8.7"}, "compute capability 87, but the job is for 72"),
        ({"misbehave": "no-space"}, "was not built: .*for another reason than space"),
        ({"misbehave": "ignores-fp16"}, "FP16 was requested, but the engine computes in FP32"),
    ],
)
def test_problems_on_the_board_are_reported_here(settings, words, board, repeating, tmp_path):
    board.settings(**settings)
    with pytest.raises(BuildError, match=words):
        engine_from_onnx(repeating(), tmp_path / "out", target="xavier", on="ssh://board")
    assert [
        p for p in (tmp_path / "out").iterdir() if p.name.endswith((".engine", ".engine.json"))
    ] == []
    assert board.jobs == [], "the next try begins anew"


def test_a_full_disk_on_the_board(board, repeating, tmp_path):
    cache = board.home / ".cache"
    cache.mkdir()
    if (
        os.getuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(cache)]
        ).returncode
    ):
        pytest.skip("a small disk can only be mounted by root")
    try:
        with pytest.raises(
            BuildError, match="copying the job failed on board: .*No space left"
        ) as e:
            engine_from_onnx(
                repeating(hw=(128, 128)), tmp_path / "out", target="xavier", on="ssh://board"
            )
        assert "free some space" in e.value.hint
    finally:
        subprocess.run(["umount", str(cache)])


def test_a_wrong_host_key_or_a_refused_login_is_reported_and_nothing_is_sent(
    board, repeating, tmp_path
):
    graph = repeating()
    board.knows("other")
    with pytest.raises(
        BuildError, match="cannot reach ssh://board: .*[Hh]ost key verification failed"
    ) as e:
        engine_from_onnx(graph, tmp_path / "out", target="xavier", on="ssh://board")
    assert "ssh board true" in e.value.hint and board.jobs == []
    board.knows("host")
    (board.folder / "authorized").write_text("")
    with pytest.raises(BuildError, match="cannot reach ssh://board: .*Permission denied"):
        engine_from_onnx(graph, tmp_path / "out", target="xavier", on="ssh://board")
    with pytest.raises(BuildError, match="cannot reach ssh://nobody@127.0.0.1:9"):
        engine_from_onnx(graph, tmp_path / "out", target="xavier", on="ssh://nobody@127.0.0.1:9")


def test_targets_that_are_not_built_by_trtexec(any_graph, tmp_path):
    with pytest.raises(BuildError, match="engines of 'cpu' are not built by trtexec"):
        engine_from_onnx(any_graph(), tmp_path / "out", target="cpu", on="ssh://board")
