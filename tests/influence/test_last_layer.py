"""The exact last layer: equal to dense autograd and to ridge's closed form, honest where it cannot answer, and small."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from explorer.contracts import TARGETS, Queries, Subject, Target
from explorer.errors import ModelError, SettingsError
from explorer.influence import linear
from explorer.influence.last_layer import MAX_PARAMETERS, LastLayer
from explorer.objectives import CrossEntropy
from tests import oracles, problems

FLOAT64 = 2e-6
"""Share of a query's largest score: inputs are exact for a linear model and the algebra is float64, so what is left is
float32 in the final products (6e-8 each) and in the answer."""
AT_OPTIMUM = 2e-6
"""As FLOAT64, plus the float32 rounding of the trained ridge weights, which the closed form does not have."""
WHOLE = ("ridge", "binary", "softmax")
MEGABYTE = 2**20

each_target = pytest.mark.parametrize("target", TARGETS)


def _all(made: problems.Problem, target: Target = "label") -> Queries:
    return Queries(made.test, np.arange(len(made.test), dtype=np.int64), target)


def _error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest score of its query."""
    return float(((actual.double() - expected).abs().amax(1) / expected.abs().amax(1)).max())


@each_target
@pytest.mark.parametrize("damping", [0.0, 1e-3, 0.3])
@pytest.mark.parametrize("name", WHOLE)
def test_equals_the_dense_inverse_on_a_linear_model(name: str, damping: float, target: Target) -> None:
    made = problems.problem(name)
    fitted = LastLayer(damping).fit(made.subject())
    assert _error(fitted.score(_all(made, target)).values, oracles.last_layer_scores(made, target, damping)) < FLOAT64
    own = oracles.last_layer_self(made, damping)
    assert _error(fitted.self_influence()[None], own[None]) < FLOAT64


@each_target
def test_equals_the_closed_form_derivative_of_ridge(target: Target) -> None:
    made = problems.problem("ridge")
    values = LastLayer().fit(made.subject()).score(_all(made, target)).values
    # s(q, i) is what having i does, and more of i (its weight up from 1) does the same: the signs agree.
    assert _error(values, oracles.ridge_derivative(made, target)) < AT_OPTIMUM


def test_small_changes_of_a_weight_move_ridge_as_the_closed_form_says() -> None:
    """The oracle's own check: the derivative is a finite difference of refits."""
    made = problems.problem("ridge")
    head = oracles.head_of(made)
    step, largest_error = 1e-4, 1e-7  # central differences of an analytic function: error about step²
    weights = torch.ones(len(made.train))
    for i in (0, 17, 42):
        moved = []
        for sign in (1, -1):
            weights[i] = 1 + sign * step
            # the step as float32 stored it
            theta = oracles.ridge_solution(made.train.inputs, made.train.targets, weights, made.weight_decay)
            moved.append((oracles.test_measures(head, theta, "label"), float(weights[i])))
        weights[i] = 1
        slope = (moved[0][0] - moved[1][0]) / (moved[0][1] - moved[1][1])
        assert (slope - oracles.ridge_derivative(made, "label")[:, i]).abs().max() < largest_error


@pytest.mark.parametrize("name", problems.NAMES)
def test_says_how_it_was_damped(name: str) -> None:
    made = problems.problem(name)
    stats = LastLayer().fit(made.subject()).stats
    same_number = 1e-5  # the oracle's features are float64, the product's float32
    assert stats["damping"] == pytest.approx(oracles.default_damping(made), rel=same_number)
    assert (stats["damping"] == 0) == made.whole
    assert stats["weight_decay"] == made.weight_decay
    assert LastLayer(0.25).fit(made.subject()).stats["damping"] == 0.25
    solved_to_rounding = 1e-9
    assert 0 <= stats["residual"] < solved_to_rounding
    assert stats["seconds"] > 0
    assert json.loads(json.dumps(dict(stats))) == dict(stats)


@pytest.mark.parametrize("name", problems.NAMES)
def test_another_damping_is_as_if_fitted_with_it(name: str) -> None:
    made = problems.problem(name)
    moved, anew = LastLayer(0.3).fit(made.subject()).redamped(1e-2), LastLayer(1e-2).fit(made.subject())
    assert _error(moved.score(_all(made)).values, anew.score(_all(made)).values.double()) < FLOAT64
    assert _error(moved.self_influence()[None], anew.self_influence()[None].double()) < FLOAT64
    assert moved.stats["damping"] == 1e-2
    assert moved.stats["residual"] < 1e-9  # float64, an inverse of condition 1e4 at most
    with pytest.raises(SettingsError, match="found -1"):
        moved.redamped(-1.0)


def test_chooses_a_damping_where_nothing_decays() -> None:
    made = problems.problem("softmax")
    stats = LastLayer().fit(made.subject(weight_decay=0.0)).stats
    expected = oracles.default_damping(replace(made, weight_decay=0.0))
    assert expected > 0
    assert stats["damping"] == pytest.approx(expected, rel=1e-6)  # both float64, summed in another order


@pytest.mark.parametrize("name", ["softmax", "mlp"])
def test_no_damping_on_a_singular_curvature_is_refused_in_words(name: str) -> None:
    made = problems.problem(name)
    with pytest.raises(SettingsError, match=r"singular.*damping 0 .*[Cc]hoose a larger damping"):
        LastLayer(0.0).fit(made.subject(weight_decay=0.0))


@pytest.mark.parametrize("damping", [-0.1, float("nan"), float("inf")])
def test_a_damping_out_of_range_is_refused(damping: float) -> None:
    with pytest.raises(SettingsError, match=f"damping >= 0.*{damping}"):
        LastLayer(damping)


def test_features_that_are_not_numbers_are_refused() -> None:
    made = problems.problem("mlp")
    inputs = made.train.inputs.clone()
    inputs[11, 2] = float("nan")
    with pytest.raises(ModelError, match=r"finite.*found.*1 of 160.*row-11"):
        LastLayer().fit(made.subject(train=problems.TensorExamples(inputs, made.train.targets)))


def test_a_query_that_is_not_a_number_is_refused() -> None:
    made = problems.problem("mlp")
    inputs = made.test.inputs.clone()
    inputs[4, 0] = float("inf")
    broken = problems.TensorExamples(inputs, made.test.targets)
    inputs[4, 1] = float("nan")
    fitted = LastLayer().fit(made.subject())
    with pytest.raises(ModelError, match="finite"):
        fitted.score(Queries(broken, np.array([3, 4]), "label"))


class _Twice(nn.Module):
    """One linear layer called twice: its gradient is not one outer product."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))


class _Sequence(nn.Module):
    """Returns `[batch, 2, outputs]`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).unsqueeze(1).expand(-1, 2, -1)


UNFIT: dict[str, Callable[[], nn.Module]] = {
    "ends in softmax": lambda: nn.Sequential(nn.Linear(6, 3), nn.Softmax(1)),
    "ends in log-softmax": lambda: nn.Sequential(nn.Linear(6, 3), nn.LogSoftmax(1)),
    "has no linear layer": lambda: nn.Sequential(nn.Unflatten(1, (6, 1)), nn.Conv1d(6, 3, 1), nn.Flatten()),
    "calls its head twice": _Twice,
    "gives a sequence": _Sequence,
}


@pytest.mark.parametrize("why", UNFIT)
def test_a_model_that_does_not_end_in_a_linear_layer_is_refused_in_words(why: str) -> None:
    made = problems.problem("softmax")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UNFIT[why]()
    with pytest.raises(ModelError, match=r"^Expected .*found .*[.;] ?.+\.$"):
        LastLayer().fit(made.subject(model=model))


def test_a_function_after_the_head_is_noticed_even_where_it_first_changes_nothing() -> None:
    """A ReLU on outputs that are positive for the first rows and not for later ones."""
    made = problems.problem("ridge")
    order = made.train.targets.argsort(descending=True)
    train = problems.TensorExamples(made.train.inputs[order], made.train.targets[order])
    with torch.no_grad():
        outputs = made.model(train.inputs)
    assert (outputs[:10] > 0).all()
    assert (outputs[-10:] < 0).all()
    with pytest.raises(ModelError, match="final"):
        LastLayer().fit(made.subject(model=nn.Sequential(made.model, nn.ReLU()), train=train))


def test_a_head_too_large_for_an_exact_inverse_is_refused_with_its_size() -> None:
    features, classes = 200, 60
    model = nn.Linear(features, classes)
    train = problems.TensorExamples(torch.zeros(8, features), torch.arange(8))
    size = (features + 1) * classes
    assert size > MAX_PARAMETERS
    with pytest.raises(SettingsError, match=rf"{MAX_PARAMETERS}.*{size}.*gradient-dot"):
        LastLayer().fit(Subject(model, train, CrossEntropy(), 1e-3, "large"))


def _peak_bytes(work: Callable[[], object], trace: Path) -> int:
    """The most memory held in tensors at once above what was held before, from the allocator's own record."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    recorded.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    held = np.cumsum([event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])])
    return int(held.max())


@pytest.mark.filterwarnings("ignore:Profiler clears events:UserWarning")  # a note of torch, nothing of ours
def test_the_gradients_of_all_examples_are_never_held_at_once(tmp_path: Path) -> None:
    n, features, classes = 40_000, 96, 10
    generator = torch.Generator().manual_seed(0)
    train = problems.TensorExamples(
        torch.randn(n, features, generator=generator), torch.randint(classes, (n,), generator=generator)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        subject = Subject(nn.Linear(features, classes), train, CrossEntropy(), 1e-2, "wide")
    gradients = n * (features + 1) * classes * 4

    def work() -> None:
        fitted = LastLayer().fit(subject)
        fitted.self_influence()
        fitted.weighted(Queries(train, np.arange(2000), "label"), torch.ones(1, 2000) / 2000)
        fitted.score(Queries(train, np.arange(20), "label"))

    assert _peak_bytes(lambda: torch.zeros(n, 100), tmp_path / "check.json") == n * 100 * 4  # the ruler measures
    peak = _peak_bytes(work, tmp_path / "trace.json")
    print(f"\npeak {peak / MEGABYTE:.0f} MB, gradient matrix {gradients / MEGABYTE:.0f} MB")
    # The features, copied with their column of ones, and blocks of a fixed size: two fifths when written.
    assert peak < 0.5 * gradients


def test_messages_name_the_value_found() -> None:
    with pytest.raises(SettingsError) as caught:
        LastLayer(-2.5)
    assert re.search(r"found -2\.5", str(caught.value))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("queries", [1, 2, 15, 16, 40])
def test_contractions_are_sums_of_products_however_many_queries_and_blocks(
    queries: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    h, e = torch.randn(700, 5, generator=draw, dtype=dtype), torch.randn(700, 3, generator=draw, dtype=dtype)
    r, seen = (torch.randn(40, width, generator=draw, dtype=torch.float64) for width in (3, 5))
    monkeypatch.setattr(linear, "ELEMENTS", 300 * 15)  # three blocks of rows, the last a short one
    dense = -torch.einsum("qk,qp,nk,np->qn", r, seen, e.double(), h.double()) / 700
    whole = linear.contract(linear.outer(r, seen), h, e), linear.contract_pairs(r, seen, h, e)
    some = (
        linear.contract(linear.outer(r, seen)[:queries], h, e),
        linear.contract_pairs(r[:queries], seen[:queries], h, e),
    )
    for found, part in zip(whole, some, strict=True):
        assert _error(found, dense) < FLOAT64
        assert _error(part, found[:queries].double()) < FLOAT64
    out = torch.empty(queries, 700)
    linear.contract(linear.outer(r, seen)[:queries], h, e, out=out)
    assert torch.equal(out, some[0].float())
