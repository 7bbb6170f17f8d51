"""What a person types about memorization: what is known, measuring it, acting on examples, cleaning; mistakes as sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from explorer.jobs import cleaning, remedies, signs, subsets
from explorer.store import Run, write_json
from tests.jobs.asking import copied, work
from tests.test_cli import explorer, refused


@pytest.fixture(scope="module")
def run(wine: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small run, to be asked for more."""
    return copied(wine, tmp_path_factory.mktemp("typed"))


@pytest.fixture(autouse=True)
def _here() -> Iterator[None]:
    """The job is done in this process: what a worker of its own does is tested with the jobs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("explorer.jobs.start", work)
        yield


def test_what_is_known_is_said_and_nothing_is_started(wine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("explorer.jobs.start", None)
    place = ("--runs", wine.path.parent)
    said = explorer("memorized", wine.key, *place)
    assert said.exit_code == 0, said.output
    table = wine.table("memorization")
    assert f"{table['memorized'].sum()} of {len(table)} training examples are flagged as suspect" in said.output
    assert "not measured yet: it trains models on random subsets" in said.output
    assert f"Measure it by retraining: explorer memorized {wine.key} --minutes 2" in said.output
    told = json.loads(explorer("memorized", wine.key, "--json", "--top", 3, *place).output)
    assert set(told["spearman"]) | set(told["missing"]) == set(signs.SIGNS)
    assert told["against"] == "score"
    assert told["spearman"]["csl"] == pytest.approx(spearmanr(table["csl"], table["score"]).statistic)
    order = np.argsort(-table["score"].to_numpy(), kind="stable")[:3]
    assert [one["id"] for one in told["suspects"]] == wine.table("train")["id"].iloc[order].tolist()
    assert not wine.has(subsets.ASKED)


def test_measured_by_retraining(run: Run) -> None:
    place = ("--runs", run.path.parent)
    said = explorer("memorized", run.key, "--models", 20, *place)
    assert said.exit_code == 0, said.output
    found = subsets.found(run)
    assert found is not None
    assert f"By 20 models, each trained on a random 70 %, {found.estimate.flagged.sum()} are memorized" in said.output
    assert "not measured yet" not in said.output
    told = json.loads(explorer("memorized", run.key, "--models", 20, "--json", *place).stdout)
    assert (told["models"], told["complete"], told["missing"]) == (20, True, {})
    assert (told["against"], "memorization" in told["spearman"]) == ("memorization", False)
    row = run.table("train")["id"].tolist().index(told["suspects"][0]["id"])
    assert told["suspects"][0]["memorization"] == pytest.approx(found.estimate.memorization[row])


def test_dropping_by_ids_and_by_suspects(run: Run) -> None:
    place, ids = ("--runs", run.path.parent), run.table("train")["id"].iloc[[4, 2]].tolist()
    said = explorer("act", run.key, "drop", "--ids", ",".join(ids), "--seeds", 2, *place)
    assert said.exit_code == 0, said.output
    asked = remedies.listed(run)[0]
    assert asked.remedy.rows == (2, 4)
    assert asked.outcome is not None
    for against in ("before", "random"):
        assert f"test loss: {asked.outcome['effects'][against]['loss']['mean']:+.4f}" in said.output
    assert f"{asked.folder / 'cleaned.npz'} (for --data)" in said.output
    words = ("act", run.key, "downweight", "--suspects", 3, "--weight", 0.5, "--seeds", 2)
    told = json.loads(explorer(*words, "--json", *place).stdout)
    assert (told["complete"], told["left_out"], told["outcome"]["seeds"]) == (True, "", [0, 1])
    assert remedies.listed(run)[0].remedy.rows == remedies.suspects(run, 3)
    again = ("run", "--data", asked.folder / "cleaned.npz", "--estimate", "--epochs", 1, "--json")
    assert json.loads(explorer(*again, *place).output)["train"] == run.meta().train - 2


def test_relabeling_as_suggested_and_as_told(run: Run) -> None:
    place, rows = ("--runs", run.path.parent), remedies.suspects(run, 25)
    new = dict(zip(rows, remedies.suggested(run, rows), strict=True))
    kept = sum(label is None for label in new.values())
    said = explorer("act", run.key, "relabel", "--suspects", 25, "--seeds", 2, *place)
    assert said.exit_code == 0, said.output
    remedy = remedies.listed(run)[0].remedy
    assert dict(zip(remedy.rows, remedy.labels or (), strict=True)) == {k: v for k, v in new.items() if v is not None}
    assert (f"{kept} kept their label" in said.output) == bool(kept)
    row = next(row for row in rows if run.table("train")["label"][row] != 1)
    name = run.table("train")["id"][row]
    said = explorer("act", run.key, "relabel", "--ids", name, "--to", "class_1", "--seeds", 2, *place)
    assert said.exit_code == 0, said.output
    assert remedies.listed(run)[0].remedy.labels == (1,)


def test_cleaning_draws_its_rounds(run: Run) -> None:
    place = ("--runs", run.path.parent)
    words = ("clean", run.key, "--share", 0.02, "--rounds", 1, "--seeds", 1)
    said = explorer(*words, *place)
    assert said.exit_code == 0, said.output
    (asked,) = cleaning.listed(run)
    assert said.output.count("<- kept") == 1
    assert f"{asked.rounds[0]['stop_loss']['mean']:.4f}" in said.output
    told = json.loads(explorer(*words, "--json", *place).stdout)
    assert told["summary"] == json.loads(json.dumps(asked.summary))


def test_in_the_background_it_returns_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Run] = []
    monkeypatch.setattr("explorer.jobs.start", started.append)
    place = ("--runs", run.path.parent)
    for words in (
        ("memorized", run.key, "--minutes", 0.1),
        ("act", run.key, "drop", "--suspects", 2),
        ("clean", run.key),
    ):
        said = explorer(*words, "--background", *place)
        assert "goes on in the background" in said.output
        assert json.loads(explorer(*words, "--background", "--json", *place).output)["run"] == run.key
    assert len(started) == 6


def test_mistakes_are_sentences(wine: Run, tmp_path: Path) -> None:
    place = ("--runs", wine.path.parent)
    for words, said in (
        (("memorized", wine.key, "--models", 5), "Expected 20 models or more; found 5"),
        (("memorized", wine.key, "--minutes", 0), "Expected a number of models or seconds > 0"),
        (("memorized", wine.key, "--models", 20, "--minutes", 1), "Expected --models or --minutes; found both"),
        (("act", wine.key, "drop"), "Expected --ids or --suspects; found neither"),
        (("act", wine.key, "drop", "--ids", "a", "--suspects", 3), "Expected --ids or --suspects; found both"),
        (("act", wine.key, "drop", "--ids", "nobody"), "found 'nobody'. Ids look like"),
        (
            ("act", wine.key, "drop", "--suspects", 3, "--to", "class_1"),
            "Expected --to with relabel; found it with drop",
        ),
        (
            ("act", wine.key, "relabel", "--suspects", 3, "--to", "cat"),
            "Expected a class out of class_0, class_1, class_2",
        ),
        (("act", wine.key, "relabel", "--suspects", 3, "--to", "7"), "class numbers in 0..2"),
        (("act", wine.key, "drop", "--suspects", 120), "at most half of them"),
        (("act", wine.key, "downweight", "--suspects", 3, "--weight", 2), "Expected weight between 0 and 1; found 2.0"),
        (("act", wine.key, "drop", "--suspects", 3, "--seeds", 1), "Expected 2 seeds or more; found 1"),
        (("clean", wine.key, "--share", 0.3), "Expected a share > 0 and rounds >= 1"),
        (("clean", "zzz"), "Expected a run named 'zzz'"),
    ):
        refused(explorer(*words, *place), said)
    assert not wine.has(remedies.FOLDER)
    write_json(tmp_path / "old" / "spec.json", dict(wine.spec))
    refused(
        explorer("memorized", "old", "--runs", tmp_path), "Expected a run whose memorization was measured; found old"
    )
    refused(explorer("act", "old", "drop", "--suspects", 3, "--runs", tmp_path), "Expected a run whose memorization")
