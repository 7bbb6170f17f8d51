"""Memorization by subsets: counts against a loop over everything, resumed against uninterrupted, trained against alone."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from explorer import memorization
from explorer.contracts import Recipe
from explorer.errors import Cancelled, DataError, SettingsError
from explorer.memorization import SubsetSettings, Tally
from explorer.models import build
from explorer.objectives import CrossEntropy, SquaredError
from explorer.retraining import Retraining
from explorer.subset_models import estimate
from explorer.training import evaluate, train_epochs
from tests.fakes import ListExamples, blobs, line

ROUNDING = 1e-12
Bools = NDArray[np.bool_]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def answers(t: int, n: int, q: int, settings: SubsetSettings) -> tuple[Bools, Bools]:
    """Models that know what they had: right on it nine times of ten, on the rest one of three."""
    draw = np.random.default_rng(7)
    kept = settings.masks(n, 0, t)
    return draw.random((t, n)) < np.where(kept, 0.9, 1 / 3), draw.random((t, q)) < 0.6


def counted(own: Bools, other: Bools, settings: SubsetSettings, sizes: list[int]) -> Tally:
    tally = Tally.empty(own.shape[1], other.shape[1], settings)
    start = 0
    for size in sizes:
        tally.add(own[start : start + size], other[start : start + size])
        start += size
    return tally


def by_loop(right: list[bool], had: list[bool]) -> tuple[float, float]:
    """Difference of means and its standard error, NaN where a side is empty."""
    inside = [r for r, h in zip(right, had, strict=True) if h]
    outside = [r for r, h in zip(right, had, strict=True) if not h]
    if not inside or not outside:
        return np.nan, np.nan
    p, r = sum(inside) / len(inside), sum(outside) / len(outside)
    return p - r, (p * (1 - p) / len(inside) + r * (1 - r) / len(outside)) ** 0.5


@pytest.mark.parametrize(("t", "ratio"), [(30, 0.7), (6, 0.5), (2, 0.9)])
def test_counts_equal_a_loop_over_models_and_examples(t: int, ratio: float) -> None:
    n, q = 13, 3
    settings = SubsetSettings(ratio, seed=5)
    own, other = answers(t, n, q, settings)
    tally = counted(own, other, settings, [t])
    kept = settings.masks(n, 0, t)
    found = tally.estimate()
    for i in range(n):
        expected, se = by_loop(own[:, i].tolist(), kept[:, i].tolist())
        np.testing.assert_allclose([found.memorization[i], found.se[i]], [expected, se], rtol=ROUNDING, atol=ROUNDING)
        assert found.flagged[i] == (expected > 0.25 and expected - 2 * se > 0)
        for j in range(q):
            expected, se = by_loop(other[:, j].tolist(), kept[:, i].tolist())
            values, errors = tally.influence(j)
            np.testing.assert_allclose([values[i], errors[i]], [expected, se], rtol=ROUNDING, atol=ROUNDING)
    assert found.models == t


def test_never_in_or_never_out_is_nan_and_not_flagged() -> None:
    settings = SubsetSettings(0.5)
    own, other = answers(1, 9, 1, settings)
    found = counted(own, other, settings, [1]).estimate()
    assert np.isnan(found.memorization).all()
    assert np.isnan(found.se).all()
    assert not found.flagged.any()
    kept = settings.masks(9, 0, 1)[0]
    np.testing.assert_array_equal(np.isnan(found.accuracy_in), ~kept)
    np.testing.assert_array_equal(np.isnan(found.accuracy_out), kept)
    assert np.isnan(Tally.empty(4).estimate().memorization).all()


def test_any_split_into_blocks_and_a_file_between_give_the_same_bytes() -> None:
    settings = SubsetSettings(0.7, seed=2)
    own, other = answers(40, 11, 4, settings)
    whole = counted(own, other, settings, [40]).arrays()
    first = counted(own, other, settings, [20, 3])
    restored = Tally.restored(first.arrays())
    restored.add(own[23:], other[23:])
    assert restored.settings == settings
    assert first.done == 23  # what was restored is a copy
    for name, array in restored.arrays().items():
        assert array.tobytes() == whole[name].tobytes()
        assert array.dtype == whole[name].dtype


def test_masks_keep_the_ratio_and_depend_on_the_number_alone() -> None:
    settings = SubsetSettings(0.7, seed=3)
    masks = settings.masks(20, 0, 200)
    assert set(masks.sum(1).tolist()) == {14}
    np.testing.assert_array_equal(settings.masks(20, 57, 59), masks[57:59])
    assert (SubsetSettings(0.7, seed=4).masks(20, 0, 200) != masks).any()
    np.testing.assert_allclose(masks.mean(0), 0.7, atol=4 * np.sqrt(0.21 / 200))  # four standard errors of a share
    assert SubsetSettings(0.99).masks(3, 0, 1).sum() == 2  # always one out


def test_the_standard_error_is_the_spread_of_repeated_estimates() -> None:
    n, t = 400, 60
    settings = SubsetSettings(0.7)
    found = counted(*answers(t, n, 0, settings), settings, [t]).estimate()
    # all examples are alike: the spread over them is the standard error; ± four standard errors of a deviation
    assert found.memorization.std() == pytest.approx(np.sqrt(np.mean(found.se**2)), rel=4 / np.sqrt(2 * n))
    assert found.memorization.mean() == pytest.approx(0.9 - 1 / 3, abs=4 * found.se.mean() / np.sqrt(n))


def test_memory_is_that_of_the_counts_and_a_block() -> None:
    n, q, block = 2000, 50, 10
    tally = Tally.empty(n, q)
    own, other = np.ones((block, n), dtype=bool), np.ones((block, q), dtype=bool)
    tally.add(own, other)
    tracemalloc.start()
    try:
        for _ in range(30):
            tally.add(own, other)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * 4 * q * n + 10 * block * n  # what a block adds, twice and a copy; never [300, n] of floats
    assert sum(a.nbytes for a in tally.arrays().values()) < 4 * q * n + 16 * n + 1000


def test_what_does_not_fit_is_refused_and_nothing_is_counted() -> None:
    tally = Tally.empty(5, 2)
    for own, other in [((3, 4), (3, 2)), ((3, 5), (2, 2)), ((3, 5), (3, 1))]:
        with pytest.raises(DataError, match="5 training and 2 asked"):
            tally.add(np.ones(own, dtype=bool), np.ones(other, dtype=bool))
    assert tally.done == 0
    with pytest.raises(DataError, match="Go on"):
        tally.check_fits(6, 2, SubsetSettings())
    with pytest.raises(SettingsError, match="ratio"):
        SubsetSettings(1.0)
    with pytest.raises(DataError, match="found 1"):
        Tally.empty(1)


def test_a_budget_says_how_many_models_fit() -> None:
    assert memorization.models_that_fit(20, 0.5, 30.0) == 80
    assert memorization.models_that_fit(20, 100.0, 30.0) == 20
    assert memorization.models_that_fit(5, 1.0, 0.0) == 20  # fewer say nothing
    with pytest.raises(SettingsError, match="budget"):
        memorization.models_that_fit(20, 0.0, 1.0)


# --- with training


def plan(train: ListExamples | None = None) -> Retraining:
    train = train or blobs(24)
    recipe = Recipe(epochs=2, rate=0.1, batch_size=8)
    return Retraining(lambda seed: build("mlp", (6,), 3, seed), train, CrossEntropy(), recipe)


def test_each_model_is_the_one_trained_alone_on_its_subset() -> None:
    given, asked, settings = plan(), blobs(5, seed=1), SubsetSettings(0.7, seed=1)
    rows = np.array([4, 1])
    (last,) = estimate(given, asked, rows, settings=settings, models=20)
    masks = settings.masks(24, 0, 20)
    own, other = np.empty((20, 24), dtype=bool), np.empty((20, 2), dtype=bool)
    order = Recipe(epochs=2, rate=0.1, batch_size=8, seed=settings.model_seed(0))
    for number, mask in enumerate(masks):
        model = given.fresh(settings.model_seed(number))
        for _ in train_epochs(model, given.objective, given.train, asked, order, rows=np.flatnonzero(mask)):
            pass
        own[number] = evaluate(model, given.train).argmax(1).numpy() == given.train.labels
        other[number] = evaluate(model, asked, rows).argmax(1).numpy() == asked.labels[rows]
    expected = Tally.empty(24, 2, settings)
    expected.add(own, other)
    for name, array in last.tally.arrays().items():
        np.testing.assert_array_equal(array, expected.arrays()[name])


@pytest.mark.parametrize(("memory", "models", "blocks"), [(256.0, 130, [20, 110, 130]), (4.0, 50, None)])
def test_resumed_after_any_block_it_counts_the_same(memory: float, models: int, blocks: list[int] | None) -> None:
    given, asked, rows = replace(plan(), memory=memory), blobs(5, seed=1), np.arange(5)
    saved = [r.tally.arrays() for r in estimate(given, asked, rows, models=models)]
    ends = [int(arrays["models"][0]) for arrays in saved]
    assert ends == blocks or (blocks is None and len(ends) > 4)
    for arrays in saved[:-1]:
        *_, last = estimate(given, asked, rows, models=models, tally=Tally.restored(arrays))
        for name, array in last.tally.arrays().items():
            assert array.tobytes() == saved[-1][name].tobytes()
    with pytest.raises(DataError, match="Go on"):
        next(estimate(given, models=models, tally=Tally.restored(saved[0])))


def test_a_budget_plans_after_every_block_and_keeps_to_it() -> None:
    times = iter([0.0, 10.0, 55.0, 60.0])  # half a second a model
    told = [
        (r.tally.done, r.planned, r.seconds_each) for r in estimate(plan(), seconds=60.0, clock=lambda: next(times))
    ]
    assert told == [(20, 120, 0.5), (110, 120, 0.5), (120, 120, 0.5)]
    times = iter([0.0, 10.0])
    (least,) = estimate(plan(), seconds=1.0, clock=lambda: next(times))
    assert least.tally.done == least.planned == 20


def test_a_regression_counts_close_answers_as_right() -> None:
    train = line(24, width=6)
    given = Retraining(
        lambda seed: build("mlp", (6,), 1, seed), train, SquaredError(), Recipe(epochs=2, rate=0.01, batch_size=8)
    )
    settings = SubsetSettings(0.7, seed=1)
    (last,) = estimate(given, settings=settings, models=20)
    model = given.fresh(settings.model_seed(0))
    order = Recipe(epochs=2, rate=0.01, batch_size=8, seed=settings.model_seed(0))
    rows = np.flatnonzero(settings.masks(24, 0, 1)[0])
    *_, (_, log) = train_epochs(model, given.objective, train, train, order, rows=rows)
    close = np.abs(evaluate(model, train)[:, 0].numpy() - train.labels) <= 0.5 * train.labels.std()
    np.testing.assert_array_equal(close[rows], log.correct)
    found = last.tally.estimate()
    assert 0 < np.nanmean(found.accuracy_in) < 1


def test_progress_counts_models_and_may_cancel() -> None:
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int, note: str) -> None:
        assert 0 <= done <= total
        assert note
        told.append((done, total))
        if done >= 50:
            raise Cancelled

    given = plan()
    tally = Tally.empty(24)
    with pytest.raises(Cancelled):
        list(estimate(given, models=80, tally=tally, progress=progress))
    assert tally.done == 20  # what is counted is whole blocks
    assert told == sorted(told)
    assert told[0] == (0, 80)


@pytest.mark.parametrize("asked", [{}, {"models": 30, "seconds": 5.0}, {"models": 19}])
def test_it_needs_a_number_of_models_or_a_budget(asked: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="at least 20"):
        next(estimate(plan(), **asked))


def test_a_wrong_label_is_memorized_and_a_copied_one_less() -> None:
    train = blobs(40, seed=3)
    train.labels[:3] = (train.labels[:3] + 1) % 3  # wrong
    inputs = [*train.inputs, *[train.inputs[0]] * 3]  # the first wrong one four times over
    train = ListExamples(inputs, np.append(train.labels, [train.labels[0]] * 3))
    given = Retraining(
        lambda seed: build("mlp", (6,), 3, seed), train, CrossEntropy(), Recipe(epochs=25, rate=0.1, batch_size=16)
    )
    *_, last = estimate(given, models=60)
    found = last.tally.estimate()
    assert found.memorization[1:3].min() > np.median(found.memorization[3:40])
    assert found.flagged[1:3].all()
    assert found.memorization[0] < found.memorization[1:3].min()
