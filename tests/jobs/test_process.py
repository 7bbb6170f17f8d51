"""Jobs as processes: one worker a run, killed and resumed to the same bytes, cancelled, crashed, starved of disk."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from explorer import jobs
from explorer.contracts import Recipe
from explorer.errors import DataError, RunError
from explorer.jobs.planning import Request, plan
from explorer.jobs.process import run_as_worker, sole_worker
from explorer.jobs.state import JobState, StateWriter, is_alive, process_born, read_state
from explorer.store import Run, create, write_array, write_json
from tests.jobs.test_pipeline import contents

PATIENCE = 240
"""Seconds after which a job is taken to hang: fifty times what it needs on an idle machine."""


def until(run: Run, reached: Callable[[JobState], bool]) -> JobState:
    """Wait for a state of the run's job."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        state = jobs.read_state(run.path)
        if reached(state):
            return state
        time.sleep(0.02)
    raise AssertionError(f"the job stayed {jobs.read_state(run.path)}")


def test_kill_and_resume_gives_the_bytes_of_a_clean_run(tmp_path: Path) -> None:
    request = Request("digits", flip=0.08, recipe=Recipe(epochs=6), queries=300)
    clean, broken = (create(tmp_path / name, plan(request)) for name in ("clean", "broken"))
    for stage, progress in (("training", 1), ("scores", 0)):
        jobs.start(broken)
        state = until(broken, lambda s: not s.active or (s.stage == stage and s.done >= progress))  # noqa: B023
        assert state.state == "running", state
        os.kill(state.pid, signal.SIGKILL)
        half_written = (
            broken.path / stage / f".block.npy.abcdefgh.{state.pid}.part"
        )  # as a kill within a write leaves it
        half_written.parent.mkdir(exist_ok=True)
        half_written.write_bytes(b"\x93NUM")
        dead = until(broken, lambda s: not s.active)
        assert dead.state == "interrupted"
        assert "is gone; what it wrote is kept" in dead.reason
    jobs.start(broken)
    jobs.start(clean)
    for run in (broken, clean):
        assert until(run, lambda s: not s.active).state == "done"
    left, right = contents(broken.path), contents(clean.path)
    assert left.keys() == right.keys()
    assert [name for name in left if left[name] != right[name]] == []
    assert jobs.start(broken).state == "done"  # and no new worker


@pytest.mark.slow
def test_cancel_stops_within_a_block_and_resume_goes_on(tmp_path: Path) -> None:
    run = create(tmp_path, plan(Request("digits", recipe=Recipe(epochs=2000))))
    jobs.start(run)
    state = until(run, lambda s: s.stage == "training" and len(list(run.path.glob("checkpoints/*"))) >= 2)
    assert os.getsid(state.pid) == state.pid  # a session of its own: it outlives who started it
    jobs.cancel(run)
    stopped = until(run, lambda s: not s.active)
    assert stopped.state == "cancelled"
    kept = len(list(run.path.glob("checkpoints/*")))
    jobs.start(run)
    until(run, lambda s: len(list(run.path.glob("checkpoints/*"))) > kept)
    jobs.cancel(run)
    again = until(run, lambda s: not s.active)
    assert again.state == "cancelled"
    assert again.pid != state.pid


@pytest.mark.slow
def test_two_starts_make_one_worker(tmp_path: Path) -> None:
    run = create(tmp_path, plan(Request("digits", recipe=Recipe(epochs=2000))))
    threads = [threading.Thread(target=jobs.start, args=(run,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(run, lambda s: s.stage == "training" and s.done > 0)
    deadline = time.monotonic() + PATIENCE
    while len(workers(run)) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    state = jobs.read_state(run.path)
    assert workers(run) == [state.pid]
    jobs.cancel(run)
    assert until(run, lambda s: not s.active).state == "cancelled"


def workers(run: Run) -> list[int]:
    """Living workers of the run."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        if str(run.path) in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.info["pid"])
    return found


def test_the_lock_admits_one_and_is_freed_by_death(tmp_path: Path) -> None:
    holder = (
        "import sys, time; from pathlib import Path; from explorer.jobs import sole_worker\n"
        f"with sole_worker(Path({str(tmp_path)!r})) as mine: print(mine, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    with sole_worker(tmp_path) as mine:
        assert not mine
    process.kill()
    process.wait()
    process.stdout.close()
    with sole_worker(tmp_path) as mine:
        assert mine


def running(pid: int, born: float) -> dict[str, object]:
    return asdict(JobState("running", stage="scores", pid=pid, born=born))


def test_a_stale_process_number_is_not_a_running_job(tmp_path: Path) -> None:
    born = process_born(os.getpid())
    assert born is not None
    write_json(tmp_path / "state.json", running(os.getpid(), born))
    assert read_state(tmp_path).state == "running"
    write_json(tmp_path / "state.json", running(os.getpid(), born - 100))  # the number was given to another
    assert read_state(tmp_path).state == "interrupted"
    write_json(tmp_path / "state.json", running(2**22 + 1, born))
    assert read_state(tmp_path).state == "interrupted"
    assert not is_alive(0, 0)


def test_a_zombie_does_not_live() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 30
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process_born(process.pid) is None
    process.wait()


def test_before_the_worker_speaks(tmp_path: Path) -> None:
    assert read_state(tmp_path).reason == "It was never started."
    born = process_born(os.getpid())
    launch = asdict(JobState("queued", pid=os.getpid(), born=born or 0))
    write_json(tmp_path / "launch.json", launch)
    assert read_state(tmp_path).state == "queued"
    write_json(tmp_path / "launch.json", {**launch, "born": 1.0})
    (tmp_path / "log").write_text("ModuleNotFoundError: no such thing")
    dead = read_state(tmp_path)
    assert dead.state == "failed"
    assert "no such thing" in dead.reason


def test_a_state_of_other_fields_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "state.json", {"phase": 3})
    with pytest.raises(RunError, match="Expected the state of a job"):
        read_state(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create(tmp_path, plan(Request("wine")))


def test_a_crash_leaves_its_reason_and_its_trace(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    def body(writer: StateWriter) -> None:
        writer.stage("scores")
        raise ZeroDivisionError("one over nothing")

    state = run_as_worker(run, 8, body)
    assert state.state == "failed"
    assert state.reason.startswith("ZeroDivisionError: one over nothing")
    assert "Traceback" in capfd.readouterr().err
    assert "scores" in state.timings


def test_a_user_s_mistake_is_a_sentence_without_a_trace(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    def body(writer: StateWriter) -> None:
        raise DataError("Expected this; found that. Do so.")

    state = run_as_worker(run, 8, body)
    assert (state.state, state.reason) == ("failed", "Expected this; found that. Do so.")
    assert "Traceback" not in capfd.readouterr().err


def test_a_full_disk_fails_with_the_reason_and_resumes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, full = os.fsync, True

    def body(writer: StateWriter) -> None:
        monkeypatch.setattr(os, "fsync", refuse_once)
        write_array(run.path / "a.npy", np.ones(3))

    def refuse_once(file: int) -> None:
        nonlocal full
        if full:
            full = False
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    state = run_as_worker(run, 8, body)
    assert state.state == "failed"
    assert "found it full" in state.reason
    assert not (run.path / "a.npy").exists()
    assert run_as_worker(run, 8, body).state == "done"
    assert (run.path / "a.npy").exists()


def test_a_disk_too_full_for_the_state_speaks_in_the_log(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def body(writer: StateWriter) -> None:
        monkeypatch.setattr(os, "fsync", full)
        write_array(run.path / "a.npy", np.ones(3))

    run_as_worker(run, 8, body)
    assert "found it full" in capfd.readouterr().err


def test_progress_has_rate_and_time_left_and_obeys_a_cancel(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)

    def body(writer: StateWriter) -> None:
        nonlocal now
        writer.stage("scores")
        now += 4
        writer(10, 40, "block")
        told = json.loads((run.path / "state.json").read_text())
        assert (told["rate"], told["seconds_left"], told["note"]) == (2.5, 12.0, "block")
        writer(40, 40, "block")
        now += 10
        writer(5, 500, "another count")  # the clock begins again with it
        now += 1
        writer(105, 500, "another count")
        told = json.loads((run.path / "state.json").read_text())
        assert (told["rate"], told["seconds_left"]) == (100.0, 3.95)
        jobs.cancel(run)
        writer(106, 500, "another count")

    state = run_as_worker(run, 8, body)
    assert state.state == "cancelled"
    assert state.timings == {"scores": 15.0}


def test_a_changed_data_file_stops_the_job_with_words(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.normal(size=(20, 3)), "y_train": np.arange(20) % 2}
    arrays |= {"x_test": rng.normal(size=(5, 3)), "y_test": np.arange(5) % 2}
    np.savez(tmp_path / "d.npz", **arrays)
    run = create(tmp_path, plan(Request(str(tmp_path / "d.npz"))))
    np.savez(tmp_path / "d.npz", **{**arrays, "x_test": rng.normal(size=(5, 3))})
    jobs.start(run)
    state = until(run, lambda s: not s.active)
    assert state.state == "failed"
    assert "changed" in state.reason


def test_specs_differ_by_seed(tmp_path: Path) -> None:
    first = Request("wine")
    assert create(tmp_path, plan(first)).key != create(tmp_path, plan(replace(first, recipe=Recipe(seed=1)))).key
