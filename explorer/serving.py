"""How is the page served? One place for the server's settings, the port, and the browser.

Starts the server as a process of its own and imports neither Streamlit nor torch.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path

from explorer.errors import ServerError

DEFAULT_PORT = 8501
PORTS_TRIED = 20
SETTINGS: dict[str, str] = {
    "browser.gatherUsageStats": "false",
    "client.showErrorLinks": "false",
    "client.showSidebarNavigation": "false",
    "client.toolbarMode": "minimal",
    "runner.magicEnabled": "false",
    "runner.postScriptGC": "false",
    "server.fileWatcherType": "none",
    "server.headless": "true",
    "theme.font": "sans-serif",
    "theme.light.primaryColor": "#1f5fae",
    "theme.dark.primaryColor": "#6ea8f0",
}
"""What the product needs of Streamlit; `.streamlit/config.toml` says the same, with the reason for each key."""


MEMORY = {"ARROW_DEFAULT_MEMORY_POOL": "system"}
"""Arrow's own allocator keeps what it once had: 30 bytes a point of a large run."""


def free_port(asked: int | None, host: str) -> int:
    """The port to serve on: the one asked for, or the first free one from 8501 on.

    Raises:
        ServerError: the port that was asked for is taken, or none is free.
    """
    candidates = [asked] if asked is not None else list(range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED))
    for port in candidates:
        if _is_free(port, host):
            return port
    found = f"port {asked} is in use" if asked is not None else f"ports {candidates[0]} to {candidates[-1]} are in use"
    raise ServerError(f"Expected a free port on {host}; found that {found}. Choose another with --port.")


def serve(
    root: Path, run: str | None, *, port: int | None = None, host: str = "127.0.0.1", browser: bool = True
) -> int:
    """Serve the page in the foreground until interrupted; returns the server's exit code. The address is printed.

    Raises:
        ServerError: the port is taken.
    """
    chosen = free_port(port, host)
    shown = "localhost" if host in ("127.0.0.1", "0.0.0.0") else host  # noqa: S104 - only compared
    url = f"http://{shown}:{chosen}/" + (f"?run={run}" if run else "")
    process = _start(root, chosen, host)
    threading.Thread(target=_announce, args=(process, chosen, url, browser), daemon=True).start()
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        return process.wait()


def _start(root: Path, port: int, host: str) -> subprocess.Popen[bytes]:
    script = Path(__file__).parent / "ui" / "server.py"
    settings = {**SETTINGS, "server.port": str(port), "server.address": host}
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "streamlit", "run", str(script), *flags],
        env={**MEMORY, **os.environ, "EXPLORER_RUNS": str(root)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def _announce(process: subprocess.Popen[bytes], port: int, url: str, browser: bool) -> None:
    health = f"http://127.0.0.1:{port}/_stcore/health"
    while process.poll() is None:
        try:
            with urllib.request.urlopen(health, timeout=1):
                break
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    else:
        return
    sys.stdout.write(f"Influence Explorer is open at {url}  (Ctrl-C stops it; jobs go on)\n")
    sys.stdout.flush()
    if browser:
        webbrowser.open(url)


def _is_free(port: int, host: str) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            return False
    return True
