"""explorer.cleaning: the loop against one that trains model after model, gone on against uninterrupted, and on digits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from explorer.cleaning import MEASURED, Round, clean, finished, gain, halves, removed_by, stopped_at, summary
from explorer.contracts import Recipe
from explorer.errors import Cancelled, DataError, ExplorerError, SettingsError
from explorer.models import build
from explorer.objectives import CrossEntropy, SquaredError
from explorer.retraining import Retraining
from explorer.sources.digits import Digits
from explorer.sources.planted import Planted, Rearranged
from explorer.training import evaluate, train_epochs
from tests import oracles
from tests.fakes import ListExamples, blobs, line

ROUNDING = 2e-4
"""Of losses of about 1: weights agree to 2e-5 (see test_retraining), outputs magnify them."""
N, TEST = 40, 21
RECIPE = Recipe(epochs=3, rate=0.1, momentum=0.9, weight_decay=0.01, batch_size=8, seed=11)
SEEDS = [4, 9]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plan(**changes: object) -> Retraining:
    parts = {
        "fresh": lambda seed: build("mlp", (6,), 3, seed),
        "train": blobs(N),
        "objective": CrossEntropy(),
        "recipe": RECIPE,
    }
    return Retraining(**(parts | changes))


def as_bytes(rounds: Sequence[Round]) -> str:
    return json.dumps([one.as_json() for one in rounds], allow_nan=False)


@dataclass(frozen=True)
class Plain:
    """A round of the slow twin."""

    removed: list[int]
    suspects: list[int]
    measured: dict[str, list[float]]


def by_plain_loop(given: Retraining, test: ListExamples, size: int, rounds: int) -> Iterator[Plain]:
    """The loop with one model after the other, its scores by evaluating every epoch's weights."""
    stop, report = halves(test, 0)
    out: list[int] = []
    suspects: list[int] = []
    for _ in range(rounds + 1):
        removed, out = suspects, out + suspects
        rows = np.array([row for row in range(N) if row not in out])
        totals = np.zeros(N)
        measured: dict[str, list[float]] = {name: [] for name in MEASURED}
        for seed in SEEDS:
            model = given.fresh(seed)
            recipe = replace(given.recipe, seed=seed)
            for _ in train_epochs(model, given.objective, given.train, test, recipe, rows=rows):
                totals += losses_of(model, given.train)
            said(model, test, stop, report, measured, "")
            if not out:
                said(model, test, stop, report, measured, "random_")
                continue
            at_random = np.random.default_rng([seed, N]).permutation(N)[: len(out)]
            model = given.fresh(seed)
            rest = np.setdiff1d(np.arange(N), at_random)
            for _ in train_epochs(model, given.objective, given.train, test, recipe, rows=rest):
                pass
            said(model, test, stop, report, measured, "random_")
        suspects = sorted(rows.tolist(), key=lambda row: -totals[row])[:size]
        yield Plain(removed, suspects, measured)


def losses_of(model: nn.Module, examples: ListExamples) -> NDArray[np.float64]:
    outputs = evaluate(model, examples).double()
    if outputs.shape[1] == 1:
        return (outputs[:, 0].numpy() - examples.labels) ** 2 / 2
    return oracles.losses(outputs, torch.tensor(examples.labels)).numpy()


def said(
    model: nn.Module,
    test: ListExamples,
    stop: NDArray[np.int64],
    report: NDArray[np.int64],
    measured: dict[str, list[float]],
    prefix: str,
) -> None:
    losses = losses_of(model, test)
    if not prefix:
        measured["stop_loss"].append(losses[stop].mean())
    measured[f"{prefix}report_loss"].append(losses[report].mean())
    outputs = evaluate(model, test)
    right = [float(int(outputs[row].argmax()) == test.labels[row]) for row in report]
    measured[f"{prefix}accuracy"].append(np.mean(right) if outputs.shape[1] > 1 else np.nan)


@pytest.mark.parametrize("task", [pytest.param("classification", marks=pytest.mark.slow), "regression"])
def test_the_loop_is_that_of_models_trained_one_by_one(task: str) -> None:
    given, test = plan(), blobs(TEST, seed=1)
    if task == "regression":
        fresh = lambda seed: build("mlp", (4,), 1, seed)  # noqa: E731
        given, test = plan(fresh=fresh, train=line(N), objective=SquaredError()), line(TEST, seed=1)
    found = list(clean(given, test, seeds=SEEDS, share=0.08, rounds=3, patience=3))
    assert [one.number for one in found] == [0, 1, 2, 3]
    assert [one.kept for one in found] == [40, 37, 34, 31]
    for mine, theirs in zip(found, by_plain_loop(given, test, 3, 3), strict=True):
        assert mine.removed.tolist() == theirs.removed
        assert mine.suspects.tolist() == theirs.suspects
        for name in MEASURED:
            np.testing.assert_allclose(getattr(mine, name), theirs.measured[name], rtol=0, atol=ROUNDING)


def test_going_on_gives_what_it_would_have_been() -> None:
    given, test = plan(), blobs(TEST, seed=1)
    settings = {"seeds": SEEDS, "share": 0.05, "rounds": 4, "patience": 4}
    whole = list(clean(given, test, **settings))
    assert len(whole) == 5
    for done in range(1, 6):
        saved = [Round.from_json(one) for one in json.loads(as_bytes(whole[:done]))]
        rest = list(clean(given, test, **settings, state=saved))
        assert as_bytes(saved + rest) == as_bytes(whole)
    cut = list(islice(clean(given, test, **settings), 2))
    assert as_bytes(cut) == as_bytes(whole[:2])


def test_no_example_leaves_twice_and_all_that_left_are_listed() -> None:
    found = list(clean(plan(), blobs(TEST, seed=1), seeds=[0], share=0.1, rounds=5, patience=5))
    out = removed_by(found, 5)
    assert len(out) == len(set(out.tolist())) == 20
    assert removed_by(found, 0).tolist() == []
    for before, after in pairwise(found):
        np.testing.assert_array_equal(before.suspects, after.removed)


def test_any_score_may_choose_and_sees_what_was_trained_on() -> None:
    seen: list[NDArray[np.bool_]] = []

    def largest_row(losses: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        assert losses.shape == (3, N)
        seen.append(kept)
        return np.arange(N, dtype=np.float64)

    settings = {"seeds": [0], "share": 0.05, "rounds": 2, "patience": 2}
    found = list(clean(plan(), blobs(TEST, seed=1), **settings, score=largest_row))
    assert [one.suspects.tolist() for one in found] == [[39, 38], [37, 36], [35, 34]]
    assert [np.flatnonzero(~kept).tolist() for kept in seen] == [[], [38, 39], [36, 37, 38, 39]]
    for wrong, said_ in ((np.full(N, np.nan), "finite scores"), (np.zeros(N - 1), f"each of {N}")):
        with pytest.raises(DataError, match=said_):
            list(clean(plan(), blobs(TEST, seed=1), **settings, score=lambda _losses, _kept, w=wrong: w))


# --- when to stop, and what was gained


def rounds_of(*stop_losses: float) -> list[Round]:
    """Rounds of three seeds with made-up numbers around these."""
    draw, spread = np.random.default_rng(0), np.array([-0.1, 0.0, 0.1])
    return [
        Round(
            k, np.array([k] if k else [], dtype=np.int64), 9 - k, np.array([k + 1]), loss + spread, *draw.random((4, 3))
        )
        for k, loss in enumerate(stop_losses)
    ]


@pytest.mark.parametrize(
    ("losses", "kept", "over"),
    [
        ((1.0,), 0, False),
        ((1.0, 0.9), 1, False),
        ((1.0, 1.1), 0, False),
        ((1.0, 1.1, 1.2), 0, True),
        ((1.0, 0.9, 1.2), 1, False),
        ((1.0, 0.9, 1.2, 0.95), 1, True),
        ((1.0, 0.9, 1.2, 0.8), 3, False),
        ((1.0, 1.0, 1.0), 0, True),
        ((1.0, 0.9, 0.8, 0.7, 0.6), 4, True),  # all four rounds done
    ],
)
def test_it_stops_after_patience_rounds_without_a_new_best(losses: tuple[float, ...], kept: int, over: bool) -> None:
    rounds = rounds_of(*losses)
    assert stopped_at(rounds) == kept
    assert finished(rounds, rounds=4, patience=2) is over
    assert not finished([], 4, 2)


def test_gains_are_paired_over_seeds_on_the_half_that_did_not_choose() -> None:
    rounds = rounds_of(1.0, 0.8, 0.9)
    best = rounds[1]
    told = summary(rounds)
    assert (told["stopped_at"], told["removed"]) == (1, 1)
    for of in ("accuracy", "report_loss"):
        for against, other in (("before", getattr(rounds[0], of)), ("random", getattr(best, f"random_{of}"))):
            expected = stats.ttest_rel(getattr(best, of), other).confidence_interval(0.95)
            found = gain(rounds, of, against)
            np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], rtol=0, atol=1e-9)
            assert told["gain"][against][of] == found.as_json()
    json.dumps(told, allow_nan=False)


def test_json_tells_means_and_standard_errors() -> None:
    one = rounds_of(1.0)[0]
    told = one.as_json()["report_loss"]
    assert told["mean"] == pytest.approx(one.report_loss.mean())
    assert told["se"] == pytest.approx(stats.sem(one.report_loss))
    single = Round(
        0, np.array([], dtype=np.int64), 9, np.array([1]), *([np.array([0.5])] * 2), *([np.array([np.nan])] * 3)
    )
    assert single.as_json()["stop_loss"] == {"mean": 0.5, "se": None, "seeds": [0.5]}
    assert single.as_json()["accuracy"] == {"mean": None, "se": None, "seeds": [None]}
    assert as_bytes([Round.from_json(single.as_json())]) == as_bytes([single])


@pytest.mark.parametrize("size", [2, 21, 90])
def test_halves_part_the_held_out_examples_class_by_class(size: int) -> None:
    test = blobs(size, seed=1)
    stop, report = halves(test, 0)
    assert sorted([*stop.tolist(), *report.tolist()]) == list(range(size))
    assert len(report) - len(stop) == size % 2
    for c in range(3):  # a class begins and ends within a pair at most
        assert abs(int((test.labels[stop] == c).sum()) - int((test.labels[report] == c).sum())) <= 2
    np.testing.assert_array_equal(halves(test, 0)[0], stop)
    if size == 90:
        assert halves(test, 1)[0].tolist() != stop.tolist()
        targets = line(900, seed=1)
        means = [targets.labels[half].mean() for half in halves(targets, 0)]
        below = np.mean(np.sort(targets.labels)[::2] == np.sort(targets.labels[halves(targets, 0)[0]]))
        assert below == pytest.approx(
            0.5, abs=4 * 0.5 / np.sqrt(450)
        )  # a coin for each pair, within four standard errors
        assert means[0] == pytest.approx(means[1], abs=0.01)  # of a deviation of about 1.3: neighbors differ by .005


# --- on digits


def digits(flip: float, size: int) -> tuple[Retraining, Planted, set[int]]:
    source = Planted(Digits(), flip=flip, duplicate=0)
    data = source.load()
    rows = np.arange(size)
    train = Rearranged(data.train, rows, data.train.labels[rows], data.train.ids[rows])
    fresh = lambda seed: build("mlp", (1, 8, 8), 10, seed)  # noqa: E731
    given = plan(fresh=fresh, train=train, recipe=Recipe(epochs=20), order=0)
    return given, data.test, {row for row in data.faults.flipped if row < size}


def test_cleaning_planted_flips_raises_accuracy_against_random_removal() -> None:
    given, test, flipped = digits(0.35, 500)
    found = list(clean(given, test, seeds=range(4), share=0.1, rounds=3))
    assert stopped_at(found) >= 2
    out = set(removed_by(found, stopped_at(found)).tolist())
    assert len(out & flipped) > 0.85 * len(out)  # a third of all are flipped
    assert gain(found, "accuracy", "random").low > 0
    assert gain(found, "accuracy", "before").low > 0
    assert gain(found, "report_loss", "random").high < 0


def test_without_faults_it_stops_early() -> None:
    given, test, flipped = digits(0.0, 700)
    assert not flipped
    found = list(clean(given, test, seeds=range(2), share=0.05, rounds=8))
    assert stopped_at(found) <= 1
    assert len(found) <= 4


# --- progress and what does not fit


def test_progress_goes_on_and_may_stop_the_work() -> None:
    heard: list[tuple[int, int]] = []
    settings = {"seeds": SEEDS, "share": 0.05, "rounds": 2, "patience": 2}
    list(clean(plan(), blobs(TEST, seed=1), **settings, progress=lambda done, total, _: heard.append((done, total))))
    assert {total for _, total in heard} == {3000}
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert heard[-1][0] == 3000

    def stop(done: int, total: int, note: str) -> None:
        if done > 1000:
            raise Cancelled

    loop = clean(plan(), blobs(TEST, seed=1), **settings, progress=stop)
    assert next(loop).number == 0
    with pytest.raises(Cancelled):
        next(loop)


@pytest.mark.parametrize(
    ("changed", "error", "said_"),
    [
        ({"share": 0.0}, SettingsError, "share > 0"),
        ({"share": float("nan")}, SettingsError, "share > 0"),
        ({"share": 0.2, "rounds": 3}, SettingsError, "at most 0.5"),
        ({"rounds": 0}, SettingsError, "rounds >= 1"),
        ({"patience": 0}, SettingsError, "patience >= 1"),
        ({"seeds": []}, DataError, "distinct seeds"),
        ({"seeds": [1, 1]}, DataError, "distinct seeds"),
        ({"test": blobs(1)}, DataError, "at least 2 held-out"),
        ({"plan": plan(train=blobs(4)), "rounds": 4}, DataError, "more than 4"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict, error: type[ExplorerError], said_: str) -> None:
    given = {"plan": plan(), "test": blobs(TEST, seed=1), "seeds": SEEDS}
    with pytest.raises(error, match=said_):
        next(clean(**(given | changed)))


def test_rounds_of_another_loop_are_refused() -> None:
    settings = {"share": 0.05, "rounds": 4, "patience": 4}
    test = blobs(TEST, seed=1)
    done = list(islice(clean(plan(), test, seeds=SEEDS, **settings), 2))
    for changed in ({"seeds": [1]}, {"share": 0.1}, {"plan": plan(train=blobs(N + 1))}):
        given = {"plan": plan(), "test": test, "seeds": SEEDS} | settings
        with pytest.raises(DataError, match="this loop"):
            next(clean(**(given | changed), state=done))
    with pytest.raises(DataError, match="same seeds"):
        replace(done[0], accuracy=np.zeros(3))
