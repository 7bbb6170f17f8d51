"""Token models: closed forms against autograd, what training's mean is, the door for data, and `explain` from end to end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import explorer
from explorer.contracts import Examples, Objective, Target, TextPreview
from explorer.errors import DataError, ExplorerError, ModelError, SettingsError
from explorer.influence import METHODS, THROUGH_TRAINING
from explorer.objectives import measure_unit
from explorer.sequences import (
    DENSE_OUTPUTS,
    DENSE_TOKENS,
    DRAWS,
    MOST_COLUMNS,
    MOST_TOKENS,
    Reduction,
    SequenceLogProbability,
)
from explorer.sources.arrays import dataset_from_arrays
from explorer.token_models import TokenModel, sequence_subject
from explorer.tokens import IGNORED, TokenExamples
from explorer.training import check_two_passes
from tests.influence.decoder import TRAIN, Bigram, decoder, padded, sequences, shares, summed

AUTOGRAD = 1e-13
"""Both sides are float64 closed forms of numbers of order one."""
NOISE = 5.0
"""Standard errors: what a mean over draws may be off by, once in a million."""
DRAWN = 200
"""Draws in such a mean."""
FLOAT32 = 1e-5
"""Share of the largest: a float32 model's products, summed in another order."""

REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
each_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
each_target = pytest.mark.parametrize("target", ["label", "prediction"])

V, T, B = 5, 4, 6
LABELS = torch.tensor(sequences(B, T, V, seed=3)[1])


def objective(reduction: Reduction = "tokens", vocabulary: int = V, positions: int = T) -> SequenceLogProbability:
    return SequenceLogProbability(vocabulary, positions, 2.5, reduction)


def outputs(labels: Tensor = LABELS, vocabulary: int = V) -> Tensor:
    """Logits and marks in one row, as `TokenModel` returns them."""
    b, t = labels.shape
    logits = 2 * torch.randn(b, t, vocabulary, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    marks = (labels != IGNORED).double().unsqueeze(2)
    return torch.cat([logits * marks, marks], 2).flatten(1)


def of_logits(function: Callable[[Tensor], Tensor], found: Tensor, vocabulary: int = V) -> Callable[[Tensor], Tensor]:
    """A function of outputs as one of logits: marks are no variables."""
    marks = found.reshape(len(found), -1, vocabulary + 1)[:, :, -1:]
    return lambda logits: function(torch.cat([logits, marks], 2).flatten(1))


def logits_of(found: Tensor, vocabulary: int = V) -> Tensor:
    return found.reshape(len(found), -1, vocabulary + 1)[:, :, :-1]


@each_reduction
def test_loss_is_torchs_cross_entropy_of_the_asked_tokens(reduction: Reduction) -> None:
    tokens, labels = (torch.tensor(part) for part in sequences())
    train = TokenExamples(tokens.numpy(), labels.numpy(), "train")
    model = decoder()
    subject = sequence_subject(model, train, 0.0, reduction)
    mean = subject.objective.loss(subject.model(train.batch(np.arange(len(train)))), labels).mean()
    logits = model(tokens)
    rows = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    expected = {
        "tokens": functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED),
        "mean": (rows.sum(1) / (labels != IGNORED).sum(1)).mean(),
        "sum": rows.sum(1).mean(),
    }[reduction]
    assert (mean - expected).abs() < AUTOGRAD * len(train)
    assert np.allclose(subject.objective.scale((labels != IGNORED).double()), shares(labels.numpy(), reduction))


@each_reduction
def test_gradient_and_curvature_equal_autograd(reduction: Reduction) -> None:
    made, found = objective(reduction), outputs()
    point = logits_of(found).clone().requires_grad_(True)
    loss = of_logits(lambda x: made.loss(x, LABELS), found)
    (expected,) = torch.autograd.grad(loss(point).sum(), point)
    assert (logits_of(made.loss_gradient(found, LABELS)) - expected).abs().max() < AUTOGRAD
    curvature = made.loss_curvature(found)
    for row in range(B):
        one = of_logits(lambda x, row=row: made.loss(x, LABELS[row : row + 1]).sum(), found[row : row + 1])
        dense = torch.autograd.functional.hessian(one, logits_of(found[row : row + 1]))[0, :, :, 0]
        block = curvature[row].reshape(T, V + 1, T, V + 1)
        assert (block[:, :-1, :, :-1] - dense).abs().max() < AUTOGRAD
        assert (block[:, -1] == 0).all()
        assert (block[..., -1] == 0).all()
    vectors = torch.randn(3, *found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    products = torch.einsum("bkl,qbl->qbk", curvature, vectors)
    assert (made.curvature_product(found, vectors) - products).abs().max() < AUTOGRAD


@each_target
def test_measure_is_a_log_probability_whatever_training_made_of_it(target: Target) -> None:
    found = outputs()
    logits = logits_of(found).clone().requires_grad_(True)
    own = logits.argmax(2).masked_fill(LABELS == IGNORED, IGNORED)
    assert torch.equal(objective().predict(found), own)
    expected = -summed(logits, LABELS if target == "label" else own)
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    for reduction in REDUCTIONS:
        made = objective(reduction)
        assert (made.measure(found, LABELS, target) - expected).abs().max() < AUTOGRAD
        assert (logits_of(made.measure_gradient(found, LABELS, target)) - gradient).abs().max() < AUTOGRAD
    assert measure_unit(made.task, target) == "nats of log-probability"


def test_nothing_pulls_where_nothing_is_asked() -> None:
    made, found = objective(), outputs()
    other = found.clone().reshape(B, T, V + 1)
    other[..., :-1] += 3 * torch.randn(B, T, V) * (LABELS == IGNORED).unsqueeze(2)
    other = other.flatten(1)
    silent = (LABELS == IGNORED).unsqueeze(2)
    for gradient in (made.loss_gradient(found, LABELS), made.measure_gradient(found, LABELS, "prediction")):
        assert (logits_of(gradient)[silent.expand(B, T, V)] == 0).all()
    assert torch.equal(made.loss(other, LABELS), made.loss(found, LABELS))
    assert torch.equal(made.loss_gradient(other, LABELS), made.loss_gradient(found, LABELS))


@each_reduction
def test_fisher_columns_are_the_curvature_where_there_are_few(reduction: Reduction) -> None:
    made, found = objective(reduction), outputs()
    columns = torch.stack(list(made.fisher_columns(found)))
    assert len(columns) == made.columns == T * V <= MOST_COLUMNS
    assert made.exact
    assert made.fisher_rule == "summed over tokens of each position"
    assert (torch.einsum("cbk,cbl->bkl", columns, columns) - made.loss_curvature(found)).abs().max() < AUTOGRAD


MANY = {"signs": (20, 8), "draws": (70, 3)}
"""Tokens and positions beyond `MOST_COLUMNS`, with few tokens and with many."""


@pytest.mark.parametrize("kind", MANY)
def test_columns_of_many_tokens_are_the_curvature_on_average(kind: str) -> None:
    tokens, positions = MANY[kind]
    labels = torch.tensor(sequences(2, positions, tokens)[1])
    made, found = objective("mean", tokens, positions), outputs(labels, tokens)
    assert not made.exact
    assert made.columns == (tokens if tokens <= MOST_TOKENS else DRAWS)
    assert kind[:4] in made.fisher_rule or "drawn" in made.fisher_rule
    exact = made.loss_curvature(found)
    along = torch.randn(20, *found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    forms = []
    for seed in range(DRAWN):
        columns = torch.stack(list(made.fisher_columns(found, 10 * seed)))
        forms.append(torch.einsum("cbk,qbk->cqb", columns, along).square().sum(0))
    mean, error = torch.stack(forms).mean(0), torch.stack(forms).std(0) / DRAWN**0.5
    assert ((mean - torch.einsum("qbk,bkl,qbl->qb", along, exact, along)).abs() <= NOISE * error).all()
    if kind == "signs":  # each position's own block is exact in every draw
        shape = (2, positions, tokens + 1, positions, tokens + 1)
        product = torch.einsum("cbk,cbl->bkl", columns, columns)
        blocks, wanted = (whole.reshape(shape).diagonal(dim1=1, dim2=3) for whole in (product, exact))
        assert (blocks - wanted).abs().max() < AUTOGRAD


@pytest.mark.parametrize("kind", MANY)
def test_drawn_columns_depend_on_the_example_alone(kind: str) -> None:
    tokens, positions = MANY[kind]
    pair = sequences(6, positions, tokens)
    labels, longer = torch.tensor(pair[1]), torch.tensor(padded(pair, 3, tokens)[1])
    made = objective("sum", tokens, positions)
    found = outputs(labels, tokens)
    together = torch.stack(list(made.fisher_columns(found, 100)))
    assert torch.equal(together, torch.stack(list(made.fisher_columns(found, 100))))
    assert torch.equal(together[:, 4:], torch.stack(list(made.fisher_columns(found[4:], 104))))
    wide = torch.cat([found.reshape(6, positions, -1), torch.zeros(6, 3, tokens + 1)], 1).flatten(1)
    assert (longer[:, positions:] == IGNORED).all()
    assert torch.equal(torch.stack(list(made.fisher_columns(wide, 100)))[:, :, : found.shape[1]], together)


def test_a_constant_for_all_positions_is_summed_over_them() -> None:
    made, found = objective("mean"), outputs()
    logits = logits_of(found)

    def loss(constant: Tensor) -> Tensor:
        return of_logits(lambda x: made.loss(x, LABELS).sum(), found)(logits + constant)

    zero = torch.zeros(V, dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(loss, zero)
    assert (made.shared(made.loss_gradient(found, LABELS)).sum(0) - gradient).abs().max() < AUTOGRAD
    hessian = torch.autograd.functional.hessian(loss, zero)
    assert (made.shared_curvature(found) - hessian).abs().max() < AUTOGRAD


def test_the_objective_says_what_it_cannot() -> None:
    assert isinstance(objective(), Objective)
    with pytest.raises(SettingsError, match="reduction to be one of tokens, sum, mean"):
        objective("nothing")  # type: ignore[arg-type]
    for target in ("margin", "contrast"):
        with pytest.raises(SettingsError, match="label, prediction for sequences"):
            objective().measure(outputs(), LABELS, target)
    with pytest.raises(SettingsError, match=f"at most {DENSE_OUTPUTS} outputs"):
        objective(vocabulary=300).loss_curvature(torch.zeros(1, 2 * 301))
    with pytest.raises(SettingsError, match=f"at most {DENSE_TOKENS} tokens"):
        objective(vocabulary=5000).shared(torch.zeros(1, 2 * 5001))


def test_examples_are_tokens_with_marks() -> None:
    tokens, labels = sequences()
    examples = TokenExamples(tokens.astype(np.int32), labels, "train")
    assert isinstance(examples, Examples)
    assert len(examples) == len(tokens)
    assert examples.ids[3] == "train-3"
    batch = examples.batch(np.array([2, 0]))
    assert batch.dtype == torch.int64
    assert (batch[:, 0].numpy() == tokens[[2, 0]]).all()
    assert (batch[:, 1].numpy() == (labels[[2, 0]] != IGNORED)).all()
    preview = examples.preview(1)
    assert isinstance(preview, TextPreview)
    first = int(np.flatnonzero(labels[1] != IGNORED)[0])
    assert preview.prompt.split() == tokens[1, : first + 1].astype(str).tolist()
    assert preview.continuation.split() == labels[1, labels[1] != IGNORED].astype(str).tolist()
    check_two_passes(examples)
    same, other = TokenExamples(tokens, labels, "train"), TokenExamples(tokens[::-1], labels, "train")
    assert examples.key == same.key != other.key


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "real numbers": (lambda: TokenExamples(np.zeros((2, 3)), np.zeros((2, 3), int), "train"), "whole numbers"),
    "one target each": (lambda: TokenExamples(np.zeros((2, 3), int), np.zeros(2, int), "test"), "a target for every"),
    "negative token": (
        lambda: TokenExamples(np.array([[0, -1]]), np.zeros((1, 2), int), "train"),
        "tokens of 0 or more",
    ),
    "other mark": (lambda: TokenExamples(np.zeros((1, 2), int), np.array([[1, -1]]), "train"), "found -1 in row 0"),
    "nothing asked": (lambda: TokenExamples(np.zeros((1, 2), int), np.full((1, 2), -100), "test"), "Leave these out"),
}


@pytest.mark.parametrize("name", WRONG)
def test_sequences_that_cannot_be_explained_say_so(name: str) -> None:
    make, words = WRONG[name]
    with pytest.raises(DataError, match=words):
        make()


def test_models_that_do_not_fit_say_so() -> None:
    tokens, labels = sequences()

    def bind(model: nn.Module, tokens: Any = tokens, labels: Any = labels) -> None:
        sequence_subject(model, TokenExamples(tokens, labels, "train"), 0.0)

    with pytest.raises(ModelError, match=r"logits \[8, 6, tokens\]"):
        bind(nn.Sequential(Bigram(11), nn.Flatten()))
    with pytest.raises(ModelError, match="it raised RuntimeError"):
        bind(nn.Linear(6, 3))
    with pytest.raises(DataError, match=r"0\.\.10 for a model of 11 tokens; found 12"):
        bind(decoder(), labels=np.where(labels == 3, 12, labels))
    with pytest.raises(DataError, match="tokens that the model has; found 50"):
        bind(decoder(), tokens=tokens + 50)
    model = decoder()
    with pytest.raises(ModelError, match="two passes"):
        bind(nn.Sequential(Bigram(11), AlwaysDropout()))
    bind(model)


class AlwaysDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5, training=True)


def test_the_bound_model_moves_nothing_where_nothing_is_asked() -> None:
    tokens, labels = sequences()
    examples, network = TokenExamples(tokens, labels, "train"), decoder()
    outputs = TokenModel(network)(examples.batch(np.arange(len(tokens)))).reshape(*labels.shape, -1)
    asked = torch.tensor(labels != IGNORED)
    assert torch.equal(outputs[..., -1], asked.double())
    assert torch.equal(outputs[..., :-1][asked], network(torch.tensor(tokens))[asked])
    assert (outputs[..., :-1][~asked] == 0).all()
    gradient = torch.autograd.grad(outputs[..., :-1][~asked].sum(), network.head.weight)[0]
    assert (gradient == 0).all()


# from Python, end to end


@pytest.fixture(scope="module")
def given() -> tuple[nn.Module, tuple[Any, Any], tuple[Any, Any]]:
    tokens, labels = sequences()
    return decoder(torch.float32, width=8), (tokens[:TRAIN], labels[:TRAIN]), (tokens[TRAIN:], labels[TRAIN:])


@pytest.mark.parametrize("target", ["label", pytest.param("prediction", marks=pytest.mark.slow)])
def test_explain_ranks_sequences(given: Any, target: Target) -> None:
    model, train, test = given
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = explorer.explain(
        model, train, test, query=[2, 0], weight_decay=0.1, target=target, method="ekfac", reduction="mean"
    )
    subject = sequence_subject(decoder(torch.float32, width=8), TokenExamples(*train, "train"), 0.1, "mean")
    from explorer.contracts import Queries

    scores = METHODS["ekfac"]().fit(subject).score(Queries(TokenExamples(*test, "test"), np.array([2, 0]), target))
    for k, row in enumerate((2, 0)):
        part = table[table["query"] == row].set_index("row").sort_index()
        assert np.abs(part["influence"] - scores.values[k].numpy()).max() <= FLOAT32 * scores.values[k].abs().max()
        assert part["label"][1] == tuple(train[1][1][train[1][1] != IGNORED])
        own = model(torch.tensor(train[0])).argmax(2).numpy()
        assert part["prediction"][1] == tuple(own[1][train[1][1] != IGNORED])
        assert (part["self_influence"] >= 0).all()
    assert table.attrs["unit"] == "nats of log-probability"
    assert table.attrs["stats"]["layers"][-1] == "head"
    assert "words" in table.attrs["stats"]["left_out"]
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_tensors_and_datasets_are_taken_as_they_are(given: Any) -> None:
    model, train, test = given
    tables = [
        explorer.explain(model, *forms, method="gradient-dot")
        for forms in (
            (train, test),
            tuple(TensorDataset(*(torch.tensor(part) for part in pair)) for pair in (train, test)),
        )
    ]
    assert tables[0].equals(tables[1])


def test_layers_have_the_names_of_the_users_model(given: Any) -> None:
    model, train, test = given
    table = explorer.explain(model, train, test, method="ekfac", settings={"layers": ["blocks.1", "head"]})
    assert table.attrs["stats"]["layers"] == [f"blocks.1.{name}" for name in ("qkv", "out", "up", "down")] + ["head"]
    assert table.attrs["stats"]["left_out"]["blocks.0.qkv"] == "not chosen"
    inner = explorer.explain(
        model, train, test, method="relative", settings={"of": "ekfac", "settings": {"layers": "head"}}
    )
    assert inner.attrs["stats"]["inner"]["layers"] == ["head"]
    with pytest.raises(SettingsError, match=r"layers out of blocks\.0\.qkv.*found 'body'"):
        explorer.explain(model, train, test, method="ekfac", settings={"layers": "body"})


def test_what_sequences_do_not_have_is_said(given: Any) -> None:
    model, train, test = given
    refused: list[tuple[type[ExplorerError], str, dict[str, Any]]] = [
        (SettingsError, "for sequences; found 'margin'", {"target": "margin"}),
        (SettingsError, "no classes for the target label", {"classes": 3}),
        (SettingsError, "reduction to be one of", {"reduction": "all"}),
        (SettingsError, "one of sequences", {"method": "trak"}),
        *((ModelError, "training", {"method": name}) for name in THROUGH_TRAINING),
    ]
    for error, words, settings in refused:
        with pytest.raises(error, match=words):
            explorer.explain(model, train, test, **settings)
    with pytest.raises(DataError, match="in test; found"):
        explorer.explain(model, train, (test[0], test[1][:, :3]))
    with pytest.raises(DataError, match="11 tokens; found 20"):
        explorer.explain(model, train, (test[0], np.where(test[1] < 0, test[1], 20)))
    with pytest.raises(SettingsError, match="no reduction for examples with one target each"):
        explorer.explain(nn.Linear(2, 2), (np.eye(2), [0, 1]), (np.eye(2), [0, 1]), reduction="sum")


def test_a_large_head_is_refused_with_another_method(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, train, test = given
    monkeypatch.setattr("explorer.influence.last_layer.MAX_PARAMETERS", 50)
    with pytest.raises(SettingsError, match=r"found 99.*gradient-dot, or ekfac"):
        explorer.explain(model, train, test)


def test_show_computes_a_run_of_what_explain_says(given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("explorer.maps.umap", lambda features, seed, progress: features[:, :2].copy())
    model, train, test = given
    run = explorer.show(model, train, test, weight_decay=0.01, runs=tmp_path, block=False)
    assert run.meta().task == "sequence"
    query = int(run.plan("label")[0])
    table = explorer.explain(model, train, test, query=query, weight_decay=0.01)
    top = run.top(query, "label")
    assert top is not None
    np.testing.assert_allclose(top.towards_influence[:3], table["influence"][:3], rtol=1e-4)
    with pytest.raises(SettingsError, match="Expected no vocabulary for examples with one target"):
        explorer.show(nn.Linear(2, 2), (np.eye(2), [0, 1]), (np.eye(2), [0, 1]), vocabulary=["a"], runs=tmp_path)
    with pytest.raises(DataError, match="Sequences of tokens are whole numbers"):
        dataset_from_arrays("tokens", *train, *test)
