"""The engine's benchmark measures what it says: whole scores, the clock's stages, ranks, and memory of a child's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from explorer.influence.ekfac import EKFAC
from tests.bench import engine, engine_growth
from tests.bench.engine_work import Clock, Floor, Kronfluence, layers_of, run_ours, spearman, spearman_of_rows
from tests.bench.fidelity_methods import LeftOutError
from tests.bench.fidelity_problems import problem
from tests.bench.fidelity_trained import Trained, trained
from tests.problems import one_thread

ROUNDING = 1e-12
"""Two ways to compute a rank correlation in float64."""


@pytest.fixture
def found(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Trained:
    monkeypatch.setenv("EXPLORER_BENCH", str(tmp_path_factory.getbasetemp() / "bench-engine"))
    made = problem("small")
    with one_thread():
        return trained(replace(made, training=replace(made.training, epochs=3)), members=1)


def test_rank_correlations_are_scipys() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(7, 30, generator=draw), torch.randn(7, 30, generator=draw)
    b += a
    assert spearman(a, b) == pytest.approx(spearmanr(a.flatten(), b.flatten()).statistic, abs=ROUNDING)
    rows = [spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert spearman_of_rows(a, b) == pytest.approx(np.mean(rows), abs=ROUNDING)


def test_the_clock_charges_time_to_what_was_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock(_since=0.0)
    for at, note in ((1.0, "one"), (3.0, "two"), (7.0, "one"), (15.0, "")):
        now[0] = at
        clock(0, 1, note)
    assert clock.seconds == {"start": 1.0, "one": 2.0 + 8.0, "two": 4.0}


def test_a_run_is_the_method_and_its_stages_are_within_the_whole(found: Trained) -> None:
    with one_thread():
        made = run_ours(found, EKFAC(rank=4))
        expected = EKFAC(rank=4).fit(found.subject()).score(found.queries("label")).values
    assert torch.equal(made.values, expected)
    assert all(seconds >= 0 for seconds in made.stages.values())
    assert made.stages["factors"] + made.stages["eigenvectors"] + made.stages["eigenvalues"] < made.seconds


def test_a_comparison_tells_agreement_times_and_floor(found: Trained) -> None:
    plan = engine.Plan(ranks=(2,), repeats=2)
    with one_thread():
        exact = run_ours(found, EKFAC(tolerance=0.0), double=True).values
        work = {
            engine.EXACT: lambda: run_ours(found, EKFAC(tolerance=0.0)),
            "rank 2": lambda: run_ours(found, EKFAC(rank=2)),
        }
        made = engine.compared(found, plan, Floor.of(found, layers_of(found)), work, exact)
    assert made.repeats_to_the_bit
    assert made.passes > 0
    assert made.products > 0
    ours, two = made.rows
    assert ours.all_scores > 1 - 1e-6 > two.all_scores > 0.9  # float32 moves no rank far; two products do
    assert len(ours.seconds) == 2
    assert "x floor" in engine.shown(made)


def test_growth_counts_parameters_and_examples() -> None:
    with one_thread():
        subject, asked = engine_growth.made(40, (3,))
        row = engine_growth.measured(subject, engine_growth.Queries(asked, np.arange(5, dtype=np.int64)), None)
    assert (row.train, row.queries, row.parameters) == (40, 5, 784 * 3 + 3 + 3 * 10 + 10)
    assert row.megabytes >= 0
    assert "2,395" in engine.shown_growth("title", [row])


def test_a_peer_that_is_not_installed_is_left_out(found: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LeftOutError, match="kronfluence"):
        Kronfluence(found)
