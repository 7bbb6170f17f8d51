"""How does a job live on its own? Start it, ask it to stop, find it again; one worker a run, whoever starts it.

The worker is `python -m explorer work RUN` in its own session: it survives the page, the server and the terminal.
A lock on the run directory, freed by the system when the worker dies however it dies, admits one worker at a time.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from explorer.errors import Cancelled, ExplorerError, StorageError
from explorer.jobs.further import pending
from explorer.jobs.state import JobState, StateWriter, process_born, read_state, timings_of
from explorer.store import Run, write_bytes, write_json
from explorer.store.files import clear_leftovers, storage_error

WAIT = {"GOMP_SPINCOUNT": "10000"}
"""How long torch's threads spin before they sleep: by default they stall on busy cores (a step takes minutes), without
spinning they are half as fast again on idle ones."""
_children: list[subprocess.Popen[bytes]] = []
"""Workers started here: kept so that the dead ones are reaped at the next start and the living ones left alone."""
_children_lock = threading.Lock()


def start(run: Run) -> JobState:
    """See that a worker is at the run, and return its state; a run that is being worked on, or done with nothing asked of it
    since, is left alone."""
    state = read_state(run.path)
    if state.active or (state.state == "done" and not pending(run)):
        return state
    return launch(run.path, "work")


def launch(path: Path, command: str) -> JobState:
    """Start the worker of a folder, `python -m explorer COMMAND FOLDER` in its own session, and return its state."""
    (path / "cancel").unlink(missing_ok=True)
    try:
        log = (path / "log").open("ab")
    except OSError as error:
        raise storage_error(error, path / "log") from error
    with log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "explorer", command, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**WAIT, **os.environ},
        )
    with _children_lock:
        _children[:] = [child for child in _children if child.poll() is None] + [process]
    now = time.time()
    launched = JobState("queued", pid=process.pid, born=process_born(process.pid) or now, started=now, updated=now)
    write_json(path / "launch.json", asdict(launched))
    return read_state(path)


def cancel(run: Run) -> None:
    """Ask the worker to stop at the next block; what is written stays, and `start` goes on from there."""
    cancel_at(run.path)


def cancel_at(path: Path) -> None:
    """As `cancel`, of the worker of a folder."""
    if read_state(path).active:
        write_bytes(path / "cancel", b"")


@contextmanager
def sole_worker(path: Path) -> Iterator[bool]:
    """True for the one process that may write the run; False for any other while it lives."""
    try:
        lock = (path / "lock").open("ab")
    except OSError as error:
        raise storage_error(error, path / "lock") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_as_worker(run: Run, stages: int, body: Callable[[StateWriter], None]) -> JobState:
    """Do `body` under the lock and write how it ended; a crash leaves its reason in the state and its trace in the log."""
    import torch

    with sole_worker(run.path) as mine:
        before = read_state(run.path)
        if not mine or (before.state == "done" and not pending(run)):
            return before
        clear_leftovers(run.path, lambda pid: pid != os.getpid() and process_born(pid) is not None)
        threads = max(1, usable_cores() - 1)
        torch.set_num_threads(threads)
        asked = pending(run)
        known = {name: s for name, s in timings_of(run.path).items() if name not in asked} if asked else {}
        writer = StateWriter(run.path, os.getpid(), stages, threads, known)
        carry_out(run.path, writer, body, lambda error: _shortage(run, error))
    return read_state(run.path)


def carry_out(
    path: Path, writer: StateWriter, body: Callable[[StateWriter], None], explained: Callable[[Exception], str]
) -> None:
    """Do `body` and write how it ended; `explained` has better words for an error that nobody expected, or none."""
    try:
        body(writer)
        writer.finish("done")
    except Cancelled:
        writer.finish("cancelled", "Cancelled on request; what was computed is kept.")
    except StorageError as error:
        _last_word(writer, str(error))
    except ExplorerError as error:
        writer.finish("failed", str(error))
    except Exception as error:  # noqa: BLE001 - the last line of defense: the reason must reach the page
        traceback.print_exc()
        found = f"{type(error).__name__}: {error} (the whole trace is in {path / 'log'})"
        writer.finish("failed", explained(error) or found)


def _shortage(run: Run, error: Exception) -> str:
    """What to ask for instead where memory ran out in the middle of something; else nothing."""
    from explorer.influence import blocks, method_from

    if not blocks.is_shortage(error):
        return ""
    need = blocks.need_of(method_from(run.spec["method"]["name"], run.spec["method"]["settings"]))
    return f"{need.words(blocks.asked_for(str(error)), blocks.free_bytes(str(error)))} What was computed is kept."


def _last_word(writer: StateWriter, reason: str) -> None:
    """A full disk may refuse the state file too: then the log has the reason and the state reads as interrupted."""
    print(reason, file=sys.stderr)  # noqa: T201 - the worker's standard error is the run's log
    try:
        writer.finish("failed", reason)
    except StorageError as error:
        print(f"The state could not be written either: {error}", file=sys.stderr)  # noqa: T201
