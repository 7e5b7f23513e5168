"""Runs a graph in a process of its own, since ONNX Runtime crashes at some sizes.

A graph that computes its windows from the size of the image, with less than one window, has ended
the process by SIGFPE.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from sr_deploy.core.lifeline import signal_name
from sr_deploy.core.onnx_file import onnx_facts

RunGraph = Callable[[str, Dict[str, np.ndarray], float], np.ndarray]
"""Returns the named output for an input, within seconds. Raises GraphRunError."""
_RISKY = {"Div", "Mod", "If", "Loop", "Scan"}
"""Operators by which graphs compute with sizes, or choose by them."""
_CHILD = (
    "import json, sys; path, folders = json.loads(sys.argv[1]); sys.path[:] = folders; "
    "from sr_deploy.runtime.graph_child import main; main(path)"
)


class GraphRunError(Exception):
    """A run failed; the text tells why."""


def may_crash(path: Path) -> bool:
    """Return whether a graph should be run in a process of its own where its sizes are unknown."""
    return bool(_RISKY & set(onnx_facts(path).operators))


class GraphChild:
    """A process that runs a graph. One that ends is started again by the next run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._child: Optional[subprocess.Popen[bytes]] = None

    def __enter__(self) -> GraphChild:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end()

    def run(self, output: str, inputs: Dict[str, np.ndarray], limit_s: float) -> np.ndarray:
        """Return an output for an input. Raises GraphRunError where it fails or takes too long."""
        child = self._child or self._start()
        timer = threading.Timer(limit_s, child.kill)
        timer.daemon = True
        timer.start()
        try:
            assert child.stdin is not None and child.stdout is not None
            ((name, x),) = inputs.items()
            _send(child.stdin, json.dumps([output, name]).encode(), _bytes_of(x))
            failure, content = _receive(child.stdout)
        except (OSError, EOFError):
            code = self._end()
            how = f"ended by {signal_name(-code)}" if code < 0 else f"exited with {code}"
            raise GraphRunError(f"onnxruntime crashed: its process {how}") from None
        finally:
            timer.cancel()
        if failure:
            raise GraphRunError(failure.decode("utf-8", "replace"))
        return _array_of(content)

    def _start(self) -> subprocess.Popen[bytes]:
        request = json.dumps([os.fspath(self._path), sys.path])
        self._child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, request], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self._child

    def _end(self) -> int:
        """End the process; return its exit code, negative for a signal that ended it."""
        child, self._child = self._child, None
        if child is None:
            return 0
        with contextlib.suppress(OSError), child:
            assert child.stdin is not None
            child.stdin.close()  # it exits
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(1)
            child.kill()
        return child.returncode


def main(path: str) -> None:
    """Serve runs of a graph on standard input and output, until the input ends."""
    from sr_deploy.runtime.graph_probe import bounded_memory
    from sr_deploy.runtime.ort import raw_session

    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print
    with bounded_memory(Path(path)):
        session = raw_session(path)
        with contextlib.suppress(EOFError):
            while True:
                names, x = _receive(sys.stdin.buffer)
                _send(results, *_answer(session, json.loads(names), _array_of(x)))


def _answer(session: Any, names: List[str], x: np.ndarray) -> Tuple[bytes, bytes]:
    """Return why a run failed, or nothing and its output."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4  # failures are expected
    output, name = names
    try:
        return b"", _bytes_of(session.run([output], {name: x}, options)[0])
    except Exception as e:  # onnxruntime raises its own kinds, which share no base class
        return (str(e) or type(e).__name__).encode("utf-8", "replace"), b""


def _send(stream: IO[bytes], *parts: bytes) -> None:
    for part in parts:
        stream.write(len(part).to_bytes(8, "little") + part)
    stream.flush()


def _receive(stream: IO[bytes]) -> Tuple[bytes, bytes]:
    """Return the two parts of a message. Raises EOFError at the end of the stream."""
    first, second = (_read(stream, int.from_bytes(_read(stream, 8), "little")) for _ in range(2))
    return first, second


def _read(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return content


def _bytes_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _array_of(content: bytes) -> np.ndarray:
    array: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    return array
