"""`explain` and `show` on a user's own objects: the table's meaning, unchanged models, inputs as given, errors in words."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import explorer
from explorer import maps, serving
from explorer.errors import DataError, ExplorerError, ModelError, RunError, SettingsError
from explorer.jobs.planning import ingredients_of
from explorer.jobs.query import rank_from_run
from explorer.store import Run

COLUMNS = ["query", "rank", "row", "id", "influence", "share", "label", "prediction", "self_influence", "memorized"]
WEIGHT_DECAY = 0.05
PULL = 0.3
"""What fine-tuning weighs staying near the pretrained weights with."""

Pair = tuple[Tensor, Tensor]


def converged(x: Tensor, y: Tensor, classes: int, weights: Tensor, near: nn.Linear | None = None) -> nn.Linear:
    """Softmax regression at its weighted optimum, in float64; held `near` another with a weight of `PULL`."""
    model = nn.Linear(x.shape[1], classes, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=300, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = nn.functional.cross_entropy(model(x.double()), y, reduction="none")
        total = (losses * weights).sum() / len(x)
        total = total + WEIGHT_DECAY / 2 * sum(p.square().sum() for p in model.parameters())
        if near is not None:
            pairs = zip(model.parameters(), near.parameters(), strict=True)
            total = total + PULL / 2 * sum((p - q.detach()).square().sum() for p, q in pairs)
        total.backward()
        return total

    optimizer.step(closure)
    return model


@pytest.fixture(scope="module")
def logistic() -> tuple[nn.Linear, Pair, Pair]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(330, 3, generator=generator)
    y = (x @ torch.tensor([1.0, -1.0, 0.5]) + 0.7 * torch.randn(330, generator=generator) > 0).long()
    train, test = (x[:300], y[:300]), (x[300:], y[300:])
    return converged(*train, 2, torch.ones(300, dtype=torch.float64)), train, test


def test_the_table_says_what_leaving_out_does(logistic: tuple[nn.Linear, Pair, Pair]) -> None:
    model, train, test = logistic
    table = explorer.explain(model, train, test, query=4, weight_decay=WEIGHT_DECAY)
    assert list(table.columns) == COLUMNS
    before = model(test[0].double()).log_softmax(1)[4, test[1][4]].item()
    for row in (*table["row"][:5], *table["row"][-5:]):
        weights = torch.ones(300, dtype=torch.float64)
        weights[row] = 0
        after = converged(*train, 2, weights)(test[0].double()).log_softmax(1)[4, test[1][4]].item()
        influence = table.set_index("row").loc[row, "influence"]
        assert before - after == pytest.approx(influence, rel=0.15)  # second order: about the leverage, < 10 % here
    assert table.attrs["stats"]["damping"] == 0
    assert table.attrs["unit"] == "nats of log-probability"


def test_rows_ranks_shares_and_flags(logistic: tuple[nn.Linear, Pair, Pair]) -> None:
    model, train, test = logistic
    table = explorer.explain(model, train, test, query=[2, 7], weight_decay=WEIGHT_DECAY)
    assert table["query"].tolist() == [2] * 300 + [7] * 300
    for _, part in table.groupby("query"):
        assert part["rank"].tolist() == list(range(1, 301))
        assert part["influence"].is_monotonic_decreasing
        assert sorted(part["row"]) == list(range(300))
        assert part["share"].sum() == pytest.approx(1, abs=1e-5)
        assert (part["label"].to_numpy() == train[1].numpy()[part["row"]]).all()
        assert (part["prediction"].to_numpy() == model(train[0].double()).argmax(1).numpy()[part["row"]]).all()
        assert (part["self_influence"] >= 0).all()
    assert table["memorized"].dtype == bool


def test_arrays_tensors_and_datasets_agree(logistic: tuple[nn.Linear, Pair, Pair]) -> None:
    model, train, test = logistic
    forms = [
        (train, test),
        tuple(tuple(part.numpy() for part in pair) for pair in (train, test)),
        (TensorDataset(*train), TensorDataset(*test)),
    ]
    tables = [explorer.explain(model, a, b, query=0, weight_decay=WEIGHT_DECAY) for a, b in forms]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


def test_pretraining_examples_are_ranked_by_what_leaving_them_out_of_it_does(
    logistic: tuple[nn.Linear, Pair, Pair],
) -> None:
    """Both trainings again without an example, from the table that names it."""
    first, (x, y), test = logistic
    few = (x[:60] + 0.3, 1 - y[:60])  # another task: most labels are turned
    ones = torch.ones(60, dtype=torch.float64)
    model = converged(*few, 2, ones, first)
    given = {"method": "two-stage", "settings": {"proximal": PULL, "of": "last-layer", "settings": {"damping": 0.0}}}
    both = {"weight_decay": WEIGHT_DECAY, "pretrained": (first, (x, y))}
    flags = first.training, model.training
    table = explorer.explain(model, few, test, query=4, **given, **both)  # type: ignore[arg-type]
    assert (first.training, model.training) == flags
    assert list(table.columns) == COLUMNS
    assert len(table) == 300
    np.testing.assert_array_equal(table["label"], y.numpy()[table["row"]])
    np.testing.assert_array_equal(table["prediction"], first(x.double()).argmax(1).numpy()[table["row"]])
    before = model(test[0].double()).log_softmax(1)[4, test[1][4]].item()
    for row in (*table["row"][:3], *table["row"][-3:]):
        weights = torch.ones(300, dtype=torch.float64)
        weights[row] = 0
        again = converged(*few, 2, ones, converged(x, y, 2, weights))
        after = again(test[0].double()).log_softmax(1)[4, test[1][4]].item()
        influence = table.set_index("row").loc[row, "influence"]
        assert before - after == pytest.approx(influence, rel=0.15)  # as above
    assert table.attrs["method"] == "two-stage"


def test_two_stages_that_do_not_fit_are_said(logistic: tuple[nn.Linear, Pair, Pair], tmp_path: Path) -> None:
    model, train, test = logistic
    two: dict[str, object] = {"method": "two-stage", "settings": {"proximal": 0.1}}
    with pytest.raises(SettingsError, match=r"found two-stage, which needs a pretrained model .* pretrained=\(model"):
        explorer.explain(model, train, test, **two)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"found two-stage, which needs .* use explorer\.explain"):
        explorer.show(model, train, test, runs=tmp_path, **two)  # type: ignore[arg-type]
    with pytest.raises(
        SettingsError, match=r"no pretrained model for the method last-layer; found one\. Choose one of two-"
    ):
        explorer.explain(model, train, test, pretrained=(model, train))
    with pytest.raises(SettingsError, match=r"Expected pretrained as \(model, \(inputs, targets\)\); found Linear"):
        explorer.explain(model, train, test, pretrained=model, **two)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"Expected a torch\.nn\.Module; found str"):
        explorer.explain(model, train, test, pretrained=("net", train), **two)  # type: ignore[arg-type]
    tokens = np.zeros((4, 3), dtype=np.int64)
    with pytest.raises(SettingsError, match="one target an example for two-stage; found sequences"):
        explorer.explain(model, (tokens, tokens), (tokens, tokens), pretrained=(model, train), **two)  # type: ignore[arg-type]


def test_the_model_is_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = torch.randn(20, 3), torch.arange(20) % 2
    explorer.explain(model, (x, y), (x + 1, y))
    assert [module.training for module in model] == [True, False, True, True]
    assert not model[0].weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Picky(nn.Module):
    """Wants images as [b, h, w, 3] floats on their own scale, as no reference network does."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (4, 5, 3)
        assert images.max() > 1
        return self.head(images.mean((1, 2)))


def test_inputs_reach_the_model_as_they_are() -> None:
    torch.manual_seed(0)
    images = (torch.rand(12, 4, 5, 3) * 255).to(torch.uint8)
    labels = torch.arange(12) % 2
    table = explorer.explain(Picky(), (images[:9], labels[:9]), (images[9:], labels[9:]))
    assert len(table) == 9


def test_token_ids_stay_whole_numbers() -> None:
    torch.manual_seed(0)

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(10, 4), nn.Linear(4, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.embed(tokens).mean(1))

    tokens, labels = torch.randint(0, 10, (12, 6)), torch.arange(12) % 2
    assert len(explorer.explain(Tokens(), (tokens[:9], labels[:9]), (tokens[9:], labels[9:]))) == 9


def test_regression_and_both_targets() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x, y = torch.randn(30, 3), torch.randn(30)
    train, test = (x[:20], y[:20]), (x[20:], y[20:])
    label, output = (
        explorer.explain(model, train, test, query=1, target=t, damping=0.1) for t in ("label", "prediction")
    )
    error = (model(x)[21, 0] - y[21]).item()
    joined = label.merge(output, on="row", suffixes=("", "_output"))
    np.testing.assert_allclose(joined["influence"], -error * joined["influence_output"], rtol=1e-4)
    assert label["label"].dtype.kind == "f"


def test_why_one_class_rather_than_another(logistic: tuple[nn.Linear, Pair, Pair]) -> None:
    """The contrast of two classes against retraining without an example, and as the margin, of which there is no other."""
    model, train, test = logistic
    given = {"query": [4, 9], "weight_decay": WEIGHT_DECAY}
    table = explorer.explain(model, train, test, target="contrast", classes=(1, 0), **given)
    assert {name: table.attrs[name] for name in ("target", "classes", "unit")} == {
        "target": "contrast",
        "classes": ("1", "0"),
        "unit": "nats of log-odds",
    }
    for same in ({"target": "margin", "classes": "1"}, {"target": "contrast", "classes": ("1", 0)}):
        other = explorer.explain(model, train, test, **same, **given)
        pd.testing.assert_frame_equal(other, table)
    first = table[table["query"] == 4].set_index("row")
    before = model(test[0].double())[4]
    for row in (first.index[0], first.index[-1]):
        weights = torch.ones(300, dtype=torch.float64)
        weights[row] = 0
        after = converged(*train, 2, weights)(test[0].double())[4]
        change = ((before[1] - before[0]) - (after[1] - after[0])).item()
        assert change == pytest.approx(first.loc[row, "influence"], rel=0.15)  # second order, as above
    turned = explorer.explain(model, train, test, target="contrast", classes=(0, 1), **given)
    joined = turned.merge(table, on=["query", "row"])
    np.testing.assert_allclose(joined["influence_x"], -joined["influence_y"], rtol=1e-4, atol=1e-9)


def test_a_run_answers_what_it_does_not_store(wine: Run) -> None:
    name = wine.table("queries")["id"][0]
    classes = wine.meta().classes
    table = explorer.query(wine, name, target="contrast", classes=(classes[2], 0))
    assert list(table.columns) == COLUMNS
    assert table.attrs == {
        "method": "last-layer",
        "target": "contrast",
        "classes": (classes[2], classes[0]),
        "unit": "nats of log-odds",
    }
    turned = explorer.query(wine.key, name, target="contrast", classes=(0, 2), runs=wine.path.parent)
    by_row = (found.set_index("row")["influence"].sort_index() for found in (table, turned))
    first, second = by_row
    np.testing.assert_allclose(first, -second, rtol=1e-4, atol=float(first.abs().max()) * 1e-5)
    stored = explorer.table(wine, name, strongest=True)
    label = explorer.query(wine, name).set_index("row").loc[stored["row"], "influence"]
    np.testing.assert_allclose(label, stored["influence"], rtol=1e-4)
    assert explorer.query(wine, name, target="margin", classes=classes[0]).attrs["unit"] == "nats of log-odds"
    with pytest.raises(SettingsError, match="a class out of class_0, class_1, class_2; found 'class_9'"):
        explorer.query(wine, name, target="margin", classes="class_9")
    with pytest.raises(SettingsError, match=r"runs store, label or prediction; found 'contrast'.*explorer\.query"):
        explorer.table(wine, name, target="contrast")


class Pairs(Dataset[object]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, row: int) -> object:
        return {"x": row}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"query": 30}, DataError, r"rows of test, 0 to 29; found 30"),
        ({"query": []}, DataError, "Expected query as rows"),
        ({"query": 0.5}, DataError, "Expected query as rows"),
        ({"method": "magic"}, SettingsError, "Expected a method"),
        ({"target": "odds"}, SettingsError, "Expected target"),
        ({"target": "contrast"}, SettingsError, "two classes, P and Q, for the target contrast; found none"),
        ({"target": "contrast", "classes": (0, 2)}, SettingsError, r"number in 0\.\.1; found 2\. Choose"),
        ({"target": "contrast", "classes": (1, "1")}, SettingsError, "found 1 twice"),
        ({"target": "margin", "classes": "yes"}, SettingsError, "a class out of 0, 1; found 'yes'"),
        ({"classes": 1}, SettingsError, "no classes for the target label"),
        ({"weight_decay": -1.0}, SettingsError, "weight_decay >= 0"),
        ({"weight_decay": float("nan")}, SettingsError, "weight_decay >= 0 and finite"),
        ({"damping": -0.1}, SettingsError, "damping >= 0"),
        ({"train": torch.zeros(3)}, DataError, "torch Dataset"),
        ({"train": Pairs()}, DataError, "torch Dataset"),
        ({"train": (torch.zeros(5, 3), torch.zeros(4, dtype=torch.long))}, DataError, "5 rows in x_train and 4"),
        ({"train": (torch.zeros(5, 3), torch.full((5,), 2))}, DataError, "found 2 in row 0"),
        ({"train": (torch.full((5, 3), torch.nan), torch.zeros(5, dtype=torch.long))}, DataError, "NaN"),
        ({"model": "linear"}, ModelError, "torch.nn.Module; found str"),
        ({"model": nn.Linear(4, 2)}, ModelError, "inputs of shape"),
        ({"model": nn.Sequential(nn.Linear(3, 2), nn.Softmax(1))}, ModelError, "raw logits"),
    ],
)
def test_mistakes_in_words(
    logistic: tuple[nn.Linear, Pair, Pair], change: dict[str, object], error: type[ExplorerError], words: str
) -> None:
    model, train, test = logistic
    arguments = {"model": model, "train": train, "test": test, "weight_decay": WEIGHT_DECAY} | change
    with pytest.raises(error, match=words):
        explorer.explain(**arguments)  # type: ignore[arg-type]


def test_show_makes_a_run_on_the_same_arguments(
    logistic: tuple[nn.Linear, Pair, Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "umap", lambda features, seed, progress: maps.pca(features))
    model, train, test = logistic
    leaky = (torch.cat([train[0][:1], test[0]]), torch.cat([train[1][:1], test[1]]))
    run = explorer.show(model, train, leaky, weight_decay=WEIGHT_DECAY, runs=tmp_path, block=False)
    assert len(run.table("queries")) == 30  # the training row among the test rows is no query
    assert "test-0" not in set(run.table("queries")["id"])
    table = explorer.explain(model, train, leaky, query=5, weight_decay=WEIGHT_DECAY)
    row = int(run.table("queries").set_index("id").loc["test-5", "row"])
    top = run.top(row, "label")
    assert top is not None
    np.testing.assert_allclose(top.towards_influence[:5], table["influence"][:5], rtol=1e-4)
    assert explorer.open_run("latest", tmp_path) == run
    assert explorer.show(model, train, leaky, weight_decay=WEIGHT_DECAY, runs=tmp_path, block=False) == run
    with pytest.raises(SettingsError, match="runs store, label or prediction; found 'margin'"):
        explorer.show(model, train, test, target="margin", runs=tmp_path)
    with pytest.raises(RunError, match="Expected a run named 'zz'"):
        explorer.open_run("zz", tmp_path)
    with pytest.raises(RunError, match=r"made by explorer\.show.*Call explorer\.show"):
        ingredients_of(run)
    with pytest.raises(RunError, match=r"made by explorer\.show"):
        rank_from_run(run, "test-5", "label")
    served: list[object] = []
    monkeypatch.setattr(serving, "serve", lambda *place, **options: served.append(place))
    explorer.show(model, train, leaky, query=5, weight_decay=WEIGHT_DECAY, runs=tmp_path, browser=False)
    assert served == [(tmp_path, f"{run.key}&query=test-5&target=label")]


def test_settings_are_the_method_s(logistic: tuple[nn.Linear, Pair, Pair], tmp_path: Path) -> None:
    model, train, test = logistic
    short = explorer.explain(model, train, test, query=4, weight_decay=WEIGHT_DECAY, damping=0.5)
    named = explorer.explain(model, train, test, query=4, weight_decay=WEIGHT_DECAY, settings={"damping": 0.5})
    pd.testing.assert_frame_equal(short, named)
    assert named.attrs["stats"]["damping"] == 0.5
    for act in (explorer.explain, explorer.show):
        with pytest.raises(SettingsError, match="Expected settings of last-layer out of damping; found depth"):
            act(model, train, test, settings={"depth": 1})
        with pytest.raises(SettingsError, match="Expected damping to be a number or auto; found 'x'"):
            act(model, train, test, settings={"damping": "x"})
        with pytest.raises(SettingsError, match="Expected damping once"):
            act(model, train, test, damping=1.0, settings={"damping": 2.0})


def test_settings_name_the_run(
    logistic: tuple[nn.Linear, Pair, Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "umap", lambda features, seed, progress: maps.pca(features))
    model, train, test = logistic
    run = explorer.show(model, train, test, settings={"damping": 0.5}, runs=tmp_path, block=False)
    assert run.spec["method"] == {"name": "last-layer", "settings": {"damping": 0.5}}
