"""What is asked of a finished run: in order, by a worker of its own, killed and resumed, and nothing where nothing is asked."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from explorer import jobs
from explorer.jobs import checks, cleaning, further, process, remedies, signs, subsets
from explorer.jobs.state import read_state
from explorer.store import Run
from tests.jobs.asking import copied, stopped, work
from tests.jobs.test_pipeline import contents
from tests.jobs.test_process import until

ORDER = (checks.STAGE, signs.STAGE, subsets.STAGE, remedies.STAGE, cleaning.STAGE)


def ask_everything(run: Run) -> None:
    """A request for each of `ORDER`, the long ones first."""
    cleaning.ask(run, cleaning.Cleaning(share=0.05, rounds=1, seeds=1))
    remedies.ask(run, remedies.Remedy("drop", (1, 2), seeds=2))
    subsets.ask(run, subsets.SubsetRequest(models=20))
    signs.ask(run)
    checks.ask(run, checks.Removals(0.02, 5))


def test_requests_are_answered_the_quick_ones_first_and_start_starts_for_them(
    wine: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(wine, tmp_path)
    assert further.pending(run) == ()
    started: list[list[str]] = []
    with monkeypatch.context() as patch:
        patch.setattr(process.subprocess, "Popen", lambda words, **_: started.append(words))
        assert process.start(run).state == "done"
    assert started == []
    ask_everything(run)
    assert further.pending(run) == ORDER
    seen: list[str] = []

    def note(stage: str, *_: object) -> bool:
        seen.extend([stage] if stage not in seen else [])
        return False

    assert stopped(run, note, monkeypatch).state == "done"
    assert [stage for stage in seen if stage in further.KINDS] == list(ORDER)
    assert further.pending(run) == ()
    told = read_state(run.path)
    assert set(ORDER) <= set(told.timings)
    assert told.number == told.stages  # "14 of 14"


def test_what_is_asked_while_the_job_is_at_it_is_answered_too(
    wine: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(wine, tmp_path)
    remedies.ask(run, remedies.Remedy("drop", (1,), seeds=2))

    def ask_more(stage: str, _: int, __: str) -> bool:
        if stage == remedies.STAGE and len(remedies.listed(run)) == 1:
            remedies.ask(run, remedies.Remedy("drop", (2,), seeds=2))
            signs.ask(run)
        return False

    assert stopped(run, ask_more, monkeypatch).state == "done"
    assert [asked.complete for asked in remedies.listed(run)] == [True, True]
    assert further.pending(run) == ()


def test_a_stopped_request_can_be_joined_by_another(wine: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copied(wine, tmp_path)
    remedies.ask(run, remedies.Remedy("drop", (1,), seeds=2))
    assert stopped(run, lambda stage, *_: stage == remedies.STAGE, monkeypatch).state == "cancelled"
    checks.ask(run, checks.Removals(0.02, 5))  # its own stages are done, whatever the state says
    assert further.pending(run) == (checks.STAGE, remedies.STAGE)
    assert work(run).state == "done"


@pytest.mark.slow
def test_killed_in_any_stage_it_goes_on_to_the_bytes_of_a_clean_run(wine: Run, tmp_path: Path) -> None:
    broken, clean = (copied(wine, tmp_path / name) for name in ("broken", "clean"))
    for run in (broken, clean):
        cleaning.ask(run, cleaning.Cleaning(share=0.02, rounds=3, patience=3, seeds=2))
        remedies.ask(run, remedies.Remedy("drop", (1, 2), seeds=6))
        signs.ask(run)
    for stage, least in ((remedies.STAGE, 1), (cleaning.STAGE, 1000)):
        jobs.start(broken)
        state = until(broken, lambda s: not s.active or (s.stage == stage and s.done >= least))  # noqa: B023
        assert state.state == "running", state
        os.kill(state.pid, signal.SIGKILL)
        assert until(broken, lambda s: not s.active).state == "interrupted"
    for run in (broken, clean):
        jobs.start(run)
        assert until(run, lambda s: not s.active).state == "done"
    assert contents(broken.path) == contents(clean.path)
    assert all(asked.complete for asked in (*remedies.listed(broken), *cleaning.listed(broken)))
