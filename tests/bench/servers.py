"""Which servers are measured? The product's own, as `explorer open` starts it, and the floor with the same settings."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from explorer.serving import SETTINGS
from tests.ui.chromium import free_port

START_S = 60
STOP_S = 10


class BenchError(Exception):
    """Something did not work, so there is no time to report."""


@dataclass(frozen=True)
class Server:
    """A server that answers: its address, without a slash at the end, and its process."""

    address: str
    process: psutil.Process

    def memory(self) -> int:
        """Resident memory in bytes."""
        return int(self.process.memory_info().rss)


@contextmanager
def product(run: Path) -> Iterator[Server]:
    """`explorer open RUN`; every run of the same folder can be visited."""
    port = free_port()
    command = [sys.executable, "-P", "-m", "explorer", "open", str(run), "--no-browser", "--port", str(port)]
    with _serving(command, port) as server:
        yield server


@contextmanager
def floor() -> Iterator[Server]:
    """The empty fragment, served as the product is."""
    port = free_port()
    settings = {**SETTINGS, "server.port": str(port), "server.address": "127.0.0.1"}
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    script = Path(__file__).with_name("floor.py")
    with _serving([sys.executable, "-P", "-m", "streamlit", "run", str(script), *flags], port) as server:
        yield server


@contextmanager
def _serving(command: Sequence[str], port: int) -> Iterator[Server]:
    with tempfile.TemporaryFile("w+") as log:
        started = psutil.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=os.environ)
        try:
            address = f"http://localhost:{port}"
            _wait(address, started, log)
            yield Server(address, _listener(started))
        finally:
            family = [*started.children(recursive=True), started] if started.is_running() else []
            for one in family:
                one.terminate()
            for one in psutil.wait_procs(family, timeout=STOP_S)[1]:
                one.kill()
            started.wait()


def _wait(address: str, process: psutil.Popen, log: IO[str]) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=1) as answer:
                if answer.read() == b"ok":
                    return
        except OSError:
            time.sleep(0.05)
    log.seek(0)
    raise BenchError(f"Expected a server at {address} within {START_S} s; found none. It printed:\n{log.read()}")


def _listener(started: psutil.Process) -> psutil.Process:
    """The process that runs Streamlit: the one started, or a child of it."""
    for one in [started, *started.children(recursive=True)]:
        if "streamlit" in one.cmdline():
            return one
    raise BenchError("Expected a process that runs Streamlit; found none. Has `explorer open` changed?")
