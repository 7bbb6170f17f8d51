"""A trace's factors are every example's own gradient, whatever lies between the layers, and leave no mark."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from explorer.errors import Cancelled, ModelError
from explorer.influence import backward, layers
from explorer.influence.backward import traced, traces
from tests.influence.networks import NAMES, gradient_loop, network, state
from tests.problems import TensorExamples, one_thread


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with one_thread():
        yield


FLOAT64 = 1e-10
"""Share of the largest gradient: float64 in both, and sums over fewer than a hundred positions in another order."""

each_network = pytest.mark.parametrize("name", NAMES)


def _outer(trace: backward.Trace, gradient: Tensor) -> list[Tensor]:
    return [torch.einsum("bto,bti->boi", d, a) for a, d in zip(trace.inputs, trace.pulls(gradient), strict=True)]


def _close(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= FLOAT64 * b.abs().max()


@each_network
def test_factors_are_the_gradients_of_a_loop_of_one(name: str) -> None:
    made = network(name, torch.float64)
    inputs = made.train.inputs.double() if made.train.inputs.is_floating_point() else made.train.inputs
    found = layers.of(made.model, inputs)
    names = [layer.name for layer in found.layers]
    with traced(made.model, found, inputs) as trace:
        for seed in range(2):  # pulled twice
            pull = torch.randn(trace.outputs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            loop = gradient_loop(made.model, names, inputs, lambda out, i, pull=pull: (out[0] * pull[i]).sum())
            _close(_outer(trace, pull), loop)
        for layer, a in zip(found.layers, trace.inputs, strict=True):
            assert a.shape == (len(inputs), layer.positions, layer.width_in)


@each_network
@pytest.mark.parametrize("frozen", ["nothing", "all", "first"])
def test_frozen_parameters_count_and_nothing_is_left_behind(name: str, frozen: str) -> None:
    made = network(name)
    expected = layers.of(made.model, made.train.inputs)
    with traced(made.model, expected, made.train.inputs) as trace:
        free = _outer(trace, torch.ones_like(trace.outputs))
    for index, parameter in enumerate(made.model.parameters()):
        parameter.requires_grad_(frozen == "nothing" or (frozen == "first" and index > 0))
    before = state(made.model)
    with torch.no_grad(), traced(made.model, layers.of(made.model, made.train.inputs), made.train.inputs) as trace:
        assert all(torch.equal(a, b) for a, b in zip(_outer(trace, torch.ones_like(trace.outputs)), free, strict=True))
        trace.outputs.detach()
    assert state(made.model) == before


def test_a_layer_that_this_batch_does_not_reach_is_a_message_and_one_without_effect_has_no_gradient() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
            self.mode = "both"

        def forward(self, x: Tensor) -> Tensor:
            if self.mode == "one":
                return self.a(x)
            return self.a(x) + (self.b(x) if self.mode == "both" else self.b(x).detach())

    model, x = Gate(), torch.ones(3, 2)
    found = layers.of(model, x)
    model.mode = "detached"
    with traced(model, found, x) as trace:
        assert [bool(g.any()) for g in _outer(trace, torch.ones(3, 2))] == [True, False]
    model.mode = "one"
    with pytest.raises(ModelError, match=r"Expected b to be called.*found"), traced(model, found, x):
        pass


@each_network
def test_blocks_together_are_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = network(name)
    found = layers.of(made.model, made.train.inputs)
    rows = np.array([3, 1, 7, 0, 12, 5, 4], dtype=np.int64)
    with traced(made.model, found, made.train.batch(rows)) as trace:
        whole = _outer(trace, torch.ones_like(trace.outputs))
    monkeypatch.setattr(backward, "BATCH", 3)
    told: list[tuple[int, int]] = []
    parts = [
        (start, _outer(trace, torch.ones_like(trace.outputs)))
        for start, trace in traces(made.model, found, made.train, rows, lambda done, of, note: told.append((done, of)))
    ]
    assert [start for start, _ in parts] == [0, 3, 6]
    assert told == [(0, 7), (3, 7), (6, 7), (7, 7)]
    rounding = 2e-6  # float32, batches of another size
    for index, expected in enumerate(whole):
        assert (torch.cat([part[index] for _, part in parts]) - expected).abs().max() <= rounding * expected.abs().max()


def test_blocks_are_bounded_by_what_the_layers_hold() -> None:
    made = network("attention")
    found = layers.of(made.model, made.train.inputs)
    assert found.elements == 5 * (4 + 1 + 12) + 5 * (4 + 1 + 4) + (4 + 1 + 3)
    assert backward.block_size(found, elements=10 * found.elements + 1) == 10
    assert backward.block_size(found, elements=1) == 1
    assert backward.block_size(found) == backward.BATCH


@each_network
def test_cancelled_at_any_block_leaves_the_model_as_it_was(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = network(name)
    found = layers.of(made.model, made.train.inputs)
    monkeypatch.setattr(backward, "BATCH", 5)
    before = state(made.model)

    def work(stop: int) -> None:
        def progress(done: int, total: int, note: str) -> None:
            if done >= min(5 * stop, total):
                raise Cancelled

        for _, trace in traces(made.model, found, made.train, np.arange(14), progress):
            trace.pulls(torch.ones_like(trace.outputs))

    for stop in range(4):
        with pytest.raises(Cancelled) as caught:
            work(stop)
        assert caught  # the traceback, and with it the generator, still lives
        assert state(made.model) == before


def test_an_output_that_is_not_a_number_names_its_row() -> None:
    made = network("mlp")
    found = layers.of(made.model, made.train.inputs)
    inputs = made.train.inputs.clone()
    inputs[9, 1] = float("nan")
    with pytest.raises(ModelError, match=r"finite outputs.*found.*1 of.*'row-9'"):
        list(traces(made.model, found, TensorExamples(inputs, made.train.targets), np.arange(14)))


@pytest.mark.parametrize("shape", ["sequence", "tuple", "one number"])
def test_an_output_of_another_shape_is_refused_in_words(shape: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> object:
            h = self.layer(x)
            return {"sequence": h.unsqueeze(1).expand(-1, 2, -1), "tuple": (h, h), "one number": h[0]}[shape]

    with pytest.raises(ModelError, match=r"^Expected .*found .*\. Wrap"):
        layers.of(Model(), torch.ones(3, 2))


def test_rows_of_half_precision_are_measured_in_float32() -> None:
    made = network("mlp")
    found = layers.of(made.model, made.train.inputs)
    with traced(made.model, found, made.train.inputs) as trace:
        expected = _outer(trace, torch.ones_like(trace.outputs))
    half = made.model.to(torch.bfloat16)
    with traced(half, layers.of(half, made.train.inputs), made.train.inputs) as trace:
        rows = [*trace.inputs, *trace.pulls(torch.ones_like(trace.outputs))]
        assert {r.dtype for r in rows} == {torch.float32}
        share = 0.05  # eight bits a number, three layers
        for a, b in zip(_outer(trace, torch.ones_like(trace.outputs)), expected, strict=True):
            assert (a - b).abs().max() <= share * b.abs().max()
