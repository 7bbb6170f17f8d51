"""One inverse, every network: scores are the dense triple product, in blocks or not, kept or not, along any axes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from explorer.contracts import TARGETS, Queries, Target
from explorer.errors import Cancelled, DataError, ModelError
from explorer.influence import backward, directional, layers
from explorer.influence.directional import Basis, FittedInverse, Rows, contract
from tests.influence.networks import NAMES, Network, gradient_loop, loss, network, state
from tests.problems import TensorExamples, one_thread


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with one_thread():
        yield


FLOAT32 = 2e-5
"""Share of a query's largest |score|: the product's passes are float32 (6e-8 each step), sums over some hundred terms."""
REORDERED = 2e-6
"""The same, where only the order of the same float32 sums differs."""

each_network = pytest.mark.parametrize("name", NAMES)
each_target = pytest.mark.parametrize("target", TARGETS)


@dataclass(frozen=True)
class Dense:
    """A positive matrix over all layers at once, flattened row by row."""

    matrix: Tensor

    def apply(self, gradients: list[Tensor]) -> list[Tensor]:
        flat = torch.cat([g.flatten(1) for g in gradients], 1)
        parts = (flat.double() @ self.matrix).to(flat).split([g[0].numel() for g in gradients], 1)
        return [part.reshape(g.shape) for part, g in zip(parts, gradients, strict=True)]

    def tensors(self) -> dict[str, Tensor]:
        return {"matrix": self.matrix}


def _fitted(made: Network, basis: bool = False) -> FittedInverse:
    found = layers.of(made.model, made.train.inputs)
    draw = torch.Generator().manual_seed(0)
    root = torch.randn(found.size, found.size, generator=draw, dtype=torch.float64) / found.size**0.5
    matrix = root @ root.T + torch.eye(found.size, dtype=torch.float64)
    axes = None
    if basis:
        turns = [
            [
                torch.linalg.qr(torch.randn(w, w, generator=draw, dtype=torch.float64))[0]
                for w in (layer.width_in, layer.width_out)
            ]
            for layer in found.layers
        ]
        axes = Basis([a.float() for a, _ in turns], [d.float() for _, d in turns])
        whole = torch.block_diag(*(torch.kron(d, a) for a, d in turns))
        return FittedInverse(made.subject(), found, Dense(whole.T @ matrix @ whole), "dense", {}, basis=axes)
    return FittedInverse(made.subject(), found, Dense(matrix), "dense", {})


def _measure(outputs: Tensor, target: Tensor, kind: Target) -> Tensor:
    if kind == "label":
        return -loss(outputs, target[None])[0]
    return outputs[0, 0] if outputs.shape[1] == 1 else outputs.log_softmax(1).max()


def _dense(made: Network, target: Target) -> tuple[Tensor, Tensor]:
    """Scores and self-influence in float64, every gradient by a backward pass of its own."""
    twin = network(made.name, torch.float64)
    found = layers.of(made.model, made.train.inputs)
    names = [layer.name for layer in found.layers]

    def inputs(examples: TensorExamples) -> Tensor:
        return examples.inputs.double() if examples.inputs.is_floating_point() else examples.inputs

    train = gradient_loop(
        twin.model, names, inputs(made.train), lambda out, i: loss(out, made.train.targets[i : i + 1])[0]
    )
    asked = gradient_loop(
        twin.model, names, inputs(made.test), lambda out, q: _measure(out, made.test.targets[q], target)
    )
    g, m = (torch.cat([layer.flatten(1) for layer in rows], 1) for rows in (train, asked))
    H = _fitted(made).inverse.tensors()["matrix"]
    return -m @ H @ g.T / len(g), ((g @ H) * g).sum(1) / len(g)


def _close(found: Tensor, expected: Tensor, share: float = FLOAT32) -> None:
    assert found.shape == expected.shape
    error = (found.double() - expected.double()).abs().amax(-1) / expected.double().abs().amax(-1)
    assert error.max() <= share, f"{error.max():.1e}"


@each_target
@each_network
@pytest.mark.parametrize("basis", [False, True])
def test_scores_equal_the_dense_triple_product(name: str, target: Target, basis: bool) -> None:
    made = network(name)
    fitted = _fitted(made, basis)
    expected, own = _dense(made, target)
    scores = fitted.score(made.queries(target))
    _close(scores.values, expected)
    assert scores.values.dtype == torch.float32
    assert (list(scores.query_ids), list(scores.train_ids)) == (list(made.test.ids), list(made.train.ids))
    _close(fitted.self_influence(), own)
    weights = torch.randn(3, len(made.test), generator=torch.Generator().manual_seed(1))
    size = (weights.double().abs() @ expected.abs()).amax()
    assert (fitted.weighted(made.queries(target), weights) - weights.double() @ expected).abs().max() <= FLOAT32 * size


@each_network
def test_blocks_of_anything_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = network(name)
    whole = _fitted(made)
    queries = made.queries()
    weights = torch.ones(1, len(made.test))
    expected = whole.score(queries).values, whole.weighted(queries, weights), whole.self_influence()
    monkeypatch.setattr(backward, "BATCH", 6)
    monkeypatch.setattr(directional, "QUERY_ELEMENTS", 2 * whole.layers.size)
    monkeypatch.setattr(directional, "ELEMENTS", 100)
    monkeypatch.setattr(directional, "FEWEST_ROWS", 4)
    for kept in (2**30, 0):
        monkeypatch.setattr(directional, "KEEP_BYTES", kept)
        fitted = _fitted(made)
        for _ in range(2):  # the second time from memory, where it is kept
            _close(fitted.score(queries).values, expected[0], REORDERED)
            _close(fitted.weighted(queries, weights), expected[1], REORDERED)
            _close(fitted.self_influence(), expected[2], REORDERED)


def test_the_training_set_is_run_once_where_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made = network("mlp")
    runs: list[int] = []
    model = made.model
    model.register_forward_hook(lambda _, args, out: runs.append(len(out)))
    for kept, times in ((2**30, 1), (0, 3)):
        monkeypatch.setattr(directional, "KEEP_BYTES", kept)
        fitted = _fitted(made)
        runs.clear()
        for _ in range(2):
            fitted.score(made.queries())
        fitted.self_influence()
        assert runs.count(len(made.train)) == times


def test_a_cancelled_pass_is_not_kept_and_leaves_the_model_as_it_was() -> None:
    made = network("conv")
    fitted = _fitted(made)
    before = state(made.model)
    expected = _fitted(made).score(made.queries()).values
    works = {
        "score": lambda progress: fitted.score(made.queries(), progress),
        "weighted": lambda progress: fitted.weighted(made.queries(), torch.ones(1, 4), progress),
        "self": lambda progress: fitted.self_influence(progress),
    }
    for work in works.values():
        calls: list[str] = []

        def progress(done: int, total: int, note: str, calls: list[str] = calls) -> None:
            assert 0 <= done <= total
            calls.append(note)

        fitted._kept = directional.Kept()
        work(progress)
        for stop in range(len(calls)):

            def cancel(done: int, total: int, note: str, left: list[int] = [stop]) -> None:  # noqa: B006
                left[0] -= 1
                if left[0] < 0:
                    raise Cancelled

            fitted._kept = directional.Kept()
            with pytest.raises(Cancelled):
                work(cancel)
            assert state(made.model) == before
            assert torch.equal(fitted.score(made.queries()).values, expected)


def test_scores_go_where_they_are_told_the_same_bits() -> None:
    made = network("attention")
    fitted = _fitted(made)
    room = torch.full((2, len(made.test), len(made.train)), torch.nan)
    scores = fitted.score(made.queries(), out=room[1])
    assert scores.values.data_ptr() == room[1].data_ptr()
    assert room[0].isnan().all()
    assert torch.equal(room[1], _fitted(made).score(made.queries()).values)


@pytest.mark.parametrize("positions", [1, 4])
@pytest.mark.parametrize("elements", [1, 50, 2**20])
def test_contractions_are_sums_of_products_in_any_block(
    positions: int, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    monkeypatch.setattr(directional, "ELEMENTS", elements)
    monkeypatch.setattr(directional, "FEWEST_ROWS", 3)
    rows = Rows(
        [random(10, positions, 5), random(10, positions, 3)], [random(10, positions, 4), random(10, positions, 6)]
    )
    directions = [random(7, 4, 5), random(7, 6, 3)]
    dense = sum(
        torch.einsum("qoi,bto,bti->qb", D, d, a) for D, a, d in zip(directions, rows.inputs, rows.pulls, strict=True)
    )
    rounding = 1e-12  # float64
    assert (contract(directions, rows) - dense).abs().max() < rounding


def test_no_query_and_gradients_that_are_not_numbers_are_messages() -> None:
    made = network("mlp")
    fitted = _fitted(made)
    none = Queries(made.test, np.array([], dtype=np.int64))
    for work in (lambda: fitted.score(none), lambda: fitted.weighted(none, torch.zeros(1, 0))):
        with pytest.raises(DataError, match=r"query.*found none"):
            work()
    with torch.no_grad():
        made.model[0].weight[0, 0] = float("inf")
    with pytest.raises(ModelError, match=r"finite.*found"):
        fitted.score(made.queries())
