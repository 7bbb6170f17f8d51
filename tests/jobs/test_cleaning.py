"""The loop of cleaning as a job: suspects by hand, rounds kept over a stop, and the cleaned data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from explorer import cleaning as loop
from explorer.contracts import Recipe, silent
from explorer.errors import SettingsError
from explorer.jobs import cleaning, further
from explorer.jobs.cleaning import Cleaning
from explorer.jobs.cleaning_stage import suspicion
from explorer.jobs.planning import Request, ingredients_of
from explorer.jobs.subject import subject_of
from explorer.retraining import Retraining
from explorer.sources.array_file import ArrayFile
from explorer.store import Run
from tests.conftest import compute
from tests.jobs.asking import copied, stopped, work
from tests.jobs.test_pipeline import contents

WISH = Cleaning(share=0.03, rounds=4, patience=4, seeds=2)


@pytest.fixture(scope="module")
def cleaned(wine: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small run, cleaned."""
    run = copied(wine, tmp_path_factory.mktemp("cleaned"))
    cleaning.ask(run, WISH)
    assert further.pending(run) == (cleaning.STAGE,)
    assert work(run).state == "done"
    return run


def test_the_score_is_the_mean_loss_and_what_the_neighbors_that_are_left_say(wine: Run) -> None:
    data = ingredients_of(wine).dataset()
    n, rng = len(data.train), np.random.default_rng(0)
    losses, kept = rng.random((3, n)), rng.random(n) < 0.7
    found = suspicion(data, 0, silent)(losses, kept)
    points, labels = data.train.batch(np.arange(n)).double().numpy(), np.asarray(data.train.labels)
    for row in range(n):
        apart = np.linalg.norm(points - points[row], axis=1)
        apart[row] = np.inf
        near = [other for other in np.argsort(apart, kind="stable")[:10] if kept[other]]
        agreeing = sum(labels[other] == labels[row] for other in near)
        expected = losses[:, row].mean() - np.log((agreeing + 0.5) / (len(near) + 1))
        assert found[row] == pytest.approx(expected, rel=1e-6)


def test_the_rounds_are_those_of_the_loop_and_the_kept_one_is_written(cleaned: Run) -> None:
    (asked,) = cleaning.listed(cleaned)
    assert (asked.cleaning, asked.complete, asked.left_out) == (WISH, True, "")
    ingredients = ingredients_of(cleaned)
    data, subject = subject_of(cleaned, ingredients)
    first = asked.rounds[0]
    assert first["removed"] == []
    assert first["kept"] == len(data.train)
    assert [one["number"] for one in asked.rounds] == list(range(len(asked.rounds)))
    means = [one["stop_loss"]["mean"] for one in asked.rounds]
    assert asked.stopped_at == int(np.argmin(means))
    assert asked.summary["removed"] == sum(len(one["removed"]) for one in asked.rounds[: asked.stopped_at + 1])
    # what leaves first is the most suspect by the mean over the seeds of trainings on everything
    from explorer.jobs.subject import fresh

    plan = Retraining(fresh(ingredients, data), data.train, subject.objective, Recipe(**cleaned.spec["recipe"]))
    again = loop.clean(
        plan, data.test, seeds=(0, 1), share=0.03, rounds=4, patience=4, score=suspicion(data, 0, silent)
    )
    assert next(again).suspects.tolist() == asked.rounds[1]["removed"]
    if asked.stopped_at:
        out = [row for one in asked.rounds[: asked.stopped_at + 1] for row in one["removed"]]
        kept = np.setdiff1d(np.arange(len(data.train)), out)
        assert ArrayFile(str(asked.folder / "cleaned.npz")).load().train.ids.tolist() == data.train.ids[kept].tolist()
        assert len((asked.folder / "changes.csv").read_text().splitlines()) == 1 + len(out)
    else:
        assert not (asked.folder / "cleaned.npz").exists()


def test_cleaning_finds_planted_flips_first(cleaned: Run) -> None:
    (asked,) = cleaning.listed(cleaned)
    train = cleaned.table("train")
    removed = asked.rounds[1]["removed"] + asked.rounds[2]["removed"]
    wrong = (train["true_label"] != train["label"]).to_numpy()
    assert wrong[removed].mean() > 5 * wrong.mean()


def test_stopped_after_a_round_it_goes_on_to_the_same_bytes(
    wine: Run, cleaned: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(wine, tmp_path)
    key = cleaning.ask(run, WISH)
    state = stopped(run, lambda stage, _, note: stage == cleaning.STAGE and note.startswith("round 2"), monkeypatch)
    assert state.state == "cancelled"
    (part,) = cleaning.listed(run)
    assert (part.key, part.complete, len(part.rounds)) == (key, False, 2)
    assert part.stopped_at in (0, 1)
    cleaning.ask(run, WISH)
    assert work(run).state == "done"
    assert contents(run.path) == contents(cleaned.path)


def test_what_cannot_be_cleaned_is_said(tmp_path: Path, wine: Run) -> None:
    for wrong in ({"share": 0.0}, {"share": 0.3, "rounds": 2}, {"rounds": 0}, {"patience": 0}, {"seeds": 0}):
        with pytest.raises(SettingsError, match="Expected"):
            Cleaning(**wrong)  # type: ignore[arg-type]
    x = np.arange(24, dtype=np.float32).reshape(12, 2)
    np.savez(tmp_path / "t.npz", x_train=x[:10], y_train=np.arange(10) % 2, x_test=x[10:11], y_test=np.zeros(1, int))
    run = compute(tmp_path / "runs", Request(str(tmp_path / "t.npz"), recipe=Recipe(epochs=2)))
    cleaning.ask(run, Cleaning(share=0.1, rounds=2, seeds=1))
    assert work(run).state == "done"
    (asked,) = cleaning.listed(run)
    assert asked.complete
    assert "Expected at least 2 held-out examples" in asked.left_out
    assert not further.pending(run)
