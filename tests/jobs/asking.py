"""Copies of finished runs to be asked for more, and a worker that answers here instead of in a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from explorer.errors import Cancelled
from explorer.jobs.pipeline import STAGES, run_pipeline
from explorer.jobs.planning import ingredients_of
from explorer.jobs.process import run_as_worker
from explorer.jobs.state import JobState, StateWriter
from explorer.store import Run


def copied(run: Run, folder: Path) -> Run:
    """The run once more, in a folder of its own."""
    shutil.copytree(run.path, folder / run.key)
    return Run.at(folder / run.key)


def work(run: Run) -> JobState:
    """All that is asked of the run, done here and now."""
    threads = torch.get_num_threads()
    try:
        return run_as_worker(run, len(STAGES), lambda writer: run_pipeline(run, ingredients_of(run), writer))
    finally:
        torch.set_num_threads(threads)


def stopped(run: Run, when: Callable[[str, int, str], bool], patch: pytest.MonkeyPatch) -> JobState:
    """As `work`, cancelled at the first word of a stage of which `when(stage, done, note)` is true."""
    stage, speak = StateWriter.stage, StateWriter.__call__
    at = [""]

    def begin(self: StateWriter, name: str) -> None:
        at[0] = name
        stage(self, name)

    def told(self: StateWriter, done: int, total: int, note: str) -> None:
        assert 0 <= done <= total
        if when(at[0], done, note):
            raise Cancelled
        speak(self, done, total, note)

    with patch.context() as here:
        here.setattr(StateWriter, "stage", begin)
        here.setattr(StateWriter, "__call__", told)
        return work(run)
