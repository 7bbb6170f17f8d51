"""The life of a warm worker: however it ends there is a sentence and a next one, and it never outlives its use."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from explorer.errors import RunError
from explorer.jobs import asking, helper
from explorer.jobs.asking import ask
from explorer.store import Run
from tests.conftest import SMALL, compute
from tests.jobs.test_asking import assert_stored, without_scores, workers

PATIENCE = 120
"""Seconds after which a process is taken to hang: many times what it needs on an idle machine."""

NETWORK = '''
import os, sys, time
from pathlib import Path
from torch import nn

HERE = Path(__file__).parent


class Odd(nn.Sequential):
    """A network that does what the files beside it say."""

    def forward(self, x):
        if (HERE / "loud").exists():
            print("stray words " * 20_000)
            os.write(1, b"raw stray bytes")
            assert sys.stdin.read() == ""
        if (HERE / "fault").exists():
            raise ZeroDivisionError("one over nothing")
        if (HERE / "fatal").exists():
            print("these are my last words", file=sys.stderr, flush=True)
            os._exit(3)
        if (HERE / "slow").exists():
            time.sleep(1000)
        return super().forward(x)


def make():
    return Odd(nn.Linear(13, 8), nn.Tanh(), nn.Linear(8, 3))
'''


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Wine under a network of a user's own."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "net.py").write_text(NETWORK)
    return compute(folder, replace(SMALL, model=f"{folder / 'net.py'}:make"))


@pytest.fixture
def mood(odd: Run) -> Iterator[Path]:
    """The folder whose files tell the network what to do; emptied of them afterwards."""
    folder = odd.path.parent
    yield folder
    for name in ("loud", "fault", "fatal", "slow"):
        (folder / name).unlink(missing_ok=True)


@pytest.fixture(scope="module", autouse=True)
def _no_worker_stays() -> Iterator[None]:
    yield
    asking.stop()
    assert workers() == []


@pytest.fixture
def forgetful() -> None:
    """Nothing is remembered from other tests; their workers stay warm."""
    asking._answers.clear()


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.mark.slow
def test_prints_of_a_user_s_model_do_not_reach_the_answer(odd: Run, mood: Path, forgetful: None) -> None:
    query = int(odd.plan("label")[0])
    (mood / "loud").touch()
    assert_stored(ask(odd, query, "label"), odd, query, "label")


@pytest.mark.slow
def test_a_worker_that_dies_in_mid_question_says_why_and_the_next_question_starts_another(
    odd: Run, mood: Path, forgetful: None
) -> None:
    query = int(odd.plan("label")[0])
    ask(odd, int(odd.plan("label")[1]), "label")
    before = workers(run=odd)
    (mood / "fatal").touch()
    with pytest.raises(RunError, match=r"found that it ended \(exit code 3\): .*these are my last words\. Ask again"):
        ask(odd, query, "label")
    (mood / "fatal").unlink()
    assert_stored(ask(odd, query, "label"), odd, query, "label")
    assert workers(run=odd) != before
    os.kill(workers(run=odd)[0], 9)  # and one that dies between questions is not noticed at all
    until(lambda: asking._helpers.of(odd.path)._process.poll() is not None)  # type: ignore[union-attr]
    third = int(odd.plan("label")[2])
    assert_stored(ask(odd, third, "label"), odd, third, "label")


def test_a_fault_of_the_model_is_said_and_costs_no_worker(odd: Run, mood: Path, forgetful: None) -> None:
    query = int(odd.plan("label")[0])
    ask(odd, int(odd.plan("label")[1]), "label")
    before = workers(run=odd)
    (mood / "fault").touch()
    with pytest.raises(RunError, match="found ZeroDivisionError: one over nothing"):
        ask(odd, query, "label")
    (mood / "fault").unlink()
    assert_stored(ask(odd, query, "label"), odd, query, "label")
    assert workers(run=odd) == before


@pytest.mark.slow
def test_a_question_that_takes_too_long_is_given_up(odd: Run, mood: Path, forgetful: None) -> None:
    query = int(odd.plan("label")[0])
    ask(odd, int(odd.plan("label")[1]), "label")
    (mood / "slow").touch()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, odd, query, "label", None, 3.0)
        until(lambda: asking._helpers.of(odd.path)._lock.locked())
        with pytest.raises(RunError, match=r"within 0\.1 s; found its worker busy with other questions"):
            ask(odd, query, "label", limit=0.1)
        with pytest.raises(RunError, match=r"found none from the worker of run .*, so it was stopped"):
            first.result()
    assert workers(run=odd) == []
    (mood / "slow").unlink()
    assert_stored(ask(odd, query, "label"), odd, query, "label")


def test_a_worker_that_is_still_loading_goes_on(odd: Run, mood: Path) -> None:
    asking.stop()
    query = int(odd.plan("label")[0])
    (mood / "slow").touch()
    with pytest.raises(RunError, match=r"still loading after .* it goes on loading"):
        ask(odd, query, "label", limit=0.5)
    assert len(workers(run=odd)) == 1
    asking.stop()  # for good: it would wait for its slow network


@pytest.mark.slow
def test_an_idle_worker_ends_and_another_takes_its_place(wine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asking.stop()
    monkeypatch.setattr(helper, "IDLE", 0.2)
    asking.warm(wine)  # never asked, and gone when the question comes
    until(lambda: len(workers(run=wine)) == 1)
    until(lambda: workers(run=wine) == [])
    query = int(wine.plan("label")[0])
    assert_stored(ask(wine, query, "label"), wine, query, "label")
    until(lambda: workers(run=wine) == [])


def test_at_most_two_workers_and_the_least_recently_used_is_stopped(wine: Run, tmp_path: Path) -> None:
    asking.stop()
    runs = [without_scores(wine, tmp_path / str(number)) for number in range(3)]
    for run in (runs[0], runs[1]):
        asking.warm(run)
        until(lambda: len(workers(run=run)) == 1)  # noqa: B023
    asking.warm(runs[0])
    asking.warm(runs[2])
    until(lambda: len(workers(run=runs[2])) == 1)
    assert [len(workers(run=run)) for run in runs] == [1, 0, 1]
    asking.stop()
    assert workers() == []


@pytest.mark.slow
def test_a_worker_does_not_outlive_its_parent(wine: Run) -> None:
    code = (
        "import sys, time; from pathlib import Path; from explorer.jobs import asking; from explorer.store import Run\n"
        f"asking.warm(Run.at(Path({str(wine.path)!r})))\n"
        "time.sleep(1000)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: len(workers(parent.pid)) == 1)
    (worker,) = workers(parent.pid)
    parent.kill()
    parent.wait()
    until(lambda: not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE)
