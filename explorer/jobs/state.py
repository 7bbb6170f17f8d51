"""How far is a job? Its state file, written by the worker alone, and the truth about whether that worker lives.

"Running" means that the file says so and that very process (number and start time) is alive. Starts nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import psutil

from explorer.errors import Cancelled, RunError
from explorer.store import read_json, write_json

Word = Literal["queued", "running", "done", "cancelled", "failed", "interrupted"]
ACTIVE: tuple[Word, ...] = ("queued", "running")
WRITE_EVERY = 0.25
"""Seconds between two writes of the state file."""
ENDED = "Its log is empty: it was ended from outside, as the system does where memory runs out."
LOG_TAIL = 600
"""Characters of the log shown as the reason of a worker that died without a word."""


@dataclass(frozen=True)
class JobState:
    """What a page shows of a job: where it stands, how fast it goes, and why it ended."""

    state: Word
    stage: str = ""
    number: int = 0
    stages: int = 0
    done: int = 0
    total: int = 0
    note: str = ""
    rate: float | None = None
    seconds_left: float | None = None
    reason: str = ""
    pid: int = 0
    born: float = 0.0
    threads: int = 0
    started: float = 0.0
    updated: float = 0.0
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether a worker is at it."""
        return self.state in ACTIVE


def process_born(pid: int) -> float | None:
    """Start time of a living process; None when there is none (a zombie does not live)."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def is_alive(pid: int, born: float) -> bool:
    """Whether that very process lives: the number alone may have been given to another since."""
    found = process_born(pid) if pid > 0 else None
    return found is not None and abs(found - born) < 1.0


def read_state(path: Path) -> JobState:
    """The state of the job of a run directory, checked against the living processes."""
    told = _read(path / "state.json")
    launched = _read(path / "launch.json")
    if told is not None and told.state == "running" and is_alive(told.pid, told.born):
        return told
    if launched is not None and is_alive(launched.pid, launched.born) and (told is None or told.pid != launched.pid):
        return JobState("queued", started=launched.started, pid=launched.pid, born=launched.born)
    if told is None:
        reason = "It was never started." if launched is None else f"The worker died at once. {_tail(path / 'log')}"
        return JobState("interrupted" if launched is None else "failed", reason=reason)
    if told.state == "running":
        return replace(
            told,
            state="interrupted",
            reason=f"The worker (process {told.pid}) is gone; what it wrote is kept. {_tail(path / 'log')}",
        )
    return told


def timings_of(path: Path) -> Mapping[str, float]:
    """Seconds by stage of the last worker that wrote a state, whoever is at the run by now."""
    told = _read(path / "state.json")
    return {} if told is None else told.timings


def _read(path: Path) -> JobState | None:
    if not path.exists():
        return None
    try:
        return JobState(**read_json(path))
    except TypeError as error:
        raise RunError(
            f"Expected the state of a job in {path}; found other fields ({error}). Remove the file."
        ) from error


def _tail(log: Path) -> str:
    text = log.read_text(errors="replace").strip() if log.exists() else ""
    return f"The end of its log: {text[-LOG_TAIL:]}" if text else ENDED


class StateWriter:
    """The worker's pen: call it as a progress callback; it writes a few times a second and obeys a cancel request.

    `timings` are those of stages that were done before: looking at what they wrote does not replace them.
    """

    def __init__(
        self, path: Path, pid: int, stages: int, threads: int, timings: Mapping[str, float] | None = None
    ) -> None:
        self._before = dict(timings or {})
        self._path = path
        now = time.time()
        self._state = JobState(
            "running", stages=stages, pid=pid, born=process_born(pid) or now, started=now, updated=now, threads=threads,
            timings=self._before,
        )  # fmt: skip
        self._stage_began = self._counting_began = now
        self._counted_from = self._total = 0
        self._written = 0.0
        self._write()

    def expect(self, stages: int) -> None:
        """How many stages this job has, where that is known better than at its start."""
        self._state = replace(self._state, stages=stages)

    def stage(self, name: str) -> None:
        """Begin the next stage."""
        now = time.time()
        self._close_stage(now)
        self._stage_began = self._counting_began = now
        self._counted_from = self._total = 0
        self._state = replace(
            self._state,
            stage=name,
            number=self._state.number + 1,
            done=0,
            total=0,
            note="",
            rate=None,
            seconds_left=None,
        )
        self._write()
        self._obey()

    def __call__(self, done: int, total: int, note: str) -> None:
        """Progress within the stage.

        Raises:
            Cancelled: someone asked for it.
        """
        self._obey()
        if time.time() - self._written < WRITE_EVERY and done < total:
            return
        if self._total not in (0, total) or done < self._counted_from:  # another count within the stage
            self._counting_began, self._counted_from = time.time(), done
        self._total = total
        elapsed, counted = time.time() - self._counting_began, done - self._counted_from
        rate = counted / elapsed if counted > 0 and elapsed > 0 else None
        left = (total - done) / rate if rate else None
        self._state = replace(self._state, done=done, total=total, note=note, rate=rate, seconds_left=left)
        self._write()

    def finish(self, state: Word, reason: str = "") -> None:
        """The last word."""
        self._close_stage(time.time())
        self._state = replace(self._state, state=state, reason=reason, rate=None, seconds_left=None)
        self._write()

    def _close_stage(self, now: float) -> None:
        if self._state.stage:
            timings = {**self._state.timings, self._state.stage: round(now - self._stage_began, 3), **self._before}
            self._state = replace(self._state, timings=timings)

    def _obey(self) -> None:
        if (self._path / "cancel").exists():
            raise Cancelled

    def _write(self) -> None:
        self._written = time.time()
        self._state = replace(self._state, updated=self._written)
        write_json(self._path / "state.json", asdict(self._state))
