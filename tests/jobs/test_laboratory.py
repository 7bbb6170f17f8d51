"""Experiments as a job: what a plain loop of fine-tuning says, the same bytes after a stop, and refusals in words."""

from __future__ import annotations

import copy
import json
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from explorer import jobs
from explorer.contracts import Recipe
from explorer.errors import RunError, SettingsError
from explorer.jobs import further, laboratory
from explorer.jobs.laboratory import Asked, Experiment
from explorer.jobs.planning import Request, ingredients_of
from explorer.jobs.subject import subject_of
from explorer.store import Run, bundle, read_json
from tests.conftest import compute
from tests.jobs.asking import copied, stopped, work
from tests.jobs.test_pipeline import contents
from tests.jobs.test_process import until

SAME64 = 1e-11
"""Of measures about 1 in float64, summed in another order; effects are their differences."""
SAMPLES, PROBES = tuple(range(0, 80, 2)), (3, 0, 7)


@pytest.fixture(scope="module")
def taught(wine: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small run with experiments of three kinds."""
    run = copied(wine, tmp_path_factory.mktemp("taught"))
    for asked in of_each_kind():
        laboratory.ask(run, asked)
    assert further.pending(run) == (laboratory.STAGE,)
    assert work(run).state == "done"
    return run


def of_each_kind() -> list[Asked]:
    return [
        Asked(SAMPLES),
        Asked(SAMPLES[:5], PROBES, "adam", steps=3, rate=1e-3, layers=("5",), noise=False),
        Asked(SAMPLES[:6], epoch=1, noise=False),
    ]


def of(run: Run, asked: Asked) -> Experiment:
    return next(one for one in laboratory.listed(run) if one.asked == asked)


def by_hand(run: Run, asked: Asked, rate: float) -> np.ndarray:
    """E[i, j] by copying the model, fine-tuning the copy, and asking again: torch's own optimizers, one by one."""
    data, subject = subject_of(run, ingredients_of(run))
    model = subject.model
    if asked.epoch is not None:
        assert subject.training is not None
        model.load_state_dict(dict(subject.training.weights(asked.epoch)))
    model = model.double().eval()
    examples = data.train if asked.probes is None else data.test
    probes = np.array(asked.probes or asked.samples)
    x, y = examples.batch(probes).double(), torch.tensor(examples.labels[probes])

    def said(network: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return network(x).log_softmax(1)[torch.arange(len(y)), y]

    before, found = said(model), []
    for row in asked.samples:
        own = copy.deepcopy(model)
        moving = [p for name, p in own.named_parameters() if asked.layers is None or name.startswith("5.")]
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[asked.optimizer]
        optimizer = kind(moving, lr=rate)
        for _ in range(asked.steps):
            optimizer.zero_grad()
            outputs = own(data.train.batch(np.array([row])).double())
            torch.nn.functional.cross_entropy(outputs, torch.tensor(data.train.labels[[row]])).backward()
            optimizer.step()
        found.append((said(own) - before).numpy())
    return np.stack(found)


def test_the_matrix_is_that_of_a_plain_loop_of_fine_tuning(taught: Run) -> None:
    for asked in of_each_kind():
        experiment = of(taught, asked)
        assert (experiment.complete, experiment.left_out) == (True, "")
        card, arrays = experiment.found, laboratory.matrices(experiment)
        assert card is not None
        assert arrays is not None
        assert arrays["samples"].tolist() == list(asked.samples)
        assert arrays["probes"].tolist() == list(asked.probes or asked.samples)
        rate = asked.rate or card["rate"]
        assert card["searched"] == (asked.rate is None)
        np.testing.assert_allclose(arrays["values"], by_hand(taught, asked, rate), atol=SAME64)
        assert arrays["first_order"].shape == arrays["distance"].shape == arrays["values"].shape


def test_the_scorecard_says_every_wish_or_why_it_is_missing(taught: Run) -> None:
    whole, other, early = (of(taught, asked).found for asked in of_each_kind())
    assert whole is not None
    assert other is not None
    assert early is not None
    names = {"symmetry", "decay with semantic distance", "sparseness", "noise invariance"}
    for card in (whole, other, early):
        found = {one["name"] for one in card["desiderata"]}
        assert found | set(card["missing"]) == names
        assert not found & set(card["missing"])
        for one in card["desiderata"]:
            assert one["low"] <= one["value"] <= one["high"]
            assert one["sentence"].endswith(".")
            assert one["controls"]
    assert {one["name"] for one in whole["desiderata"]} == names
    assert whole["linear"]["linear"]  # one small step of SGD
    assert not other["linear"]["linear"]
    assert "cannot be turned round" in other["missing"]["symmetry"]
    assert other["missing"]["noise invariance"] == "It was not asked for."
    assert other["words"] == "3 steps of Adam on 5, rate 0.001"
    assert early["words"].endswith("(searched), after epoch 1")
    symmetric = next(one for one in whole["desiderata"] if one["name"] == "symmetry")
    values = bundle(of(taught, of_each_kind()[0]).folder / laboratory.MATRIX)["values"]
    apart = np.linalg.norm(values - values.T) / np.linalg.norm(values + values.T)
    assert symmetric["value"] == pytest.approx(apart, rel=1e-9)


def test_experiments_are_compared_wish_by_wish(taught: Run) -> None:
    cards = [of(taught, asked).found or {} for asked in of_each_kind()]
    table = laboratory.compare(cards)
    assert len(table) == sum(len(card["desiderata"]) for card in cards)
    assert table["experiment"].tolist() == sorted(table["experiment"])
    both = table[table["name"] == "sparseness"]
    assert both["settings"].tolist() == [card["words"] for card in cards]
    assert both["value"].tolist() == [
        next(one["value"] for one in card["desiderata"] if one["name"] == "sparseness") for card in cards
    ]
    assert set(both["control"]) == {"random noise"}
    assert both["control_value"].tolist() == [
        next(one["controls"]["random noise"]["value"] for one in card["desiderata"] if one["name"] == "sparseness")
        for card in cards
    ]
    assert len(laboratory.compare([])) == 0


@pytest.mark.parametrize("where", ["part", "noise"])
def test_stopped_it_goes_on_to_the_same_bytes(
    wine: Run, taught: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    run = copied(wine, tmp_path)
    for asked in of_each_kind():
        laboratory.ask(run, asked)

    def reached(stage: str, done: int, note: str) -> bool:
        noisy = "noise 0.05" in note
        return stage == laboratory.STAGE and (noisy if where == "noise" else 32 <= done < 40)

    assert stopped(run, reached, monkeypatch).state == "cancelled"
    written = {file.name for file in of(run, of_each_kind()[0]).folder.iterdir()}
    assert "part-00000.safetensors" in written
    assert ("part-00032.safetensors" in written) == (where == "noise")
    assert laboratory.SCORECARD not in written
    kept = (of(run, of_each_kind()[0]).folder / "part-00000.safetensors").stat().st_mtime_ns
    assert work(run).state == "done"
    assert (of(run, of_each_kind()[0]).folder / "part-00000.safetensors").stat().st_mtime_ns == kept
    assert contents(run.path) == contents(taught.path)


def test_a_sample_that_fails_is_said_by_its_id_and_the_rest_goes_on(wine: Run, tmp_path: Path) -> None:
    run = copied(wine, tmp_path)
    rows = laboratory.evenly(run, count=12)
    key = laboratory.ask(run, Asked(rows, rate=1e4, noise=False))
    assert work(run).state == "done"
    experiment = laboratory.listed(run)[0]
    card, arrays = experiment.found, laboratory.matrices(experiment)
    assert (experiment.key, card is None) == (key, False)
    assert card is not None
    assert arrays is not None
    ids = run.table("train")["id"].astype(str)[list(rows)].tolist()
    failed = [name in card["failed"] for name in ids]
    assert sum(failed) > 0
    assert np.isnan(arrays["values"]).all(1).tolist() == failed
    assert all("Try a rate of 1e+03" in why for why in card["failed"].values())


def test_what_cannot_be_taught_is_said_and_the_run_is_done(wine: Run, tmp_path: Path) -> None:
    run = copied(wine, tmp_path)
    laboratory.ask(run, Asked((1, 2), layers=("nowhere",)))
    assert work(run).state == "done"
    experiment = laboratory.listed(run)[0]
    assert (experiment.found, experiment.complete) == (None, True)
    assert "found 'nowhere'" in experiment.left_out
    assert not further.pending(run)
    assert len(laboratory.compare([read_json(experiment.folder / laboratory.SCORECARD)])) == 0


def test_samples_are_spread_evenly_over_classes(wine: Run) -> None:
    labels = wine.table("train")["label"].to_numpy()
    rows = laboratory.evenly(wine, count=31, seed=3)
    counts = np.bincount(labels[list(rows)])
    assert len(rows) == 31 == len(set(rows))
    assert counts.max() - counts.min() <= 1
    assert rows == laboratory.evenly(wine, count=31, seed=3) == tuple(sorted(rows))
    assert rows != laboratory.evenly(wine, count=31, seed=4)
    assert laboratory.evenly(wine, count=10_000) == tuple(range(len(labels)))
    values = np.linspace(5, -5, 50)
    assert laboratory.spread(values, 5, by_class=False) == (0, 13, 25, 37, 49)


def test_requests_are_checked(wine: Run, tmp_path: Path) -> None:
    run = copied(wine, tmp_path)
    before = contents(run.path)
    for asked, words in (
        (Asked((500,)), r"Expected training rows in 0\.\.148; found 500"),
        (Asked((1,), (99,)), r"Expected test rows in 0\.\."),
        (Asked((1,), epoch=6), "found one of 5 epochs"),
    ):
        with pytest.raises(SettingsError, match=words):
            laboratory.ask(run, asked)
    assert contents(run.path) == before
    for wrong, words in (
        ({"samples": ()}, "Expected distinct training rows"),
        ({"samples": (1, 1)}, "Expected distinct training rows"),
        ({"probes": ()}, "Expected distinct test rows"),
        ({"samples": tuple(range(2001)), "probes": tuple(range(2000))}, "Expected at most 4,000,000 pairs"),
        ({"epoch": -1}, "Expected an epoch of 0 or more"),
        ({"steps": 0}, "Expected steps in"),
        ({"rate": -1.0}, "Expected rate > 0"),
        ({"optimizer": "rmsprop"}, "Expected optimizer out of sgd, adam"),
    ):
        with pytest.raises(SettingsError, match=words):
            replace(Asked((1,)), **wrong)
    key = laboratory.ask(run, Asked((1, 2)))
    assert laboratory.ask(run, Asked((1, 2))) == key
    assert read_json(run.path / "laboratory" / key / "asked.json") == json.loads(json.dumps(asdict(Asked((1, 2)))))
    assert laboratory.pending(run)
    assert laboratory.matrices(laboratory.listed(run)[0]) is None


def test_what_no_file_brings_back_is_refused(wine: Run, tmp_path: Path) -> None:
    for name, changes, words in (
        ("memory", {"source": {"kind": "memory"}}, "made from objects of a Python process"),
        ("unfinished", {}, "Expected a run that is done"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec.json").write_text(json.dumps({**wine.spec, **changes}))
        with pytest.raises(RunError, match=words):
            laboratory.ask(Run.at(tmp_path / name), Asked((1,)))


def test_a_run_with_weights_that_were_given_is_taught_but_has_no_stages(wine: Run, tmp_path: Path) -> None:
    request = Request("wine", weights=str(wine.path / "model.safetensors"), queries=3)
    run = compute(tmp_path, request)
    with pytest.raises(SettingsError, match="its weights were given"):
        laboratory.ask(run, Asked((1,), epoch=1))
    laboratory.ask(run, Asked((1, 2, 3), noise=False))
    assert work(run).state == "done"
    assert laboratory.listed(run)[0].found is not None


def test_a_regression_is_taught_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4)).astype(np.float32)
    y = (x @ np.array([1, -2, 0.5, 0]) + 0.1 * rng.normal(size=80)).astype(np.float32)
    np.savez(tmp_path / "r.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    run = compute(tmp_path / "runs", Request(str(tmp_path / "r.npz"), recipe=Recipe(epochs=3), queries=5))
    laboratory.ask(run, Asked(laboratory.evenly(run, count=8)))
    assert work(run).state == "done"
    card = laboratory.listed(run)[0].found
    assert card is not None
    assert (card["task"], card["missing"], len(card["desiderata"])) == ("regression", {}, 4)


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_to_the_bytes_of_a_clean_run(wine: Run, tmp_path: Path) -> None:
    broken, clean = (copied(wine, tmp_path / name) for name in ("broken", "clean"))
    asked = Asked(tuple(range(140)), steps=300, rate=1e-4, noise=False)
    for run in (broken, clean):
        laboratory.ask(run, asked)
    jobs.start(broken)
    state = until(broken, lambda s: not s.active or (s.stage == laboratory.STAGE and s.done >= 64))
    assert state.state == "running", state
    os.kill(state.pid, signal.SIGKILL)
    assert until(broken, lambda s: not s.active).state == "interrupted"
    assert (of(broken, asked).folder / "part-00000.safetensors").exists()
    assert of(broken, asked).found is None
    for run in (broken, clean):
        jobs.start(run)
        assert until(run, lambda s: not s.active).state == "done"
    assert contents(broken.path) == contents(clean.path)
