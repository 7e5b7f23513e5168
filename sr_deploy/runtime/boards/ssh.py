"""Builds jobs on a board over SSH, with the user's OpenSSH configuration and the board's trtexec.

The job goes to ~/.cache/srdeploy/jobs/ID on the board, where `build.sh` runs detached from the
connection. After a dropped connection it is resumed, now or by the same command later: ID is the
job's identity.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Callable, Iterator, List, Optional, Sequence
from urllib.parse import urlsplit

from sr_deploy.core.errors import BuildError, InputError
from sr_deploy.core.files import sha256_of
from sr_deploy.runtime.boards.job import BoardJob, Progress

ATTEMPTS = 6
"""Reconnection attempts in a row without progress. The pause starts at one second and doubles."""
_ALIVE = ("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")
_ERROR = "srdeploy: error: "
_GONE = 4
_RUN_AGAIN = "run the same command again"
_LOST = 255
"""ssh's own exit code; any other is the remote command's."""

# Separates a login's greeting from our output. A live pid may belong to another process by now.
_BEGINS = b"srdeploy begins\n"
_HEAD = """alive() {
  pid=$(cat "$job/pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null || return 1
  [ ! -r "/proc/$pid/cmdline" ] || tr '\\0' ' ' < "/proc/$pid/cmdline" | grep -qF build.sh
}
echo srdeploy begins"""
# Prints the job's state, `stopped` when its process is gone, `ready` before it starts, or nothing
# when there is no job.
_STATE = """[ -d "$job" ] || exit 0
if [ ! -s "$job/state" ]; then alive && echo running || echo ready
else
  read -r word rest < "$job/state"
  if [ "$word" = running ] && ! alive; then echo stopped; else echo "$word"; fi
fi"""
# Another machine may be sending the same job.
_RECEIVE = """mkdir -p "$jobs" && new="$job.new.$$" && rm -rf "$new" && mkdir "$new" &&
tar -xf - -C "$new" || exit 1
if [ -d "$job" ]; then rm -rf "$new"; else mv "$new" "$job"; fi"""
_START = """cd "$job" || exit 4
if ! mkdir starting 2>/dev/null; then sleep 2; alive && exit 0; fi
alive || { : > log; rm -f state; detach=$(command -v setsid || true)
nohup $detach sh ./build.sh >> log 2>&1 < /dev/null & echo $! > pid; }
rmdir starting 2>/dev/null || true"""
# Prints the log from byte $from on until the job ends. Exit code 3: its process is gone, but
# `state` has no end.
_FOLLOW = """cd "$job" || exit 4
gone=
while :; do
  [ -f log ] || exit 4 # another machine has taken the result
  word= && read -r word rest 2>/dev/null < state
  size=$(wc -c 2>/dev/null < log) && size=$((size)) || exit 4
  if [ "$size" -gt "$from" ]; then
    tail -c "+$((from + 1))" log | head -c "$((size - from))"
    from=$size
    continue
  fi
  case $word in done|failed) exit 0;; esac
  if ! alive; then
    [ -z "$gone" ] || exit 3
    gone=1 # one more pass, for the end of its log
    continue
  fi
  sleep 1
done"""
_SEND = 'cd "$job" || exit 4; [ -f result.tar ] && tail -c "+$((from + 1))" result.tar'
_REMOVE = 'rm -rf "$job"'
_CHECKSUM = 'cd "$job" || exit 4; sha256sum result.tar'


@dataclass(frozen=True)
class BoardAddress:
    """A parsed `ssh://user@host:port`. The host may be an alias in the user's ssh configuration."""

    url: str
    host: str
    user: Optional[str] = None
    port: Optional[int] = None

    @property
    def ssh_arguments(self) -> List[str]:
        port = ["-p", str(self.port)] if self.port else []
        return [*port, "--", f"{self.user}@{self.host}" if self.user else self.host]


def parse_board(url: str) -> BoardAddress:
    """Parse `ssh://[user@]host[:port]`. Raises InputError."""
    message = f"invalid board address '{url}'; expected ssh://user@host or ssh://user@host:port"
    try:
        parts = urlsplit(url)
        port, host, user, password = parts.port, parts.hostname, parts.username, parts.password
    except ValueError as e:
        raise InputError(message) from e
    rest = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme != "ssh" or not host or rest or password:
        hint = "omit the password: ssh asks for it" if password else ""
        raise InputError(message, hint=hint)
    # urlsplit returns it in lower case, but an alias may have capitals.
    original = re.search(re.escape(host), url, re.IGNORECASE)
    host = original.group() if original else host
    if host.startswith("-") or (user or "").startswith("-"):
        raise InputError(message)
    return BoardAddress(url, host, user, port)


def result_from_board(board: BoardAddress, job: BoardJob, result: Path, progress: Progress) -> None:
    """Run a job on the board and copy its `result.tar` to `result`.

    progress: receives each line of the log. Raises BuildError when the board cannot be reached or
    has no space, or when the job died. A started job keeps running, and the same call resumes it.
    """
    if shutil.which("ssh") is None:
        hint = "install OpenSSH's client, or carry the job over with --bundle FILE.tar"
        raise BuildError("there is no ssh on this machine", hint=hint)
    with tempfile.TemporaryDirectory(prefix="srd-") as folder:
        _Connection(board, job, Path(folder), progress).run(result)


class _JobGoneError(BuildError):
    pass


class _Connection:
    """The calls to one board for one job. folder: a temporary folder for sockets and errors."""

    def __init__(
        self, board: BoardAddress, job: BoardJob, folder: Path, progress: Progress
    ) -> None:
        self._board, self._job, self._progress = board, job, progress
        self._errors = folder / "errors"
        self._build_error = ""
        """The last error that build.sh logged."""
        shared: Sequence[str] = ()
        if os.name == "posix":  # one connection for all calls, so that a password is asked for once
            options = ("ControlMaster=auto", f"ControlPath={folder}/%C", "ControlPersist=20")
            shared = [word for option in options for word in ("-o", option)]
        self._ssh = ["ssh", *_ALIVE, *shared, *board.ssh_arguments]

    def run(self, result: Path) -> None:
        self._check_reachable()
        try:
            self._attempt(result)
        except _JobGoneError:
            self._progress("another machine has taken the result of this job; trying again")
            self._attempt(result)

    def _attempt(self, result: Path) -> None:
        state = self._output_of(_STATE)
        if state:
            self._progress(f"resuming the job on {self._board.host}: {state}")
        else:
            self._upload()
        if state in ("", "ready", "stopped"):
            self._output_of(_START)
        self._follow()
        if self._output_of('cd "$job" || exit 4; [ ! -f result.tar ] || echo yes'):
            self._fetch(result)
            self._output_of(_REMOVE)
        else:
            self._output_of(_REMOVE)
            reason = self._build_error or "its build.sh gave no reason"
            problem = f"nothing was built on {self._board.host}: {reason}"
            raise BuildError(problem, hint=self._advice())

    def _check_reachable(self) -> None:
        """Connect once, without a second attempt: the address may simply be wrong."""
        with self._start("true") as process:
            _stdout(process).read()
        if process.returncode == _LOST:
            words = [shlex.quote(w) for w in self._board.ssh_arguments if w != "--"]
            hint = f"see whether this works: ssh {' '.join(words)} true"
            raise BuildError(f"cannot reach {self._board.url}: {self._reason()}", hint=hint)

    def _upload(self) -> None:
        with tempfile.TemporaryFile() as tar:
            with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for path in sorted(self._job.folder.iterdir()):
                    archive.add(str(path), arcname=path.name)
            self._progress(f"copying {tar.tell() / 2**20:.1f} MiB to {self._board.host}")

            def send() -> int:
                tar.seek(0)
                with self._start(_RECEIVE, stdin=tar) as process:
                    _stdout(process).read()
                return process.returncode

            self._retry(send, "copying the job")

    def _follow(self) -> None:
        """Stream the job's log to its end. A new connection continues at the byte reached."""
        reached = 0
        line = b""

        def follow() -> int:
            nonlocal reached, line
            with self._start(_FOLLOW, reached) as process:
                stdout = _stdout(process)
                for chunk in iter(lambda: stdout.read1(65536), b""):
                    reached += len(chunk)
                    *lines, line = (line + chunk).split(b"\n")
                    for text in lines:
                        self._log(text.decode(errors="replace"))
            return process.returncode

        code = self._retry(follow, "following the build", progress=lambda: reached, allowed=(3,))
        if code == 3 and not self._build_error:
            raise BuildError(
                f"the build on {self._board.host} stopped without an error message: the board "
                "may have restarted or run out of memory",
                hint="run the same command again: finished engines are kept",
            )

    def _log(self, line: str) -> None:
        if line.startswith(_ERROR):
            self._build_error = line[len(_ERROR) :]
        self._progress(line)

    def _fetch(self, result: Path) -> None:
        with open(result, "wb") as f:

            def fetch() -> int:
                with self._start(_SEND, f.tell()) as process:
                    shutil.copyfileobj(_stdout(process), f)
                    f.flush()
                return process.returncode

            self._retry(fetch, "copying the result back", progress=f.tell)
        if sha256_of(result) != self._output_of(_CHECKSUM).split()[0]:
            problem = f"the result was damaged while it was copied from {self._board.host}"
            raise BuildError(problem, hint=_RUN_AGAIN)

    def _output_of(self, script: str) -> str:
        output = ""

        def call() -> int:
            nonlocal output
            with self._start(script) as process:
                output = _stdout(process).read().decode(errors="replace")
            return process.returncode

        self._retry(call, "talking to the board")
        return output.strip()

    def _retry(
        self,
        call: Callable[[], int],
        doing: str,
        *,
        progress: Callable[[], int] = lambda: 0,
        allowed: Sequence[int] = (),
    ) -> int:
        """Call until the connection holds, and return the exit code.

        progress: a number that grows with progress, which resets the count of attempts. allowed:
        exit codes that are no failure, besides 0. Raises BuildError.
        """
        host, failures, before = self._board.host, 0, progress()
        while True:
            code = call()
            if code in (0, *allowed):
                return code
            if code == _GONE:
                raise _JobGoneError(f"the job was removed from {host}", hint=_RUN_AGAIN)
            if code != _LOST:
                reason = self._reason() or f"exit code {code}"
                raise BuildError(f"{doing} failed on {host}: {reason}", hint=self._advice())
            failures = 1 if progress() > before else failures + 1
            before = progress()
            if failures >= ATTEMPTS:
                raise BuildError(
                    f"the connection to {host} was lost while {doing}, and {ATTEMPTS} attempts to "
                    f"reconnect failed: {self._reason()}",
                    hint="a started job keeps running: run the same command again to resume it",
                )
            self._progress(
                f"the connection was lost while {doing}; the job keeps running; trying again"
            )
            time.sleep(2 ** (failures - 1))

    @contextlib.contextmanager
    def _start(
        self, script: str, start: int = 0, *, stdin: Optional[IO[bytes]] = None
    ) -> Iterator[subprocess.Popen]:
        """Start a script on the board. No file name goes through a shell; the ID is hex digits."""
        jobs = "${XDG_CACHE_HOME:-$HOME/.cache}/srdeploy/jobs"
        variables = f'jobs="{jobs}"; job="$jobs/{self._job.identity}"; from={start}'
        with open(self._errors, "wb") as errors:
            process = subprocess.Popen(
                [*self._ssh, "sh -c " + shlex.quote(f"{variables}\n{_HEAD}\n{script}")],
                stdin=stdin or subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        with process:
            try:
                while _stdout(process).readline() not in (_BEGINS, b""):
                    pass
                yield process
            except BaseException:  # Ctrl-C, SIGTERM: the job on the board keeps running
                process.kill()
                raise

    def _reason(self) -> str:
        lines = self._errors.read_text(errors="replace").splitlines()
        return "; ".join([line.strip() for line in lines if line.strip(" @\r")][-4:])

    def _advice(self) -> str:
        return "free some space there" if "No space left" in self._reason() else ""


def _stdout(process: subprocess.Popen) -> io.BufferedReader:
    assert isinstance(process.stdout, io.BufferedReader)
    return process.stdout
