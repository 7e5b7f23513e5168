"""A job built on a board from the desk: by OpenSSH, as the user has configured it, and the board's own trtexec.

The job goes to ~/.cache/srdeploy/jobs/ID on the board, where `build.sh` runs detached from the connection: one that drops is
taken up again, now or by the same command later (ID follows from the job's files).
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Callable, Iterator, List, Optional
from urllib.parse import urlsplit

from sr_deploy.core.errors import BuildError, InputError
from sr_deploy.core.files import sha256_of

ATTEMPTS = 6
"""How often in a row a dropped connection is tried again without any progress; the pause doubles from one second."""
_ALIVE = ("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")
_ERROR = "srdeploy: error: "
_GONE = 4
_LOST = 255
"""ssh's own exit code; any other is the remote command's."""

# What a login prints before it is told apart by a line of ours. A pid that is still there may be another process's by now.
_BEGINS = b"srdeploy begins\n"
_HEAD = """alive() {
  pid=$(cat "$job/pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null || return 1
  [ ! -r "/proc/$pid/cmdline" ] || tr '\\0' ' ' < "/proc/$pid/cmdline" | grep -qF build.sh
}
echo srdeploy begins"""
# Prints what the job is doing: its state, `stopped` when its process is gone, `ready` before it began, nothing where there is none.
_STATE = """[ -d "$job" ] || exit 0
if [ ! -s "$job/state" ]; then alive && echo running || echo ready
else
  read -r word rest < "$job/state"
  if [ "$word" = running ] && ! alive; then echo stopped; else echo "$word"; fi
fi"""
# Another desk may be sending the same job.
_RECEIVE = """mkdir -p "$jobs" && new="$job.new.$$" && rm -rf "$new" && mkdir "$new" && tar -xf - -C "$new" || exit 1
if [ -d "$job" ]; then rm -rf "$new"; else mv "$new" "$job"; fi"""
_START = """cd "$job" || exit 4
if ! mkdir starting 2>/dev/null; then sleep 2; alive && exit 0; fi
alive || { : > log; rm -f state; detach=$(command -v setsid || true)
nohup $detach sh ./build.sh >> log 2>&1 < /dev/null & echo $! > pid; }
rmdir starting 2>/dev/null || true"""
# Prints the log from byte $from on until the job has ended; 3 when its process is gone without having said so in `state`.
_FOLLOW = """cd "$job" || exit 4
gone=
while :; do
  [ -f log ] || exit 4 # another desk has taken the result
  word= && read -r word rest 2>/dev/null < state
  size=$(wc -c 2>/dev/null < log) && size=$((size)) || exit 4
  if [ "$size" -gt "$from" ]; then tail -c "+$((from + 1))" log | head -c "$((size - from))"; from=$size; continue; fi
  case $word in done|failed) exit 0;; esac
  if ! alive; then
    [ -z "$gone" ] || exit 3
    gone=1 # once more round: its last words
    continue
  fi
  sleep 1
done"""
_SEND = 'cd "$job" || exit 4; [ -f result.tar ] && tail -c "+$((from + 1))" result.tar'
_REMOVE = 'rm -rf "$job"'
_CHECKSUM = 'cd "$job" || exit 4; sha256sum result.tar'


@dataclass(frozen=True)
class Board:
    """Where `ssh://user@host:port` points. The host may be an alias of the user's ssh configuration."""

    url: str
    host: str
    user: Optional[str] = None
    port: Optional[int] = None

    @property
    def words(self) -> List[str]:
        """What `ssh` is given to reach it."""
        return [
            *(["-p", str(self.port)] if self.port else []),
            "--",
            f"{self.user}@{self.host}" if self.user else self.host,
        ]


def parse_board(url: str) -> Board:
    """Read `ssh://[user@]host[:port]`. Raises InputError."""
    expected = f"'{url}' is no address of a board; expected ssh://user@host or ssh://user@host:port"
    try:
        parts = urlsplit(url)
        port, host, user = parts.port, parts.hostname, parts.username
    except ValueError as e:
        raise InputError(expected) from e
    if (
        parts.scheme != "ssh"
        or not host
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
        or parts.password
    ):
        raise InputError(
            expected,
            hint="a password does not belong there: ssh asks for it" if parts.password else "",
        )
    written = re.search(
        re.escape(host), url, re.IGNORECASE
    )  # urlsplit lowers it, and an alias may have capitals
    host = written.group() if written else host
    if host.startswith("-") or (user or "").startswith("-"):
        raise InputError(expected)
    return Board(url, host, user, port)


def result_from_board(
    board: Board, job: Path, identity: str, result: Path, *, say: Callable[[str], None]
) -> None:
    """Run the job folder `job` on the board, passing its log to `say`, and bring its `result.tar` back as `result`.

    Raises BuildError when the board cannot be reached, has no room, or the job died; what had begun over there goes on, and
    the same call picks it up.
    """
    if shutil.which("ssh") is None:
        raise BuildError(
            "there is no ssh on this machine",
            hint="install OpenSSH's client, or carry the job over with --bundle FILE.tar",
        )
    with tempfile.TemporaryDirectory(prefix="srd-") as folder:
        _Connection(board, identity, Path(folder), say).run(job, result)


class _GoneError(BuildError):
    pass


class _Connection:
    def __init__(
        self, board: Board, identity: str, folder: Path, say: Callable[[str], None]
    ) -> None:
        self._board, self._identity, self._say, self._errors = (
            board,
            identity,
            say,
            folder / "errors",
        )
        self._said = ""  # the reason build.sh gave for ending
        # One connection for all the calls, so that a password is asked for once. OpenSSH for Windows has none of this.
        shared = (
            (
                "-o",
                "ControlMaster=auto",
                "-o",
                f"ControlPath={folder}/%C",
                "-o",
                "ControlPersist=20",
            )
            if os.name == "posix"
            else ()
        )
        self._ssh = ["ssh", *_ALIVE, *shared, *board.words]

    def run(self, job: Path, result: Path) -> None:
        self._text("true", first=True)
        for last in (False, True):
            try:
                return self._attempt(job, result)
            except _GoneError:
                if last:
                    raise
                self._say(
                    "the job is gone from the board: another desk has taken its result; once again"
                )

    def _attempt(self, job: Path, result: Path) -> None:
        state = self._text(_STATE)
        if state:
            self._say(f"picking up the job on {self._board.host}: {state}")
        else:
            self._upload(job)
        if state in ("", "ready", "stopped"):
            self._text(_START)
        self._follow()
        if self._text('cd "$job" || exit 4; [ ! -f result.tar ] || echo yes'):
            self._fetch(result)
            self._text(_REMOVE)
        else:
            self._text(_REMOVE)
            raise BuildError(
                f"nothing was built on {self._board.host}: {self._said or 'its build.sh gave no reason'}",
                hint=self._advice(),
            )

    def _upload(self, job: Path) -> None:
        with tempfile.TemporaryFile() as tar:
            _write_tar(job, tar)
            self._say(f"copying {tar.tell() / 2**20:.1f} MiB to {self._board.host}")

            def send() -> int:
                tar.seek(0)
                return self._call(_RECEIVE, stdin=tar)

            self._again(send, "copying the job")

    def _follow(self) -> None:
        """Stream the job's log to its end; a connection that drops goes on at the byte it had reached."""
        reached = 0
        line = b""

        def follow() -> int:
            nonlocal reached, line
            with self._started(_FOLLOW, reached) as process:
                assert process.stdout is not None
                for chunk in iter(lambda: process.stdout.read1(65536), b""):  # type: ignore[union-attr]
                    reached += len(chunk)
                    *whole, line = (line + chunk).split(b"\n")
                    for text in whole:
                        self._heard(text.decode(errors="replace"))
            return process.returncode

        code = self._again(follow, "following the build", progress=lambda: reached, allowed=(3,))
        if code == 3 and not self._said:
            raise BuildError(
                f"the build on {self._board.host} stopped without a last word: was the board restarted, or out of memory?",
                hint="run the same command again: what was finished is kept",
            )

    def _heard(self, text: str) -> None:
        self._said = text[len(_ERROR) :] if text.startswith(_ERROR) else self._said
        self._say(text)

    def _fetch(self, result: Path) -> None:
        with open(result, "wb") as f:

            def fetch() -> int:
                with self._started(_SEND, f.tell()) as process:
                    shutil.copyfileobj(process.stdout, f)  # type: ignore[arg-type]
                    f.flush()
                return process.returncode

            self._again(fetch, "bringing the result back", progress=f.tell)
        expected = self._text(_CHECKSUM).split()[0]
        if sha256_of(result) != expected:
            raise BuildError(
                f"the result was damaged on its way from {self._board.host}",
                hint="run the same command again",
            )

    def _text(self, script: str, *, first: bool = False) -> str:
        """Return what a command prints. The very first one is not tried again: an address may simply be wrong."""
        output = ""

        def call() -> int:
            nonlocal output
            with self._started(script) as process:
                assert process.stdout is not None
                output = process.stdout.read().decode(errors="replace")
            return process.returncode

        if first:
            if call() == _LOST:
                plain = " ".join(["ssh", *(shlex.quote(w) for w in self._board.words if w != "--")])
                raise BuildError(
                    f"cannot reach {self._board.url}: {self._why()}",
                    hint=f"see whether this works: {plain} true",
                )
        else:
            self._again(call, "talking to the board")
        return output.strip()

    def _again(
        self,
        call: Callable[[], int],
        doing: str,
        *,
        progress: Callable[[], int] = lambda: 0,
        allowed: tuple = (),
    ) -> int:
        """Call until it ends otherwise than by a lost connection. Raises BuildError when it fails, or stays lost."""
        failures, before = 0, progress()
        while True:
            code = call()
            if code in (0, *allowed):
                return code
            if code == _GONE:
                raise _GoneError(
                    f"the job is gone from {self._board.host}: was it removed there?",
                    hint="run the same command again",
                )
            if code != _LOST:
                raise BuildError(
                    f"{doing} failed on {self._board.host}: {self._why() or f'exit code {code}'}",
                    hint=self._advice(),
                )
            failures = 1 if progress() > before else failures + 1
            before = progress()
            if failures >= ATTEMPTS:
                lost = f"the connection to {self._board.host} was lost while {doing}"
                raise BuildError(
                    f"{lost}, and {ATTEMPTS} attempts to take it up failed: {self._why()}",
                    hint="what was started goes on over there: run the same command again to pick it up",
                )
            self._say(
                f"the connection was lost while {doing}; what was started goes on over there; trying again"
            )
            time.sleep(2 ** (failures - 1))

    def _call(self, script: str, *, stdin: IO[bytes]) -> int:
        with self._started(script, stdin=stdin) as process:
            assert process.stdout is not None
            process.stdout.read()
        return process.returncode

    @contextlib.contextmanager
    def _started(
        self, script: str, start: int = 0, *, stdin: Optional[IO[bytes]] = None
    ) -> Iterator[subprocess.Popen]:
        """Start a script on the board. ID is of hex digits, and no name of a file goes through a shell."""
        head = f'jobs="${{XDG_CACHE_HOME:-$HOME/.cache}}/srdeploy/jobs"; job="$jobs/{self._identity}"; from={start}\n{_HEAD}\n'
        with open(self._errors, "wb") as errors:
            process = subprocess.Popen(
                [*self._ssh, "sh -c " + shlex.quote(head + script)],
                stdin=stdin or subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        with process:
            try:
                assert process.stdout is not None
                while process.stdout.readline() not in (_BEGINS, b""):  # the greeting of a login
                    pass
                yield process
            except BaseException:  # Ctrl-C, SIGTERM: what runs on the board goes on
                process.kill()
                raise

    def _why(self) -> str:
        lines = [
            line
            for line in self._errors.read_text(errors="replace").splitlines()
            if line.strip(" @\r")
        ]
        return (
            lines[-1].strip() if len(lines) == 1 else "; ".join(line.strip() for line in lines[-4:])
        )

    def _advice(self) -> str:
        return "free some space there" if "No space left" in self._why() else ""


def _write_tar(job: Path, tar: IO[bytes]) -> None:
    import tarfile

    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(job.iterdir()):
            archive.add(str(path), arcname=path.name)
