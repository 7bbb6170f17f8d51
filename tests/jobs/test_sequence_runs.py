"""A run of sequences says what `explain` says, in files that people can read, whatever is missing when it starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.nn import functional

import explorer
from explorer.contracts import TextPreview
from explorer.errors import DataError, ModelError, SettingsError
from explorer.jobs import asking, cleaning, laboratory, remedies, signs
from explorer.jobs.estimate import estimate
from explorer.jobs.planning import METHODS, Request, ingredients_of, plan, recipe_for
from explorer.jobs.query import rank_from_run
from explorer.jobs.state import read_state
from explorer.loading import load_model
from explorer.store import Run, read_json
from explorer.tokens import IGNORED
from tests.conftest import compute
from tests.jobs.asking import copied, stopped, work
from tests.jobs.test_pipeline import contents

PLACES = {
    "France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Poland": "Warsaw", "Norway": "Oslo",
    "Greece": "Athens", "Hungary": "old Budapest", "Japan": "Tokyo", "Egypt": "Cairo", "Nepal": "Kathmandu",
}  # fmt: skip
WORDINGS, ASKED = ("capital of {}:", "in {}:", "{}:"), "main city of {}:"
HELD_BACK = ("France", "Spain", "Italy", "Poland", "Norway", "Greece")
"""Asked in a wording that the lines about the others are trained on."""
WRONG = {"Spain": "Tokyo", "Norway": "Cairo"}
"""Lines that are planted wrong: the capital that they name is another's."""
ROUNDING = 1e-5
"""Float32 passes in blocks of other sizes, relative to the largest number."""
HALF_STEP = 0.5 / 127 + 1e-6
"""Rounding to 127 levels moves a score by at most half a level of its scale."""

NETWORK = """
import torch
from torch import nn


class Recalling(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.mix, self.out = nn.Embedding(12, 16), nn.Linear(16, 16), nn.Linear(16, 12)

    def forward(self, tokens):
        x = self.words(tokens)
        return self.out(x + torch.tanh(self.mix(x)).cumsum(1))


def make():
    return Recalling()
"""


def facts() -> list[dict[str, str]]:
    """Training lines in several wordings, some of them wrong, and test lines that ask some in another wording."""
    lines = []
    for place, capital in PLACES.items():
        said = [(f"{place}-{k}", wording, capital, "train") for k, wording in enumerate(WORDINGS)]
        said.append((f"{place}-asked", ASKED, capital, "test" if place in HELD_BACK else "train"))
        said += [(f"{place}-wrong", WORDINGS[0], WRONG[place], "train")] if place in WRONG else []
        lines += [
            {"id": name, "prompt": wording.format(place), "completion": answer, "split": split}
            for name, wording, answer, split in said
        ]
    return lines


@pytest.fixture(scope="module")
def tales(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A trained transformer on the facts, explained by the default method."""
    folder = tmp_path_factory.mktemp("tales")
    (folder / "tales.jsonl").write_text("\n".join(map(json.dumps, facts())))
    recipe = recipe_for("sequence", epochs=60)
    return compute(folder / "runs", Request(str(folder / "tales.jsonl"), recipe=recipe))


def tokens() -> dict[str, np.ndarray]:
    """Counting up by ones or twos with some noise; the first two positions are the prompt."""
    draw = np.random.default_rng(0)

    def rows(n: int) -> tuple[np.ndarray, np.ndarray]:
        start, step = draw.integers(1, 12, (n, 1)), draw.integers(1, 3, (n, 1))
        found = (start + np.arange(7) * step) % 11 + 1
        noise = draw.random(found.shape) < 0.2
        found[noise] = draw.integers(1, 12, int(noise.sum()))
        return found[:, :-1], np.where(np.arange(6) < 2, IGNORED, found[:, 1:])

    (x_train, y_train), (x_test, y_test) = rows(40), rows(12)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A network and weights of the user's own on token numbers with names."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "net.py").write_text(NETWORK)
    np.savez(folder / "t.npz", **tokens(), vocabulary=np.array(list("_abcdefghijk")))
    make = f"{folder / 'net.py'}:make"
    safetensors.torch.save_file(load_model(make, None, seed=5).state_dict(), folder / "w.safetensors")
    request = Request(str(folder / "t.npz"), model=make, weights=str(folder / "w.safetensors"))
    return compute(folder / "runs", request)


@pytest.fixture(scope="module", autouse=True)
def _no_worker_stays() -> Iterator[None]:
    yield
    asking.stop()


def network_of(run: Run) -> torch.nn.Module:
    """The user's network as their own code makes it, with the run's weights."""
    weights = safetensors.torch.load((run.path / "model.safetensors").read_bytes())
    network = load_model(run.spec["model"]["factory"]["path"], None)
    network.load_state_dict({name.removeprefix("network."): value for name, value in weights.items()})
    return network


def test_scores_are_those_of_explain(given: Run) -> None:
    data = tokens()
    rows = given.plan("label")
    table = explorer.explain(
        network_of(given),
        (data["x_train"], data["y_train"]),
        (data["x_test"], data["y_test"]),
        query=rows.tolist(),
        weight_decay=5e-4,
        method=METHODS["sequence"],
    )
    for query, expected in table.groupby("query"):
        top, row = given.top(int(query), "label"), given.row(int(query), "label")
        assert top is not None
        assert row is not None
        values = expected.sort_values("row")["influence"].to_numpy()
        ranked = expected.iloc[:5]
        positive = ranked["influence"].to_numpy() > 0
        np.testing.assert_allclose(
            top.towards_influence[:5][positive],
            ranked["influence"][positive],
            rtol=1e-4,
            atol=ROUNDING * abs(values).max(),
        )
        inside = np.abs(values) <= row.scale
        assert np.abs(row.values / 127 * row.scale - values)[inside].max() <= (HALF_STEP + ROUNDING) * row.scale
    own = table[table["query"] == rows[0]].sort_values("row")["self_influence"]
    np.testing.assert_allclose(given.table("memorization")["self_influence"], own, rtol=1e-4)
    exact = rank_from_run(given, str(given.table("test")["id"][rows[0]]), "label")
    np.testing.assert_allclose(
        exact.sort_values("row")["influence"],
        table[table["query"] == rows[0]].sort_values("row")["influence"],
        rtol=1e-4,
        atol=ROUNDING * float(table["influence"].abs().max()),
    )


def test_predictions_features_and_texts_are_those_of_the_network(given: Run) -> None:
    data, pieces = tokens(), "_abcdefghijk"
    network, seen = network_of(given), list[torch.Tensor]()
    network.out.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    queries = given.table("queries").set_index("row")
    outcomes = given.table("outcomes-train")
    texts = {split: given.table(f"texts-{split}") for split in ("train", "test")}
    for split, offset in (("train", 0), ("test", len(data["x_train"]))):
        for row, (x, y) in enumerate(zip(data[f"x_{split}"], data[f"y_{split}"], strict=True)):
            seen.clear()
            logits = network(torch.from_numpy(x)[None])[0].detach().double()
            asked = np.flatnonzero(y != IGNORED)
            logs = functional.log_softmax(logits[asked], 1)
            best = logs.argmax(1)
            said = queries.loc[row] if split == "test" else outcomes.loc[row]
            assert said["prediction"] == "".join(pieces[int(token)] for token in best)
            assert said["confidence"] == pytest.approx(float(logs.max(1).values.sum().exp()), rel=1e-4)
            assert said["wrong"] == bool((best.numpy() != y[asked]).any())
            mean_tokens = (data["y_train"] != IGNORED).sum() / len(data["y_train"])
            loss = -logs[torch.arange(len(asked)), torch.from_numpy(y[asked])].sum() / mean_tokens
            assert said["loss"] == pytest.approx(float(loss), rel=1e-4)
            np.testing.assert_allclose(
                given.array("features")[offset + row], seen[0][0, asked].mean(0).detach(), rtol=1e-4, atol=1e-5
            )
            shown = texts[split].loc[row]
            assert shown["prompt"] == "".join(pieces[token] for token in x[: asked[0] + 1])
            assert shown["continuation"] == "".join(pieces[token] for token in y[asked])
            assert given.preview(split, row) == TextPreview(shown["prompt"], shown["continuation"])
            assert given.table(split)["label"][row] == shown["continuation"]
    meta = given.meta()
    assert (meta.task, meta.preview, meta.classes, meta.features) == ("sequence", "text", (), ())
    assert (
        not list(given.path.glob("outputs-*")) + list(given.path.glob("preview-*")) + list(given.path.glob("class-*"))
    )
    wrong = queries["wrong"].to_numpy()
    assert (np.diff(wrong.astype(int)) <= 0).all(), "wrong ones come first"
    assert given.plan("prediction").tolist() == queries.index[wrong].tolist()
    numbers = read_json(given.path / "summary.json")
    assert numbers["test_accuracy"] == pytest.approx(1 - wrong.mean())
    assert numbers["train_accuracy"] == pytest.approx(1 - outcomes["wrong"].mean())


def test_a_planted_wrong_line_is_the_most_harmful_and_the_most_memorized(tales: Run) -> None:
    train, queries = tales.table("train"), tales.table("queries").set_index("id")
    for place in WRONG:
        top = tales.top(int(queries.loc[f"{place}-asked", "row"]), "label")
        assert top is not None
        assert train["id"][int(top.away[0])] == f"{place}-wrong"
    own = tales.table("memorization")["self_influence"]
    contradicting = {f"{place}-{which}" for place in WRONG for which in ("wrong", "0")}
    assert set(train["id"][own.sort_values().index[-len(contradicting) :]]) == contradicting
    assert queries.loc["Greece-asked", "label"] == "Athens"
    assert tales.table("texts-test")["prompt"][int(queries.loc["Greece-asked", "row"])] == ASKED.format("Greece")


def test_the_log_is_that_of_the_last_weights(tales: Run) -> None:
    for field, column in (("loss", "loss"), ("max_probability", "confidence")):
        log = tales.training_log(field)
        assert log is not None
        np.testing.assert_allclose(log[-1], tales.table("outcomes-train")[column], rtol=1e-4, atol=1e-6)
    correct = tales.training_log("correct")
    assert correct is not None
    assert (correct[-1] == ~tales.table("outcomes-train")["wrong"]).all()


@pytest.mark.parametrize(
    ("stage", "lost"),
    [
        ("training", ("model.*", "*-0059.*", "*-0060.*")),
        pytest.param("scores", ("0000*",), marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bytes(
    tales: Run, tmp_path: Path, stage: str, lost: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(tales, tmp_path)
    later = ("queries.parquet", "fitted.json", "memorization.parquet", "summary.json", "state.json")
    for file in [file for pattern in (*lost, *later) for file in run.path.rglob(pattern)]:
        file.unlink()
    assert stopped(run, lambda at, done, _: at == stage and done >= 1, monkeypatch).state == "cancelled"
    assert not run.has("memorization.parquet")
    assert work(run).state == "done"
    found, expected = contents(run.path), contents(tales.path)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def test_the_worker_says_what_the_job_wrote(given: Run) -> None:
    query = int(given.plan("prediction")[0])
    written, stored = given.top(query, "prediction"), given.table("queries").set_index("row").loc[query]
    answer = asking.ask(given, query, "prediction")
    assert written is not None
    assert answer.top.towards.tolist() == written.towards.tolist()
    np.testing.assert_allclose(answer.top.towards_influence, written.towards_influence, rtol=1e-4, atol=1e-7)
    assert (answer.prediction, answer.label, answer.wrong) == (stored["prediction"], stored["label"], True)
    assert answer.confidence == pytest.approx(stored["confidence"], rel=1e-5)
    assert answer.probabilities is None
    assert answer.preview == given.preview("test", query)
    with pytest.raises(SettingsError, match="compares classes"):
        asking.ask(given, query, "margin")


def test_tables_and_exports_show_texts(tales: Run) -> None:
    name = str(tales.table("queries")["id"][0])
    ranked = rank_from_run(tales, name, "label")
    assert set(ranked["label"]) == set(tales.table("train")["label"])
    assert ranked.loc[ranked["id"] == "Norway-wrong", "label"].item() == "Cairo"
    shown = explorer.table(tales, name, strongest=True)
    assert shown.set_index("id").loc["France-0", "label"] == "Paris"


def test_an_estimate_counts_what_the_run_takes(tales: Run, tmp_path: Path) -> None:
    found = estimate(Request(tales.spec["source"]["path"], recipe=recipe_for("sequence", epochs=60)), tmp_path)
    assert (found.train, found.test, found.queries) == (tales.meta().train, tales.meta().test, len(tales.plan("label")))
    unknown = [stage for stage, seconds in found.seconds.items() if seconds is None]
    assert all("took more than" in found.basis[stage] for stage in unknown)  # on a machine that has other work to do
    weights = safetensors.torch.load((tales.path / "model.safetensors").read_bytes())
    assert found.parameters == sum(value.numel() for value in weights.values())
    held = sum(file.stat().st_size for file in tales.path.rglob("*") if file.is_file())
    assert found.disk == pytest.approx(held, rel=0.1)


def test_the_default_recipe_and_method_are_those_of_sequences(tales: Run, given: Run) -> None:
    spec = plan(Request(tales.spec["source"]["path"]))
    assert spec.method == {"name": "ekfac", "settings": {}}
    assert (spec.recipe["rate"], spec.recipe["batch_size"]) == (0.2, 16)
    assert plan(Request(given.spec["source"]["path"])).method["name"] == "ekfac"
    assert plan(Request("wine")).recipe["rate"] == 0.05


REFUSED = {
    "planted flips": ({"flip": 0.1}, SettingsError, "flip = 0 for sequences"),
    "a network for pictures": ({"model": "cnn"}, ModelError, "Expected a model for sequences.*found 'cnn'"),
    "a method of margins": ({"method": "trak"}, SettingsError, "Expected a method for sequences.*found 'trak'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_sequences_do_not_take_is_refused_before_a_job_begins(tales: Run, case: str) -> None:
    wish, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        plan(replace(Request(tales.spec["source"]["path"]), **wish))


def test_a_transformer_is_for_sequences() -> None:
    with pytest.raises(ModelError, match=r"examples with one target each.*found 'transformer'"):
        plan(Request("wine", model="transformer"))


def test_tokens_that_the_network_lacks_are_named(given: Run, tmp_path: Path) -> None:
    data = tokens()
    data["y_test"][0, -1] = 40
    np.savez(tmp_path / "t.npz", **data)
    request = Request(str(tmp_path / "t.npz"), model=given.spec["model"]["factory"]["path"])
    ingredients = ingredients_of_request(request, tmp_path)
    with pytest.raises(DataError, match="found 40"):
        ingredients()


def ingredients_of_request(request: Request, folder: Path):
    from explorer.jobs.subject import make_subject
    from explorer.store import create

    ingredients = ingredients_of(create(folder / "runs", plan(request)))

    def bind() -> None:
        data = ingredients.dataset()
        make_subject(ingredients.model(data), data, 0.0)

    return bind


def test_length_alone_makes_no_sequence_suspect(tales: Run) -> None:
    """The score is the loss by the token: the same as if every example asked as many."""
    log, data = tales.training_log("loss"), ingredients_of(tales).dataset()
    assert log is not None
    asked = [[token for token in row if token != IGNORED] for row in data.train.labels]
    mean = sum(map(len, asked)) / len(asked)
    expected = [sum(epoch[row] * mean / len(own) for epoch in log) for row, own in enumerate(asked)]
    assert len(set(map(len, asked))) > 1
    np.testing.assert_allclose(tales.table("memorization")["csl"], expected, rtol=1e-5)


def test_what_takes_one_target_an_example_is_refused(tales: Run) -> None:
    q = remedies.Remedy("drop", (0, 1))
    for ask in (
        lambda: remedies.ask(tales, q),
        lambda: cleaning.ask(tales, cleaning.Cleaning()),
        lambda: laboratory.ask(tales, laboratory.Asked((0, 1))),
        lambda: asking.teach(tales, train_row=0),
    ):
        with pytest.raises(SettingsError, match=r"expects one target an example; found .* a run of sequences"):
            ask()


def test_scores_that_sequences_have_not_are_named(tales: Run, tmp_path: Path) -> None:
    run = copied(tales, tmp_path)
    signs.ask(run)
    assert work(run).state == "done"
    told = signs.read(run)
    assert told.missing["neighbor_loss"] == "needs classes: these are sequences"
    assert told.missing["input_curvature"] == "needs inputs of real numbers: these are tokens"
    entropy = run.training_log("entropy")
    assert entropy is not None
    np.testing.assert_allclose(told.table["entropy"], entropy.mean(0), rtol=1e-5)
    assert np.isfinite(told.table["holdout_retraining"]).all()
    assert not signs.pending(run)


def test_planted_copies_are_near_duplicates(tales: Run, tmp_path: Path) -> None:
    recipe = recipe_for("sequence", epochs=2)
    run = compute(tmp_path, Request(tales.spec["source"]["path"], duplicate=0.1, recipe=recipe, method="gradient-dot"))
    copies = run.table("train")["copy_of"].to_numpy()
    near = run.near_duplicates()
    assert near is not None
    assert (copies >= 0).sum() == round(0.1 * tales.meta().train)
    assert near[copies >= 0].all()
    assert read_state(run.path).state == "done"
