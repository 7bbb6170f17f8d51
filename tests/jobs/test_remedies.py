"""Acting on examples as a job: what alone-trained models say, the same bytes after a stop, and data that can be used again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from explorer.contracts import Recipe
from explorer.errors import RunError, SettingsError
from explorer.jobs import further, remedies, subsets
from explorer.jobs.cleaned import cleaned, inputs_of
from explorer.jobs.planning import Request, ingredients_of
from explorer.jobs.remedies import Remedy
from explorer.jobs.remedy_stage import change_of
from explorer.jobs.subject import fresh, subject_of
from explorer.sources.array_file import ArrayFile
from explorer.sources.planted import Rearranged
from explorer.store import Run, read_json
from explorer.training import train_epochs
from tests.conftest import SMALL, compute
from tests.jobs.asking import copied, stopped, work
from tests.jobs.test_pipeline import contents

ROUNDING = 2e-4
"""Of losses about 1: float32 sums in another order, over a dozen steps with momentum."""
ROWS = (3, 7, 20, 99)


@pytest.fixture(scope="module")
def tried(wine: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small run with one remedy of each kind."""
    run = copied(wine, tmp_path_factory.mktemp("tried"))
    for remedy in of_each_kind():
        remedies.ask(run, remedy)
    assert further.pending(run) == (remedies.STAGE,)
    assert work(run).state == "done"
    return run


def of_each_kind() -> list[Remedy]:
    return [
        Remedy("drop", ROWS, seeds=2),
        Remedy("relabel", ROWS, (0, 1, 2, 0), queries=(5, 1), seeds=2),
        Remedy("downweight", ROWS, weight=0.25, seeds=2),
    ]


def of(run: Run, action: str) -> remedies.Asked:
    return next(asked for asked in remedies.listed(run) if asked.remedy.action == action)


def alone(run: Run, rows: Any, seed: int, labels: Any = None) -> tuple[float, float, torch.Tensor]:
    """Test accuracy, loss and log-probabilities `[test]` of a model trained by itself on some rows."""
    ingredients = ingredients_of(run)
    data, subject = subject_of(run, ingredients)
    train = data.train
    if labels is not None:
        train = Rearranged(train, np.arange(len(train)), labels, train.ids)
    model = fresh(ingredients, data)(seed)
    recipe = replace(Recipe(**run.spec["recipe"]), seed=seed)
    for _ in train_epochs(model, subject.objective, train, data.test, recipe, rows=rows):
        pass
    targets = torch.tensor(data.test.labels)
    logs = model(data.test.batch(np.arange(len(targets)))).detach().log_softmax(1)
    said = logs[torch.arange(len(targets)), targets]
    return float((logs.argmax(1) == targets).double().mean()), float(-said.double().mean()), said


def test_dropping_is_training_alone_without_them(tried: Run) -> None:
    asked = of(tried, "drop")
    assert (asked.complete, asked.left_out) == (True, "")
    outcome = asked.outcome
    assert outcome is not None
    assert outcome["seeds"] == [0, 1]
    everything = np.arange(tried.meta().train)
    for position, seed in enumerate((0, 1)):
        for arm, rows in (("before", everything), ("after", np.setdiff1d(everything, ROWS))):
            accuracy, loss, said = alone(tried, rows, seed)
            assert outcome[arm]["accuracy"][position] == pytest.approx(accuracy)
            assert outcome[arm]["loss"][position] == pytest.approx(loss, abs=ROUNDING)
            expected = said[torch.tensor(outcome["queries"])]
            np.testing.assert_allclose(outcome[arm]["asked"][position], expected, atol=10 * ROUNDING)


def test_relabeling_is_training_alone_with_other_labels(tried: Run) -> None:
    outcome = of(tried, "relabel").outcome
    assert outcome is not None
    labels = tried.table("train")["label"].to_numpy().copy()
    labels[list(ROWS)] = (0, 1, 2, 0)
    accuracy, loss, said = alone(tried, np.arange(len(labels)), 1, labels)
    assert outcome["after"]["accuracy"][1] == pytest.approx(accuracy)
    assert outcome["after"]["loss"][1] == pytest.approx(loss, abs=ROUNDING)
    assert outcome["queries"] == [5, 1]
    np.testing.assert_allclose(outcome["after"]["asked"][1], said[[5, 1]], atol=10 * ROUNDING)


def test_the_queries_are_those_that_the_rows_hurt_most(tried: Run) -> None:
    total: dict[int, float] = {}
    for query in tried.plan("label").tolist():
        row = tried.row(query, "label")
        assert row is not None
        total[query] = sum(float(row.values[i]) / 127 * row.scale for i in ROWS)
    worst = sorted((value, query) for query, value in total.items() if value < 0)[:20]
    outcome = of(tried, "drop").outcome
    assert outcome is not None
    assert set(outcome["queries"]) == {query for _, query in worst}
    assert outcome["queries"][0] == worst[0][1]
    assert remedies.hurt_most(tried, ROWS, 3) == tuple(query for _, query in worst[:3])


def test_stopped_after_a_seed_it_shows_that_one_and_goes_on_to_the_same_bytes(
    wine: Run, tried: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(wine, tmp_path)
    key = remedies.ask(run, of_each_kind()[0])
    state = stopped(run, lambda stage, _, note: stage == remedies.STAGE and "seed 2 of 2" in note, monkeypatch)
    assert state.state == "cancelled"
    part = of(run, "drop")
    assert part.outcome is not None
    assert (part.key, part.complete, part.outcome["seeds"]) == (key, False, [0])
    assert part.outcome["effects"]["before"]["loss"]["low"] is None  # one seed has no interval
    for remedy in of_each_kind():
        remedies.ask(run, remedy)  # the first again: it has the same name
    assert work(run).state == "done"
    assert contents(run.path) == contents(tried.path)
    assert [asked.remedy.action for asked in remedies.listed(run)] == ["downweight", "relabel", "drop"]


def test_the_cleaned_data_is_data_again(tried: Run) -> None:
    data = ingredients_of(tried).dataset()
    stays = np.setdiff1d(np.arange(len(data.train)), ROWS)
    for action, rows in (("drop", stays), ("relabel", np.arange(len(data.train)))):
        again = ArrayFile(str(of(tried, action).folder / "cleaned.npz")).load()
        assert again.train.ids.tolist() == data.train.ids[rows].tolist()
        assert again.test.ids.tolist() == data.test.ids.tolist()
        assert (again.classes, again.task) == (data.classes, data.task)
        expected = np.array(data.train.labels)
        expected[list(ROWS)] = (0, 1, 2, 0) if action == "relabel" else expected[list(ROWS)]
        assert again.train.labels.tolist() == expected[rows].tolist()
        np.testing.assert_array_equal(inputs_of(again.train), inputs_of(data.train)[rows])
        assert again.train.preview(0).names == data.train.preview(0).names  # type: ignore[union-attr]
    with np.load(of(tried, "downweight").folder / "cleaned.npz", allow_pickle=False) as file:
        assert np.flatnonzero(file["weights"] == np.float32(0.25)).tolist() == list(ROWS)
        assert len(file["x_train"]) == len(data.train)


@pytest.mark.parametrize("kind", ["images", "pixels"])
def test_images_come_back_as_they_were(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (30, 5, 4, 3)).astype(np.uint8) if kind == "pixels" else rng.random((30, 6, 5))
    np.savez(tmp_path / "i.npz", x_train=x[:20], y_train=np.arange(20) % 2, x_test=x[20:], y_test=np.arange(10) % 2)
    data = ArrayFile(str(tmp_path / "i.npz")).load()
    np.savez(tmp_path / "c.npz", **cleaned(data, change_of(Remedy("drop", (1, 4)), data)))
    again = ArrayFile(str(tmp_path / "c.npz")).load()
    rows = np.setdiff1d(np.arange(20), (1, 4))
    assert torch.equal(again.train.batch(np.arange(18)), data.train.batch(rows))
    assert torch.equal(again.test.batch(np.arange(10)), data.test.batch(np.arange(10)))


def test_the_list_of_changes_names_old_and_new(tried: Run) -> None:
    train = tried.table("train")
    listed = {
        action: pd.read_csv(of(tried, action).folder / "changes.csv") for action in ("drop", "relabel", "downweight")
    }
    for action, table in listed.items():
        assert list(table) == ["id", "action", "old label", "new label", "weight"]
        assert table["id"].tolist() == train["id"].iloc[list(ROWS)].tolist()
        old = [tried.meta().classes[label] for label in train["label"].iloc[list(ROWS)]]
        assert table["old label"].tolist() == old
        assert set(table["action"]) == {action}
    assert listed["relabel"]["new label"].tolist() == ["class_0", "class_1", "class_2", "class_0"]
    assert listed["drop"]["new label"].isna().all()
    assert [table["weight"][0] for table in listed.values()] == [0, 1, 0.25]


def test_a_new_label_is_the_model_s_answer_or_that_of_the_neighbors(tried: Run) -> None:
    train, said = tried.table("train")["label"].to_numpy(), tried.table("outcomes-train")["prediction"].to_numpy()
    rows = remedies.suspects(tried, 40)
    assert (
        tried.table("memorization")["score"].to_numpy()[list(rows)].tolist()
        == sorted(tried.table("memorization")["score"], reverse=True)[:40]
    )
    for row, label in zip(rows, remedies.suggested(tried, rows), strict=True):
        near = tried.neighbors("train", row)
        assert near is not None
        most = int(np.bincount(train[near.rows], minlength=3).argmax())
        expected = said[row] if said[row] != train[row] else most if most != train[row] else None
        assert label == expected


def test_more_than_can_be_left_out_and_what_is_not_there_is_refused(tried: Run) -> None:
    before = contents(tried.path)
    for remedy, words in (
        (Remedy("drop", (500,)), "Expected rows below 149"),
        (Remedy("drop", tuple(range(80))), "at most half of them"),
        (Remedy("relabel", (1,), (3,)), r"class numbers in 0\.\.2; found \[3\]"),
        (Remedy("drop", (1,), queries=(99,)), "Expected test rows"),
    ):
        with pytest.raises(SettingsError, match=words):
            remedies.ask(tried, remedy)
    assert contents(tried.path) == before
    for wrong, words in (
        ({"action": "burn"}, "Expected action to be one of"),
        ({"rows": ()}, "Expected distinct training rows"),
        ({"rows": (1, 1)}, "Expected distinct training rows"),
        ({"labels": (1,)}, "and none otherwise; found 1 for drop"),
        ({"action": "relabel"}, "found none for relabel"),
        ({"weight": 1.0}, "Expected weight between 0 and 1"),
        ({"seeds": 1}, "Expected 2 seeds or more"),
    ):
        with pytest.raises(SettingsError, match=words):
            replace(Remedy("drop", (1,)), **wrong)


def test_what_has_no_training_to_repeat_is_refused(wine: Run, tmp_path: Path) -> None:
    for name, changes, error, words in (
        ("memory", {"source": {"kind": "memory"}}, RunError, "made from objects of a Python process"),
        (
            "weights",
            {"model": {"weights": {}}},
            SettingsError,
            "whose weights were given: there is no training to repeat",
        ),
        ("unfinished", {}, RunError, "Expected a run that is done"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec.json").write_text(json.dumps({**wine.spec, **changes}))
        run = Run.at(tmp_path / name)
        with pytest.raises(error, match=words):
            remedies.ask(run, Remedy("drop", (1,)))
        with pytest.raises(error, match=words):
            subsets.ask(run, subsets.SubsetRequest())
        assert [file.name for file in run.path.iterdir()] == ["spec.json"]


def test_a_training_that_diverges_is_said_and_the_run_is_done(
    wine: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from explorer.errors import ModelError
    from explorer.jobs import remedy_stage

    def diverge(*_: object) -> None:
        raise ModelError("Expected finite weights; found others.")

    run = copied(wine, tmp_path)
    remedies.ask(run, Remedy("drop", (1,), seeds=2))
    monkeypatch.setattr(remedy_stage, "compare", diverge)
    assert work(run).state == "done"
    asked = of(run, "drop")
    assert (asked.complete, asked.outcome, asked.left_out) == (True, None, "Expected finite weights; found others.")
    assert not further.pending(run)


def test_a_regression_is_relabeled_with_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4)).astype(np.float32)
    y = (x @ np.array([1, -2, 0.5, 0]) + 0.1 * rng.normal(size=80)).astype(np.float32)
    np.savez(tmp_path / "r.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    run = compute(tmp_path / "runs", Request(str(tmp_path / "r.npz"), recipe=Recipe(epochs=3), queries=5))
    rows = remedies.suspects(run, 3)
    labels = remedies.suggested(run, rows)
    said = run.table("outcomes-train")["prediction"].to_numpy()
    assert labels == tuple(float(said[row]) for row in rows)
    key = remedies.ask(run, Remedy("relabel", rows, labels, seeds=2))  # type: ignore[arg-type]
    assert work(run).state == "done"
    asked = remedies.listed(run)[0]
    assert (asked.key, asked.left_out) == (key, "")
    assert asked.outcome is not None
    assert asked.outcome["effects"]["before"]["accuracy"]["mean"] is None
    again = ArrayFile(str(asked.folder / "cleaned.npz")).load()
    assert again.task == "regression"
    np.testing.assert_allclose(again.train.labels[list(rows)], np.array(labels, dtype=np.float32))
    assert read_json(asked.folder / "asked.json") == json.loads(json.dumps(asdict(asked.remedy)))


def test_faults_are_found_and_mended(tried: Run) -> None:
    """The loop that a person goes through: suspects, their suggested labels, and the planted truth."""
    train, meta = tried.table("train"), SMALL
    assert meta.flip == 0.1
    wrong = set(np.flatnonzero(train["true_label"] != train["label"]))
    rows = remedies.suspects(tried, len(wrong))
    assert len(wrong & set(rows)) / len(wrong) > 0.6
    new = dict(zip(rows, remedies.suggested(tried, rows), strict=True))
    right = [new[row] == train["true_label"][row] for row in wrong & set(rows)]
    assert np.mean(right) > 0.9
