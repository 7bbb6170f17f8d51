"""What is one warm worker process to those who ask it? Started when needed, given one question at a time, ended.

Knows how the process lives and dies, and turns either into a sentence; not what questions and answers mean.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from explorer import errors
from explorer.errors import ExplorerError, RunError
from explorer.jobs.frames import Frame, Reader, send
from explorer.jobs.process import WAIT

IDLE = 15 * 60.0
"""Seconds without a question after which a worker ends by itself."""
LOADING = 10 * 60.0
"""Seconds after which a worker that is not ready is taken to hang."""
ENDING = 5.0
"""Seconds that a worker whose pipe is closed has to end, so that its own status is known."""
LAST_WORDS = 4000
"""Bytes kept of a worker's standard error."""
LINES = 5
"""Lines of it in an error."""


class Helper:
    """One worker of one run. Callers of `ask` are inside `held`; `retired` means that another took its place.

    `before` are workers whose place this one takes: they are ended before it starts.
    """

    def __init__(self, path: Path, before: list[Helper]) -> None:
        self.retired = False
        self._lock = threading.Lock()
        self._path = path
        self._before = before
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: Reader | None = None
        self._listener: threading.Thread | None = None
        self._words = b""
        self._ready = False
        self._started = 0.0

    @contextmanager
    def held(self, deadline: float) -> Iterator[bool]:
        """True for the one caller that may use the worker now, False at `deadline`, by the monotonic clock."""
        mine = self._lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
        try:
            yield mine
        finally:
            if mine:
                if self.retired:
                    self._end()
                self._lock.release()

    def prepare(self, deadline: float) -> None:
        """Start the process unless it runs or somebody is at it; a failure is told to the next who asks."""
        with self.held(time.monotonic()) as mine:
            if mine and not self.retired:
                with suppress(RunError):
                    self._wake(deadline)

    def ask(self, question: Mapping[str, Any], deadline: float) -> Frame:
        """Send a question (JSON-ready) and wait for its answer until `deadline`, by the monotonic clock.

        Raises:
            RunError: the worker ended or takes too long.
            ExplorerError: what the worker says is wrong with the run or the question.
        """
        for _ in range(2):  # a worker may end, idle for long enough, just when it is asked
            self._wake(deadline)
            frame = self._exchange(question, deadline)
            if frame is not None:
                _raise_error(frame)
                return frame
            was_ready = self._ready
            status, words = self._end(ENDING)
            if not (was_ready and status == 0):
                break
        how = f"signal {-status}" if status < 0 else f"exit code {status}"
        raise RunError(
            f"Expected an answer of the worker of run {self._path.name}; found that it ended ({how})"
            f"{': ' + words if words else ''}. Ask again: the next question starts a new one."
        )

    def retire(self, deadline: float) -> None:
        """End the process for good: after the question it is at, or at `deadline` in the middle of it."""
        with self.held(deadline) as mine:
            self.retired = True
            process = self._process
            if not mine and process is not None:
                process.kill()  # whoever uses it hears of it and ends the rest

    def _wake(self, deadline: float) -> None:
        """Start the process where there is none, or none any more that could be asked."""
        if self._process is not None and self._ready and self._process.poll() is not None:
            self._end()
        if self._process is None:
            self._clear_way(deadline)
            self._start()

    def _clear_way(self, deadline: float) -> None:
        while self._before:
            self._before.pop().retire(deadline)

    def _start(self) -> None:
        command = [sys.executable, "-P", "-m", "explorer", "answer", str(self._path), "--idle", str(IDLE)]
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, env={**WAIT, **os.environ}
            )
        except OSError as error:
            raise RunError(
                f"Expected to start a worker for run {self._path.name}; found: {error.strerror or error}. Close other "
                "programs and ask again."
            ) from error
        assert process.stdout is not None
        assert process.stderr is not None
        self._process, self._reader = process, Reader(process.stdout.fileno())
        self._ready, self._started, self._words = False, time.monotonic(), b""
        self._listener = threading.Thread(target=self._listen, args=(process.stderr,), daemon=True)
        self._listener.start()

    def _listen(self, stream: IO[bytes]) -> None:
        """Keep the end of what the process says, so that it never waits for a reader."""
        with stream:
            while words := stream.read(LAST_WORDS):
                self._words = (self._words + words)[-LAST_WORDS:]

    def _exchange(self, question: Mapping[str, Any], deadline: float) -> Frame | None:
        """One question and its answer; None when the process has ended instead."""
        assert self._process is not None
        assert self._process.stdin is not None
        if not self._ready:
            first = self._next(deadline)
            if first is None:
                return None
            if "error" in first[0]:
                self._end()
                return first
            self._ready = True
        try:
            send(self._process.stdin.fileno(), question)
        except BrokenPipeError:
            return None
        return self._next(deadline)

    def _next(self, deadline: float) -> Frame | None:
        assert self._reader is not None
        began = time.monotonic()
        try:
            return self._reader.next(deadline - began)
        except TimeoutError:
            now = time.monotonic()
            if not self._ready and now - self._started < LOADING:
                raise RunError(
                    f"Expected an answer in time; found the worker of run {self._path.name} still loading after "
                    f"{now - self._started:.0f} s. Ask again in a moment: it goes on loading."
                ) from None
            self._end()
            raise RunError(
                f"Expected an answer in time; found none from the worker of run {self._path.name} after "
                f"{now - began:.0f} s, so it was stopped. Ask again, with a longer limit if the model is slow."
            ) from None

    def _end(self, patience: float = 0.0) -> tuple[int, str]:
        """Kill the process (it has nothing to save) after `patience` seconds; its status and its last lines."""
        process, self._process, self._reader, self._ready = self._process, None, None, False
        if process is None:
            return 0, ""
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
        process.kill()
        status = process.wait()
        if self._listener is not None:
            self._listener.join(timeout=1)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        lines = self._words.decode(errors="replace").strip().splitlines()[-LINES:]
        return status, " / ".join(line.strip() for line in lines)


def _raise_error(frame: Frame) -> None:
    """Raise what a worker refuses with, as the error that it was there."""
    settings = frame[0]
    if "error" in settings:
        kind = getattr(errors, str(settings["error"]), RunError)
        raise (kind if isinstance(kind, type) and issubclass(kind, ExplorerError) else RunError)(settings["message"])
