"""A real browser and a real server for the tests of the screen.

Without Chromium (or Playwright) such tests are skipped with that reason; on CI they fail instead, so that nobody
mistakes a missing browser for a passing test.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

EXECUTABLE = "/usr/bin/chromium"
REPOSITORY = Path(__file__).resolve().parents[2]
QUIET = ("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking")
QUIET += ("--disable-component-update", "--disable-sync")
SOFTWARE_GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
SOFTWARE_GL += ("--disable-gpu-compositing",)
"""WebGL2 in software, pages put together without it: what Chromium does by itself on a machine without a graphics card.
Without the last flag every frame of every page goes through the one thread of the GPU process as well."""
NO_WEBGL = ("--disable-gpu", "--disable-3d-apis", "--disable-webgl", "--disable-webgl2")
START_S = 60
STOP_S = 10


def unavailable(reason: str) -> None:
    """Skip the test with its reason; on CI, fail."""
    if os.environ.get("CI"):
        pytest.fail(f"The browser tests must run on CI, but {reason}")
    pytest.skip(reason)


_playwright: list[Playwright] = []
"""The one Playwright of this process: it cannot be started twice."""


@contextmanager
def _started() -> Iterator[Playwright]:
    if _playwright:
        yield _playwright[0]
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        _playwright.append(playwright)
        try:
            yield playwright
        finally:
            _playwright.clear()


@contextmanager
def open_browser(gl: Sequence[str] = SOFTWARE_GL) -> Iterator[Browser]:
    """Chromium, headless, with WebGL2 in software (or `NO_WEBGL`)."""
    if importlib.util.find_spec("playwright") is None:
        unavailable("Playwright is not installed (pip install playwright).")
    if not Path(EXECUTABLE).exists():
        unavailable(f"there is no Chromium at {EXECUTABLE} (apt-get install chromium).")
    with _started() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=[*QUIET, *gl])
        try:
            yield browser
        finally:
            browser.close()


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


@contextmanager
def serve(script: Path, *, env: Mapping[str, str] | None = None, args: Sequence[str] = ()) -> Iterator[str]:
    """`streamlit run script` on a free port; yields its URL without a slash at the end. What it printed is shown
    if it does not start."""
    port = free_port()
    settings = {
        "server.port": port,
        "server.address": "127.0.0.1",
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
    }
    command = [sys.executable, "-m", "streamlit", "run", str(script)]
    command += [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, *args],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **(env or {})},
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_healthy(url, process, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: object) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1) as answer:
                if answer.read() == b"ok":
                    return
        except OSError:
            time.sleep(0.1)
    log.seek(0)  # type: ignore[attr-defined]
    pytest.fail(f"The server at {url} did not start within {START_S} s. It printed:\n{log.read()}")  # type: ignore[attr-defined]
