"""One battery over every method, problem and target: what all of `contracts.Method` promises."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from explorer.contracts import TARGETS, Fitted, Method, Queries, Subject, Target
from explorer.errors import Cancelled, DataError, ModelError, SettingsError
from explorer.influence import METHODS, OF_TWO_STAGES, THROUGH_TRAINING
from tests import oracles, problems

FLOAT32 = 2e-5
"""Share of a query's largest |score|: features pass through the network in float32 (6e-8), the inverse of the smallest
problem's curvature magnifies that by up to a hundred, and k float32 products are summed."""
REORDERED = 1e-5
"""Share of a query's largest |score|: the same float32 products (6e-8), summed in another order by the matrix routines,
and a regression query's y − f can be a hundred times smaller than the f it is the difference of."""
ITERATIVE = {
    "conjugate-gradient": {"tolerance": 1e-5, "deflation": 10},
    "refine": {"tolerance": 1e-5},
    "arnoldi": {"projections": 10},
    "lissa": {"depth": 10},
}
"""Methods that solve for every query anew, at settings that leave rounding alone between two ways to ask, and take a moment."""
LOOSER = {"gauss-newton": 10.0} | dict.fromkeys(("conjugate-gradient", "refine", "arnoldi"), 10.0)
"""What a method's score is a difference of: a gradient product less its part along the columns, ten times as large; and steps
that differ in their last bits go apart as far as the curvature's condition lets them."""
REMOVED = 5
"""Examples removed together in the sign test: the largest few per cent of these problems."""

HEADS = ("last-layer", "gradient-dot")
"""Methods of the last layer, whose oracles are here; those of the others stand beside each of them."""
STAGED = {"two-stage": {"proximal": 0.3}}
"""Methods of two stages, both of which are the problem's own here."""
FIT_ALONE = [name for name in METHODS if name not in THROUGH_TRAINING]
"""Methods that need no more than the final weights; the others have batteries of their own."""
FEW = ("softmax", "conv", "mlp-regression")
"""Problems for the methods of all layers: a whole model, shared weights, a regression. The rest is left to `make slow`."""
ALIKE = ("kfac", "refine", "arnoldi", "lissa", "relative")
"""Methods built of the same parts as another one here: left to `make slow` whole."""
CASES = [
    pytest.param(
        method,
        name,
        marks=pytest.mark.slow
        if method in ALIKE
        or (method not in HEADS and name not in FEW[: 1 if method in ITERATIVE or method in STAGED else 3])
        else [],
    )
    for method in FIT_ALONE
    for name in problems.NAMES
]
each_case = pytest.mark.parametrize(("method", "name"), CASES)
each_method = pytest.mark.parametrize("method", FIT_ALONE)
each_head_method = pytest.mark.parametrize("method", HEADS)
each_problem = pytest.mark.parametrize("name", problems.NAMES)
each_target = pytest.mark.parametrize("target", TARGETS)


def _made(method: str) -> Method:
    found: Method = METHODS[method](**(ITERATIVE | STAGED).get(method, {}))
    return found


def _subject(method: str, made: problems.Problem) -> Subject:
    return replace(made.subject(), pretrained=made.subject()) if method in OF_TWO_STAGES else made.subject()


@cache
def _case(method: str, name: str) -> tuple[problems.Problem, Fitted]:
    made = problems.problem(name)
    return made, _made(method).fit(_subject(method, made))


def _queries(made: problems.Problem, target: Target, rows: list[int] | None = None) -> Queries:
    chosen = np.arange(len(made.test)) if rows is None else np.array(rows)
    return Queries(made.test, chosen.astype(np.int64), target)


def _oracle_scores(method: str, made: problems.Problem, target: Target) -> Tensor:
    if method == "gradient-dot":
        return oracles.dot_scores(made, target)
    return oracles.last_layer_scores(made, target, oracles.default_damping(made))


def _oracle_self(method: str, made: problems.Problem) -> Tensor:
    if method == "gradient-dot":
        return oracles.dot_self(made)
    return oracles.last_layer_self(made, oracles.default_damping(made))


def assert_rows_close(actual: Tensor, expected: Tensor, share: float) -> None:
    assert actual.shape == expected.shape
    error = (actual.double() - expected.double()).abs().amax(-1)
    size = expected.double().abs().amax(-1)
    assert (error <= share * size).all(), (
        f"largest error {(error / size).max():.2e} of the row's largest, over {share:g}"
    )


@each_target
@each_problem
@each_head_method
def test_scores_equal_the_dense_oracle(method: str, name: str, target: Target) -> None:
    made, fitted = _case(method, name)
    assert_rows_close(fitted.score(_queries(made, target)).values, _oracle_scores(method, made, target), share=FLOAT32)


@each_target
@each_case
def test_scores_say_what_they_are(method: str, name: str, target: Target) -> None:
    made, fitted = _case(method, name)
    rows = [3, 0, 7]
    scores = fitted.score(_queries(made, target, rows))
    assert scores.values.shape == (3, len(made.train))
    assert scores.values.dtype == torch.float32
    assert list(scores.query_ids) == ["test-3", "test-0", "test-7"]
    assert list(scores.train_ids) == list(made.train.ids)
    assert (scores.method, scores.target) == (method, target)
    assert scores.unit
    assert scores.stats["seconds"] >= 0


@each_case
def test_fitting_and_scoring_twice_gives_the_same_bits(method: str, name: str) -> None:
    made, fitted = _case(method, name)
    again = _made(method).fit(_subject(method, problems.problem(name)))
    first, second = fitted.score(_queries(made, "label")), again.score(_queries(made, "label"))
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.values, fitted.score(_queries(made, "label")).values)
    assert torch.equal(fitted.self_influence(), again.self_influence())


@each_target
@each_case
def test_queries_do_not_see_each_other(method: str, name: str, target: Target) -> None:
    made, fitted = _case(method, name)
    together = fitted.score(_queries(made, target)).values
    single = torch.cat([fitted.score(_queries(made, target, [q])).values for q in range(len(made.test))])
    share = REORDERED * LOOSER.get(method, 1)
    assert_rows_close(single, together, share=share)
    order = list(np.random.default_rng(0).permutation(len(made.test)))
    assert_rows_close(fitted.score(_queries(made, target, order)).values, together[order], share=share)


@each_target
@each_case
def test_scores_go_where_they_are_told(method: str, name: str, target: Target) -> None:
    made, fitted = _case(method, name)
    for rows in ([2], None):
        queries = _queries(made, target, rows)
        room = torch.full((2, len(queries.rows), len(made.train)), torch.nan)
        scores = fitted.score(queries, out=room[1])
        assert torch.equal(room[1], fitted.score(queries).values)
        assert scores.values.data_ptr() == room[1].data_ptr()
        assert room[0].isnan().all()


@each_target
@each_case
def test_weighted_sums_equal_the_sum_of_scores(method: str, name: str, target: Target) -> None:
    made, fitted = _case(method, name)
    weights = torch.randn(4, len(made.test), generator=torch.Generator().manual_seed(0))
    weights[1] = 1 / len(made.test)
    summed = fitted.weighted(_queries(made, target), weights)
    scores = fitted.score(_queries(made, target)).values.double()
    assert summed.dtype == torch.float32
    # Queries cancel in the sum, so float32 errors are held against the largest term instead of the result.
    size = (weights.double().abs() @ scores.abs()).amax(1, keepdim=True)
    assert ((summed.double() - weights.double() @ scores).abs() <= FLOAT32 * size).all()


@each_case
def test_self_influence_is_never_negative_and_that_of_a_head_equals_the_oracle(method: str, name: str) -> None:
    made, fitted = _case(method, name)
    own = fitted.self_influence()
    assert own.dtype == torch.float32
    assert own.shape == (len(made.train),)
    assert (own >= 0).all()
    assert own.max() > 0
    if method in HEADS:
        assert_rows_close(own, _oracle_self(method, made), share=FLOAT32)


@each_case
def test_self_influence_is_the_score_of_an_example_asked_about_itself(method: str, name: str) -> None:
    made, fitted = _case(method, name)
    asked = Queries(made.train, np.arange(len(made.train), dtype=np.int64), "label")
    diagonal = fitted.score(asked).values.diagonal()
    assert_rows_close(diagonal, fitted.self_influence(), share=FLOAT32)


@each_case
def test_saved_and_reloaded_gives_the_same_bytes(method: str, name: str, tmp_path: Path) -> None:
    made, fitted = _case(method, name)
    save_file(fitted.tensors(), tmp_path / "fitted.safetensors")
    stats = json.loads(json.dumps(dict(fitted.stats)))
    home = _subject(method, problems.problem(name))
    restored = _made(method).restore(home, load_file(tmp_path / "fitted.safetensors"), stats)
    assert dict(restored.stats) == dict(fitted.stats)
    assert restored.unit == fitted.unit
    for target in TARGETS:
        queries = _queries(made, target)
        weights = torch.ones(1, len(made.test)) / len(made.test)
        assert torch.equal(restored.score(queries).values, fitted.score(queries).values)
        assert torch.equal(restored.weighted(queries, weights), fitted.weighted(queries, weights))
    assert torch.equal(restored.self_influence(), fitted.self_influence())


def _state(model: nn.Module) -> tuple[object, ...]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        {key: value.numpy().tobytes() for key, value in model.state_dict().items()},
        {key: module.training for key, module in model.named_modules()},
        {key: (p.requires_grad, p.grad is None, p.dtype) for key, p in model.named_parameters()},
        {key: [len(getattr(module, hook)) for hook in hooks] for key, module in model.named_modules()},
        torch.is_grad_enabled(),
        torch.random.get_rng_state().tolist(),
    )


class _CancelAt:
    """Raises at its k-th call; `calls` says how often it was asked when it never raised."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.calls = 0

    def __call__(self, done: int, total: int, note: str) -> None:
        assert 0 <= done <= total
        assert note
        if self.calls == self.k:
            raise Cancelled
        self.calls += 1


NEVER = 10**9
STOPS = 12
"""Places at which work is stopped, evenly spread, where it asks more often than that."""


@each_case
def test_work_leaves_the_model_as_it_was_cancelled_or_not(method: str, name: str) -> None:
    made = problems.problem(name)
    before = _state(made.model)
    _, fitted = _case(method, name)
    fitted = _made(method).restore(_subject(method, made), fitted.tensors(), fitted.stats)
    queries = _queries(made, "label")
    weights = torch.ones(1, len(made.test))
    works: dict[str, Callable[[_CancelAt], object]] = {
        "fit": lambda progress: _made(method).fit(_subject(method, made), progress),
        "score": lambda progress: fitted.score(queries, progress),
        "weighted": lambda progress: fitted.weighted(queries, weights, progress),
        "self_influence": lambda progress: fitted.self_influence(progress),
    }
    for what, work in works.items():
        whole = _CancelAt(NEVER)
        work(whole)
        assert _state(made.model) == before, what
        assert whole.calls >= 1, f"{what} never asks whether to stop"
        for k in sorted({round(at) for at in np.linspace(0, whole.calls - 1, min(STOPS, whole.calls))}):
            with pytest.raises(Cancelled):
                work(_CancelAt(k))
            assert _state(made.model) == before, f"{what} cancelled at call {k}"


@each_target
@each_case
def test_removing_the_most_helpful_hurts_and_the_most_harmful_helps(method: str, name: str, target: Target) -> None:
    """The sign, against refits of the head without the examples named (a convex problem on given features)."""
    made, fitted = _case(method, name)
    if method == "bias-only":
        pytest.skip("what the bias alone would do is not what removing an example does")
    if method in OF_TWO_STAGES:
        pytest.skip("a refit of one stage is no truth for two; tests/influence/test_two_stage.py refits both")
    if method not in HEADS and not made.whole:
        pytest.skip("refits of the head are no truth for the layers below it")
    head = oracles.head_of(made)
    full = oracles.test_measures(head, oracles.refit(head, []), target)
    changes = []
    for q, row in enumerate(fitted.score(_queries(made, target, list(range(6)))).values):
        order = row.argsort().tolist()
        for removed in (order[-REMOVED:], order[:REMOVED]):
            changes.append(oracles.test_measures(head, oracles.refit(head, removed), target)[q] - full[q])
    helpful, harmful = torch.stack(changes).reshape(-1, 2).T
    if method == "gradient-dot":  # no curvature, so no promise for a single query: the sign holds on average
        helpful, harmful = helpful.mean(), harmful.mean()
    assert (helpful < 0).all()
    assert (harmful > 0).all()


@pytest.mark.parametrize("method", THROUGH_TRAINING)
def test_methods_that_need_the_training_say_so(method: str) -> None:
    with pytest.raises(ModelError, match="training"):
        METHODS[method]().fit(problems.problem("softmax").subject())


@pytest.mark.parametrize("method", OF_TWO_STAGES)
def test_methods_of_two_stages_say_what_is_missing(method: str) -> None:
    made = problems.problem("softmax")
    with pytest.raises(
        SettingsError, match=r"pretrained stage that it began from; found one without\. Give it from Python"
    ):
        _made(method).fit(made.subject())
    with pytest.raises(SettingsError, match=r"proximal > 0 and finite; found None\. Give the weight"):
        METHODS[method]().fit(_subject(method, made))


@each_method
def test_no_query_is_a_message(method: str) -> None:
    made, fitted = _case(method, "softmax")
    with pytest.raises(DataError, match="query"):
        fitted.score(_queries(made, "label", []))
    with pytest.raises(DataError, match="query"):
        fitted.weighted(_queries(made, "label", []), torch.zeros(1, 0))
