"""A job that runs out of memory goes on in smaller blocks; where that does not help it says what would, and can be resumed."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from explorer.contracts import Fitted, Progress, Queries, Scores, silent
from explorer.influence.last_layer import FittedLastLayer
from explorer.jobs import scoring
from explorer.jobs.pipeline import STAGES, run_pipeline
from explorer.jobs.planning import ingredients_of, plan
from explorer.jobs.process import run_as_worker
from explorer.jobs.scoring import score_blocks
from explorer.jobs.state import JobState
from explorer.store import Run, create
from tests.conftest import SMALL, compute
from tests.jobs.test_pipeline import contents

REFUSED = (
    "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 3200000000 "
    "bytes. Error code 12 (Cannot allocate memory)"
)
SCORES = FittedLastLayer.score
SAME = 1e-5
"""Share of a row's largest score: the same products of float32, summed for other numbers of queries."""


def _limited(most: int) -> object:
    def score(self: Fitted, queries: Queries, progress: Progress = silent, out: torch.Tensor | None = None) -> Scores:
        if len(queries.rows) > most:
            raise RuntimeError(REFUSED)
        return SCORES(self, queries, progress, out)

    return score


def _work(run: Run) -> JobState:
    threads = torch.get_num_threads()
    try:
        return run_as_worker(run, len(STAGES), lambda writer: run_pipeline(run, ingredients_of(run), writer))
    finally:
        torch.set_num_threads(threads)


def test_a_block_of_queries_that_does_not_fit_is_scored_in_halves(
    wine: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FittedLastLayer, "score", _limited(5))
    run = compute(tmp_path, SMALL)
    for row in wine.plan("label"):
        found, expected = run.top(int(row), "label"), wine.top(int(row), "label")
        assert found is not None
        assert expected is not None
        np.testing.assert_allclose(found.towards_influence, expected.towards_influence, rtol=SAME, atol=SAME)


def test_a_job_without_memory_says_what_to_ask_for_and_is_resumed(
    wine: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create(tmp_path, plan(SMALL))
    with monkeypatch.context() as patch:
        patch.setattr(FittedLastLayer, "score", _limited(0))
        failed = _work(run)
    assert failed.state == "failed"
    assert failed.reason.startswith("Expected enough memory for the scores of one query; found 3.2 GB asked for and ")
    with monkeypatch.context() as patch:
        patch.setattr("explorer.memorization.assess", _refuse)
        failed = _work(run)
    assert failed.state == "failed"
    assert failed.reason.startswith("Expected enough memory for the method last-layer; found 3.2 GB asked for and ")
    assert failed.reason.endswith("What was computed is kept.")
    with monkeypatch.context() as patch:
        patch.setattr("explorer.maps.umap", lambda features, seed, progress: _pca(features))
        assert _work(run).state == "done"
    left, right = contents(run.path), contents(wine.path)
    assert left.keys() == right.keys()
    assert [name for name in left if left[name] != right[name]] == []


def _refuse(*_: object) -> None:
    raise RuntimeError(REFUSED)


def _pca(features: object) -> object:
    from explorer import maps

    return maps.pca(features)


class _Shrinking:
    """A method whose scores are the queries' rows; after two blocks of ten it cannot do more than three at once."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def score(self, queries: Queries, progress: Progress = silent, out: torch.Tensor | None = None) -> None:
        assert out is not None
        self.asked.append(len(queries.rows))
        out[:] = float("nan")  # what was there is lost, as by a method that fails half-way
        if len(queries.rows) > (10 if len(self.asked) <= 3 else 3):
            raise MemoryError
        out[:] = torch.from_numpy(queries.rows + 1.0).unsqueeze(1)


def test_what_was_scored_before_a_shortage_is_kept_whole_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that keeps one part may still be at it when the next one fails: it must not see the failed scores."""
    keep = scoring._keep_all
    method = _Shrinking()

    def late(*args: object) -> None:
        time.sleep(0.05)
        keep(*args)

    monkeypatch.setattr(scoring, "_keep_all", late)
    queries = Queries(None, np.arange(40, dtype=np.int64))  # type: ignore[arg-type]
    done: list[dict[str, np.ndarray]] = []
    blocks = [(queries, lambda kept, _: done.append(kept)), (queries, lambda kept, _: done.append(kept))]
    score_blocks(method, None, blocks, 7, 0)  # type: ignore[arg-type]
    for kept in done:
        np.testing.assert_allclose(kept["total"], 7 * np.arange(1.0, 41))
    assert method.asked[:7] == [40, 20, 10, 10, 5, 2, 2]
    assert method.asked.count(40) == 1  # what did not fit in the first block is not tried in the second
