"""What a job writes is what the methods say, block by block, whatever is missing when it starts."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from explorer import maps
from explorer.contracts import Queries, Target
from explorer.errors import DataError, ModelError, RunError, SettingsError
from explorer.influence import GradientDot, LastLayer
from explorer.jobs import pipeline, predictions
from explorer.jobs.planning import Request, ingredients_of, plan
from explorer.jobs.process import run_as_worker
from explorer.jobs.query import COLUMNS, rank_from_run, ranking
from explorer.jobs.subject import make_subject
from explorer.sources.digits import Digits
from explorer.sources.planted import Planted
from explorer.store import Run, create, key_of, read_json
from tests.conftest import SMALL, compute

OLD_KEY = "61a2cbd75688"
"""Name of that run as the first version of the explorer gave it: a run is found again by its settings."""
HALF_STEP = 0.5 / 127 + 1e-6
"""Rounding to 127 levels moves a score by at most half a level of its scale."""


def full_scores(run: Run, target: Target, rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of both methods, fitted anew on the run's model, outside the pipeline."""
    ingredients = ingredients_of(run)
    data = ingredients.dataset()
    model = ingredients.model(data)
    model.load_state_dict(safetensors.torch.load((run.path / "model.safetensors").read_bytes()))
    subject = make_subject(model, data, run.spec["recipe"]["weight_decay"])
    queries = Queries(data.test, rows, target)
    return LastLayer().fit(subject).score(queries).values, GradientDot().fit(subject).score(queries).values


@pytest.mark.parametrize("target", ["label", "prediction"])
def test_top_lists_and_rows_are_those_of_the_method(wine: Run, target: Target) -> None:
    rows = wine.plan(target)
    exact, second = full_scores(wine, target, rows)
    for position, query in enumerate(rows):
        values = exact[position].numpy()
        top, row = wine.top(int(query), target), wine.row(int(query), target)
        assert top is not None
        assert row is not None
        order = np.argsort(-values, kind="stable")
        np.testing.assert_allclose(top.towards_influence[:5], np.clip(values[order[:5]], 0, None), rtol=1e-5)
        np.testing.assert_allclose(top.away_influence[:5], np.clip(values[order[::-1][:5]], None, 0), rtol=1e-5)
        np.testing.assert_allclose(
            values[top.towards[top.towards >= 0]], top.towards_influence[top.towards >= 0], rtol=1e-5
        )
        assert top.total == pytest.approx(np.abs(values).sum(), rel=1e-4)
        inside = np.abs(values) <= row.scale
        assert np.abs(row.values / 127 * row.scale - values)[inside].max() <= HALF_STEP * row.scale
        assert (np.abs(row.values[~inside]) == 127).all()
        ranks = pd.DataFrame({"a": values, "b": second[position].numpy()}).corr("spearman").iloc[0, 1]
        assert top.agreement == pytest.approx(ranks, abs=1e-4)


def test_only_wrong_predictions_ask_for_the_model_s_own_answer(wine: Run) -> None:
    queries = wine.table("queries")
    assert set(wine.plan("prediction")) == set(queries.loc[queries["wrong"], "row"])
    assert set(wine.plan("label")) == set(queries["row"])


def test_queries_begin_with_the_most_confident_mistake(wine: Run) -> None:
    table = pd.DataFrame(
        {
            "confidence": [0.9, 0.6, 0.8, 0.7],
            "wrong": [False, True, True, False],
            "loss": [0.1, 1.0, 2.0, 0.3],
        }
    )
    assert predictions.worst_first(table, "classification").tolist() == [2, 1, 3, 0]
    plain = pd.DataFrame({"confidence": [np.nan] * 3, "wrong": [False] * 3, "loss": [0.2, 0.9, 0.1]})
    assert predictions.worst_first(plain, "regression").tolist() == [1, 0, 2]
    queries = wine.table("queries")
    wrong = queries["wrong"].to_numpy()
    assert (np.diff(wrong.astype(int)) <= 0).all()
    assert (np.diff(queries.loc[wrong, "confidence"]) <= 0).all()


def test_planted_faults_are_on_record(wine: Run) -> None:
    train, meta = wine.table("train"), wine.meta()
    assert meta.flipped == (train["true_label"] != train["label"]).sum() > 0
    assert meta.copies == (train["copy_of"] >= 0).sum() > 0
    numbers = read_json(wine.path / "summary.json")
    assert numbers["flips_planted"] == meta.flipped
    assert 0.5 < numbers["flips_score"]["auc"] <= 1


def test_csl_is_the_sum_of_the_logged_losses(wine: Run) -> None:
    log = wine.training_log("loss")
    assert log is not None
    assert log.shape == (5, wine.meta().train)
    np.testing.assert_allclose(wine.table("memorization")["csl"], log.sum(0), rtol=1e-6)


def test_held_out_influence_is_the_mean_over_queries(wine: Run) -> None:
    rows = np.arange(wine.meta().test)
    exact, _ = full_scores(wine, "label", rows)
    held_out = wine.table("memorization")["held_out"].to_numpy()
    np.testing.assert_allclose(held_out, exact.mean(0).numpy(), atol=1e-5 * float(exact.abs().max()))


@pytest.mark.parametrize(
    "lost",
    [
        ["memorization.parquet", "summary.json"],
        ["scores/label/00000.safetensors"],
        ["queries.parquet", "plan-label.npy", "features.npy"],
        ["model.safetensors", "checkpoints/epoch-0005.safetensors"],
        ["fitted.json", "coordinates-pca.npy", "data.json", "train.parquet"],
        ["neighbors.json", "neighbors-rows.npy", "scores/prediction/00000.npy", "scores/prediction/00000.safetensors"],
    ],
)
def test_what_is_missing_is_computed_again_to_the_same_bytes(wine: Run, tmp_path: Path, lost: list[str]) -> None:
    import shutil

    copy = tmp_path / wine.key
    shutil.copytree(wine.path, copy)
    for name in [*lost, "state.json"]:
        (copy / name).unlink()
    again = compute(tmp_path, SMALL)
    assert again.path == copy
    found, expected = contents(again.path), contents(wine.path)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def contents(path: Path) -> dict[str, bytes]:
    """Bytes of every file but those that tell of the process and its times."""
    telling = {"state.json", "launch.json", "log", "lock", "cancel"}
    files = (file for file in path.rglob("*") if file.is_file() and file.name not in telling)
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_fewer_queries_on_request(tmp_path: Path, wine: Run) -> None:
    run = compute(tmp_path, replace(SMALL, queries=3))
    assert run.plan("label").tolist() == wine.plan("label")[:3].tolist()
    assert len(run.table("queries")) == len(wine.table("queries"))
    assert run.top(int(wine.plan("label")[3]), "label") is None


@pytest.mark.parametrize("from_file", [False, True])
def test_queries_named_by_their_ids(tmp_path: Path, wine: Run, from_file: bool) -> None:
    rows = wine.plan("label")[[7, 2, 4]]
    names = wine.table("test").set_index("row").loc[rows, "id"].tolist()
    file = tmp_path / "ids.txt"
    file.write_text("\n".join([*names, "", names[0]]) + "\n")
    run = compute(tmp_path, replace(SMALL, query_ids=str(file) if from_file else ", ".join(names)))
    assert run.plan("label").tolist() == wine.plan("label")[[2, 4, 7]].tolist(), "worst first"
    differ = wine.plan("prediction")
    assert run.plan("prediction").tolist() == [row for row in differ if row in rows]
    assert run.key != wine.key
    assert run.key == create(tmp_path, plan(replace(SMALL, query_ids=",".join(reversed(names))))).key


def test_unknown_ids_are_said_before_anything_is_trained(tmp_path: Path, wine: Run) -> None:
    known = wine.table("test")["id"].tolist()
    asked = replace(SMALL, query_ids=f"{known[0]},nobody,x1,x2,x3")
    run = create(tmp_path, plan(asked))
    body = lambda writer: pipeline.run_pipeline(run, ingredients_of(run), writer)  # noqa: E731
    state = run_as_worker(run, len(pipeline.STAGES), body)
    assert state.state == "failed"
    words = (
        rf"Expected ids of test examples.*found 'nobody', 'x1', 'x2' and 1 more, which are none of its {len(known)}\..*"
    )
    assert re.fullmatch(words + rf"Ids look like {', '.join(known[:3])}: start a run.*", state.reason)
    assert not run.has("data.json")


def test_the_hash_of_a_run_without_ids_is_that_of_older_versions() -> None:
    spec = plan(Request("wine", queries=3))
    assert key_of(spec) == OLD_KEY


def test_neighbors_are_those_of_scikit_learn_and_show_the_planted_copies(wine: Run) -> None:
    n, features = wine.meta().train, np.asarray(wine.array("features"))
    brute = NearestNeighbors(n_neighbors=11, algorithm="brute").fit(features[:n].astype(np.float64))
    distances, _ = brute.kneighbors(features.astype(np.float64))
    for split, row, at in [("train", r, r) for r in range(n)] + [("test", r, n + r) for r in range(wine.meta().test)]:
        found = wine.neighbors(split, row)
        assert found is not None
        expected = distances[at, 1:] if split == "train" else distances[at, :10]
        np.testing.assert_allclose(found.distances, expected, rtol=1e-3, atol=1e-4)
        assert split == "test" or row not in found.rows
        real = np.linalg.norm(features[found.rows].astype(np.float64) - features[at], axis=1)
        np.testing.assert_allclose(found.distances, real, rtol=1e-3, atol=1e-4)
    copies = wine.table("train")["copy_of"].to_numpy()
    near = wine.near_duplicates()
    assert near is not None
    assert near[copies >= 0].all()
    assert near[copies[copies >= 0]].all()
    evidence = read_json(wine.path / "neighbors.json")
    assert evidence["exact"] is True
    assert evidence["near_duplicates"] == near.sum() < n / 2


def test_every_planted_copy_of_digits_is_a_near_duplicate_and_nothing_else() -> None:
    data = Planted(Digits(), duplicate=0.02, seed=0).load()
    pixels = np.concatenate([part.batch(np.arange(len(part))).flatten(1).numpy() for part in (data.train, data.test)])
    _, distances = maps.training_neighbors(pixels, len(data.train), 1)
    nearest = distances[: len(data.train), 0]
    found = np.flatnonzero(nearest <= maps.near_duplicate_distance(nearest))
    assert set(found) == set(data.faults.copies) | set(data.faults.copies.values())


def test_regression_end_to_end(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4)).astype(np.float32)
    y = (x @ np.array([1, -2, 0.5, 0]) + 0.1 * rng.normal(size=80)).astype(np.float32)
    np.savez(tmp_path / "r.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    run = compute(tmp_path, Request(str(tmp_path / "r.npz"), model="linear"))
    assert run.meta().task == "regression"
    query = int(run.plan("label")[0])
    label, output = run.row(query, "label"), run.row(query, "prediction")
    assert label is not None
    assert output is not None
    found = run.table("queries").set_index("row").loc[query]
    error = found["prediction"] - found["label"]
    exact, own = label.values / 127 * label.scale, -error * output.values / 127 * output.scale
    assert np.corrcoef(exact, own)[0, 1] > 0.999  # ∇(−½e²) = −e ∇f


def test_gradient_dot_has_the_exact_method_as_second_opinion(tmp_path: Path) -> None:
    run = compute(tmp_path, replace(SMALL, method="gradient-dot"))
    rows = run.plan("label")[:1]
    exact, dot = full_scores(run, "label", rows)
    top = run.top(int(rows[0]), "label")
    assert top is not None
    assert top.towards_influence[0] == pytest.approx(float(dot.max()), rel=1e-5)
    ranks = pd.DataFrame({"a": exact[0].numpy(), "b": dot[0].numpy()}).corr("spearman").iloc[0, 1]
    assert top.agreement == pytest.approx(ranks, abs=1e-4)


def test_export_ranks_everything_in_full_precision(wine: Run) -> None:
    query = int(wine.plan("label")[0])
    name = wine.table("queries").set_index("row").loc[query, "id"]
    table = rank_from_run(wine, name, "label")
    exact, _ = full_scores(wine, "label", np.array([query]))
    assert list(table.columns) == list(COLUMNS)
    assert table["rank"].tolist() == list(range(1, wine.meta().train + 1))
    np.testing.assert_allclose(table["influence"], np.sort(exact[0].numpy())[::-1], rtol=1e-5, atol=1e-9)
    assert table["share"].sum() == pytest.approx(1, abs=1e-5)
    assert (wine.table("train")["id"].to_numpy()[table["row"]] == table["id"]).all()
    with pytest.raises(RunError, match=r"found 'nobody'.*Ids look like"):
        rank_from_run(wine, "nobody", "label")


def test_a_ranking_without_any_influence_has_zero_shares() -> None:
    train = {name: np.zeros(3) for name in ("id", "label", "prediction", "self_influence", "memorized")}
    assert ranking(0, np.zeros(3, dtype=np.float32), train)["share"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        (Request("nothing"), SettingsError, "Expected data to be one of"),
        (Request("absent.npz"), DataError, "Expected"),
        (Request("wine", model="resnet"), SettingsError, "Expected a model out of auto"),
        (Request("wine", model="absent.py:make"), ModelError, "Expected a Python file"),
        (Request("wine", weights="absent.pt"), ModelError, "Expected a weights file"),
        (Request("wine", method="magic"), SettingsError, "Expected a method out of"),
        (Request("wine", method="gradient-dot", damping=1.0), SettingsError, "Expected settings of gradient-dot"),
        (Request("wine", damping=-1.0), SettingsError, "Expected damping >= 0"),
        (Request("wine", flip=0.9), SettingsError, "Expected"),
        (Request("wine", queries=0), SettingsError, "Expected at least one query"),
        (
            Request("wine", queries=3, query_ids="a"),
            SettingsError,
            "Expected how many queries or their ids; found both",
        ),
        (Request("wine", query_ids=" , "), SettingsError, "Expected ids of test examples, separated by commas"),
    ],
)
def test_mistakes_are_found_before_a_worker_starts(request_: Request, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        plan(request_)


def test_a_saved_model_is_used_instead_of_training(tmp_path: Path, wine: Run) -> None:
    weights = wine.path / "model.safetensors"
    run = compute(tmp_path, replace(SMALL, model="mlp", weights=str(weights)))
    assert (run.path / "model.safetensors").read_bytes() == weights.read_bytes()
    assert run.training_log("loss") is None
    assert run.table("memorization")["basis"].unique().tolist() == ["self-influence"]
    block = "scores/label/00000.npy"
    assert (run.path / block).read_bytes() == (wine.path / block).read_bytes()


def test_a_user_s_own_network_from_a_file(tmp_path: Path) -> None:
    code = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(13, 8), nn.Tanh(), nn.Linear(8, 3))\n"
    (tmp_path / "net.py").write_text(code)
    run = compute(tmp_path, replace(SMALL, model=f"{tmp_path / 'net.py'}:make"))
    assert safetensors.torch.load((run.path / "model.safetensors").read_bytes())["2.weight"].shape == (3, 8)
    assert run.array("features").shape == (run.meta().train + run.meta().test, 8)
