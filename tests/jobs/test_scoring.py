"""What is kept of scores is what a full sort, scipy and plain arithmetic say, in whatever blocks it was found."""

import threading
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from explorer.contracts import Fitted, Progress, Queries, Scores, silent
from explorer.errors import Cancelled
from explorer.fidelity import top_overlap
from explorer.influence import GradientDot, LastLayer
from explorer.jobs import extremes, scoring
from tests import problems

N = 9000
"""Long enough for thresholds from a sample: `extremes` sorts shorter rows in full."""


def rows() -> dict[str, NDArray[np.float32]]:
    """Score rows of every kind that has its own way through the search."""
    draw = np.random.default_rng(0)
    heavy = draw.standard_t(2, size=N)
    burst = np.zeros(N)
    burst[1 :: N // 2000 + 1] = 0.0
    burst[100:700] = draw.normal(size=600)  # a sample of every fourth sees its share; a blind one may not
    return {
        "normal": draw.normal(size=N),
        "heavy": heavy,
        "one sign": np.abs(heavy),
        "other sign": -np.abs(heavy),
        "many ties": np.round(draw.normal(size=N), 1),
        "few values": draw.integers(-1, 2, size=N).astype(float),
        "mostly zero": burst,
        "zero": np.zeros(N),
        "short": draw.normal(size=300),
        "two": np.array([1.0, -2.0]),
    }


ROWS = {name: values.astype(np.float32) for name, values in rows().items()}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("k", [1, 50])
def test_extremes_are_those_of_a_full_stable_sort(name: str, k: int) -> None:
    row = ROWS[name]
    k = min(k, len(row))
    for rank in {1, max(1, len(row) // 200)}:
        found = extremes.extremes(row, k, rank)
        assert found.high.tolist() == np.argsort(-row, kind="stable")[:k].tolist()
        assert found.low.tolist() == np.argsort(row, kind="stable")[:k].tolist()
        sizes = np.sort(np.abs(row))[::-1]
        assert found.magnitude == (sizes[rank - 1] or sizes[0])


@pytest.mark.parametrize("sample", [np.zeros(2000), np.full(2000, 1e9), np.full(2000, -1e9), np.arange(-1000, 1000)])
def test_a_misleading_sample_changes_nothing(sample: NDArray[np.float64]) -> None:
    row = ROWS["heavy"]
    found, honest = extremes.extremes(row, 50, 45, sample.astype(np.float32)), extremes.extremes(row, 50, 45)
    assert found.high.tolist() == honest.high.tolist()
    assert found.low.tolist() == honest.low.tolist()
    assert found.magnitude == honest.magnitude


def test_ordinary_rows_are_not_sorted_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    sorted_: list[int] = []
    real = extremes._sorted

    def counting(scores: NDArray[np.float32], *rest: object) -> extremes.Extremes:
        sorted_.append(len(scores))
        return real(scores, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(extremes, "_sorted", counting)
    draw = np.random.default_rng(1)
    for _ in range(100):
        extremes.extremes(draw.standard_t(3, size=60_000).astype(np.float32), 50, 300)
    assert max(sorted_) < 6000


@pytest.mark.parametrize(("a", "b"), [("normal", "heavy"), ("normal", "many ties"), ("few values", "mostly zero")])
def test_rank_agreement_is_spearman_s(a: str, b: str) -> None:
    expected = stats.spearmanr(ROWS[a], ROWS[b]).statistic
    assert scoring.rank_agreement(ROWS[a], ROWS[b]) == pytest.approx(expected, abs=1e-9)


def test_no_order_is_no_agreement() -> None:
    assert np.isnan(scoring.rank_agreement(ROWS["zero"], ROWS["normal"]))


def test_quantization_clips_at_its_scale_and_keeps_zero_rows() -> None:
    row = np.linspace(-1, 1, 1001, dtype=np.float32)
    levels = np.empty(1001, dtype=np.int8)
    scoring.quantize(row.copy(), np.float32(0.5), levels)
    assert levels.tolist() == np.clip(np.round(row.astype(np.float64) * 254), -127, 127).tolist()
    scoring.quantize(ROWS["zero"].copy(), np.float32(0), zeros := np.ones(N, dtype=np.int8))
    assert not zeros.any()


class Table:
    """A fitted method whose scores are a given table: row q of it for test row q."""

    unit, stats = "nats", {}

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values = torch.from_numpy(values)

    def score(self, queries: Queries, progress: Progress = silent, out: torch.Tensor | None = None) -> Scores:
        assert out is not None
        out.copy_(self.values[queries.rows])
        return Scores(out, queries.rows.astype(str), np.array([]), "table", queries.target, self.unit, self.stats)


def long_tables() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    first = np.stack([ROWS[name] for name in ROWS if len(ROWS[name]) == N])
    second = first + np.random.default_rng(5).normal(size=first.shape).astype(np.float32)
    return first, second


def block(tables: tuple[NDArray[np.float32], ...], picked: NDArray[np.int64]) -> tuple[scoring.Kept, NDArray[np.int8]]:
    fitted: list[Fitted | None] = [Table(table) for table in tables]  # type: ignore[misc]
    assert fitted[0] is not None
    queries = Queries(problems.problem("ridge").test, picked)
    return scoring.score_block(fitted[0], fitted[1], queries, N, seed=3)


def test_what_is_kept_of_long_rows_is_plain_arithmetic() -> None:
    first, second = long_tables()
    kept, levels = block((first, second), np.arange(len(first)))
    sample = np.sort(np.random.default_rng(3).permutation(N)[: scoring.AGREEMENT_SAMPLE])
    for q, row in enumerate(first):
        order = np.argsort(-row, kind="stable")[: scoring.TOP]
        assert kept["towards"][q].tolist() == np.where(row[order] > 0, order, -1).tolist()
        assert kept["towards_influence"][q].tolist() == np.clip(row[order], 0, None).tolist()
        order = np.argsort(row, kind="stable")[: scoring.TOP]
        assert kept["away"][q].tolist() == np.where(row[order] < 0, order, -1).tolist()
        assert kept["away_influence"][q].tolist() == np.clip(row[order], None, 0).tolist()
        assert kept["total"][q] == pytest.approx(np.abs(row.astype(np.float64)).sum(), rel=1e-5)
        scale = np.sort(np.abs(row))[-round(N * 0.005)] or np.abs(row).max()
        assert kept["scale"][q] == scale
        exact = np.clip(row.astype(np.float64) * (127 / (scale or 1)), -127, 127)
        assert np.abs(levels[q] - exact).max() <= 0.5 + 1e-4  # the factor is rounded to float32
        with np.errstate(all="ignore"):
            expected = scoring.rank_agreement(row[sample], second[q, sample])
        assert kept["agreement"][q] == pytest.approx(expected, abs=1e-6, nan_ok=True)
    distinct = [q for q, row in enumerate(first) if len(np.unique(row)) == N]
    assert len(distinct) >= 3
    np.testing.assert_allclose(kept["overlap"][distinct], top_overlap(first[distinct], second[distinct], 10), rtol=1e-6)


@cache
def fitted_pair() -> tuple[problems.Problem, Fitted, Fitted]:
    made = problems.problem("mlp")
    return made, LastLayer().fit(made.subject()), GradientDot().fit(made.subject())


def bits(found: tuple[scoring.Kept, NDArray[np.int8]], rows: slice = slice(None)) -> list[bytes]:
    kept, levels = found
    return [kept[name][rows].tobytes() for name in sorted(kept)] + [levels[rows].tobytes()]


def test_bytes_do_not_depend_on_how_many_queries_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made, fitted, second = fitted_pair()
    train, queries = len(made.train), Queries(made.test, np.arange(len(made.test), dtype=np.int64))
    whole = scoring.score_block(fitted, second, queries, train, 0)
    for count in (1, 3, 16):
        monkeypatch.setattr(scoring, "ELEMENTS", count * train)
        parts = scoring.score_block(fitted, second, queries, train, 0)
        close(parts, whole)
    tables = long_tables()
    whole = block(tables, np.arange(len(tables[0])))
    for count in (1, 3):
        monkeypatch.setattr(scoring, "ELEMENTS", count * N)
        assert bits(block(tables, np.arange(len(tables[0])))) == bits(whole)
        assert bits(block(tables, np.array([2]))) == bits(whole, slice(2, 3))


def close(found: tuple[scoring.Kept, NDArray[np.int8]], expected: tuple[scoring.Kept, NDArray[np.int8]]) -> None:
    """Equal but for the model's own float32 rounding, which depends on how many inputs pass it together."""
    for name in ("towards_influence", "away_influence", "total", "scale"):
        np.testing.assert_allclose(found[0][name], expected[0][name], rtol=1e-4, atol=1e-7)
    assert np.abs(found[1].astype(int) - expected[1].astype(int)).max() <= 1


def test_blocks_are_finished_in_order_each_once_with_its_own_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = long_tables()
    monkeypatch.setattr(scoring, "ELEMENTS", 2 * N)
    first, second = (Table(table) for table in tables)
    test = problems.problem("ridge").test
    done: list[tuple[int, scoring.Kept, NDArray[np.int8]]] = []
    asked = [np.array(rows, dtype=np.int64) for rows in ([0, 1, 2], [3], [4, 5, 6, 7], [0])]

    def blocks() -> Iterator[tuple[Queries, scoring.Finish]]:
        for number, picked in enumerate(asked):
            yield Queries(test, picked), lambda kept, levels, number=number: done.append((number, kept, levels))  # type: ignore[misc]

    scoring.score_blocks(first, second, blocks(), N, 3)  # type: ignore[arg-type]
    assert [number for number, _, _ in done] == [0, 1, 2, 3]
    for number, kept, levels in done:
        assert bits((kept, levels)) == bits(block(tables, asked[number]))


def test_a_failure_while_finishing_stops_the_work_and_is_the_one_raised() -> None:
    table = Table(long_tables()[0])
    begun: list[int] = []

    def full(*_: object) -> None:
        raise OSError("disk full")

    def blocks() -> Iterator[tuple[Queries, scoring.Finish]]:
        for number in range(8):
            begun.append(number)
            yield Queries(problems.problem("ridge").test, np.array([number])), full

    with pytest.raises(OSError, match="disk full"):
        scoring.score_blocks(table, None, blocks(), N, 0)  # type: ignore[arg-type]
    assert len(begun) <= 3


def test_a_cancelled_job_finishes_the_block_it_has_and_leaves_no_thread() -> None:
    table = Table(long_tables()[0])
    done: list[int] = []
    before = threading.active_count()

    def blocks() -> Iterator[tuple[Queries, scoring.Finish]]:
        yield Queries(problems.problem("ridge").test, np.array([0])), lambda *_: done.append(0)
        raise Cancelled

    with pytest.raises(Cancelled):
        scoring.score_blocks(table, None, blocks(), N, 0)  # type: ignore[arg-type]
    assert done == [0]
    assert threading.active_count() == before
