"""The Gauss-Newton inverse by its columns is the dense inverse over all layers together, on every kind of layer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from explorer.contracts import TARGETS, Queries, Target
from explorer.errors import Cancelled, SettingsError
from explorer.influence.gauss_newton import FittedGaussNewton, GaussNewton
from tests.influence.dense_twin import Twin, twin_of_network
from tests.influence.networks import NAMES, network, state
from tests.problems import one_thread

DAMPING = 0.05
ALL = 100_000
"""More columns than any of these networks has."""
FLOAT64 = 1e-6
"""Share of a row's largest |score|: float64 on both sides, the answer rounded to float32."""
FLOAT32 = 2e-4
"""The same with products in float32: what is left of a gradient outside of the columns is a difference of such products,
taken over a damping some hundred times below the largest curvature."""

each_network = pytest.mark.parametrize("name", NAMES)
each_target = pytest.mark.parametrize("target", TARGETS)


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with one_thread():
        yield


def _flat(layers: list[Tensor], start: int = 1) -> Tensor:
    return torch.cat([one.flatten(start) for one in layers], start)


def _columns(twin: Twin) -> Tensor:
    """Every column of the root of the curvature, `[n·k, parameters]`."""
    return _flat(twin.columns, 2).flatten(0, 1)


def _expected(twin: Twin, columns: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    n, train = len(twin.train[0]), _flat(twin.train)
    curvature = columns.T @ columns / n + (twin.weight_decay + DAMPING) * torch.eye(train.shape[1])
    inverse = torch.linalg.inv(curvature)
    return -_flat(twin.asked[target]) @ inverse @ train.T / n, torch.stack([g @ inverse @ g for g in train]) / n


def _close(found: Tensor, expected: Tensor, share: float) -> None:
    assert found.shape == expected.shape
    error = (found.double() - expected).abs().amax(-1) / expected.abs().amax(-1)
    assert error.max() <= share, f"{error.max():.1e} of the row's largest, over {share:g}"


def _fitted(name: str, dtype: torch.dtype = torch.float32, **settings: object) -> FittedGaussNewton:
    chosen = {"damping": DAMPING, "columns": ALL, "share": 1.0} | settings
    fitted = GaussNewton(**chosen).fit(network(name, dtype).subject())  # type: ignore[arg-type]
    assert isinstance(fitted, FittedGaussNewton)
    return fitted


@each_target
@each_network
def test_with_all_columns_it_is_the_dense_inverse(name: str, target: Target) -> None:
    twin = twin_of_network(name)
    expected, own = _expected(twin, _columns(twin), target)
    for dtype, share in ((torch.float64, FLOAT64), (torch.float32, FLOAT32)):
        fitted = _fitted(name, dtype)
        _close(fitted.score(network(name, dtype).queries(target)).values, expected, share)
        _close(fitted.self_influence(), own, share)
        assert fitted.stats["curvature_kept"] == pytest.approx(1, abs=1e-5)


@each_network
def test_with_few_columns_it_is_the_dense_inverse_of_the_largest(name: str) -> None:
    twin = twin_of_network(name)
    columns = _columns(twin)
    sizes = columns.square().sum(1)
    order = sizes.argsort(descending=True)
    few = max(3, int((sizes > 1e-9 * sizes.max()).sum()) // 3)
    assert sizes[order[few - 1]] > 1.000001 * sizes[order[few]]  # which are the largest is no matter of rounding
    expected, own = _expected(twin, columns[order[:few]], "label")
    fitted = _fitted(name, torch.float64, columns=few)
    _close(fitted.score(network(name, torch.float64).queries("label")).values, expected, FLOAT64)
    _close(fitted.self_influence(), own, FLOAT64)
    assert (fitted.stats["columns"], fitted.stats["of_columns"]) == (few, len(columns))
    assert fitted.stats["curvature_kept"] == pytest.approx(float(sizes[order[:few]].sum() / sizes.sum()))


def test_the_share_asked_for_is_held_by_the_fewest_columns() -> None:
    twin = twin_of_network("mlp")
    sizes = _columns(twin).square().sum(1).sort(descending=True).values
    held = sizes.cumsum(0) / sizes.sum()
    for share in (0.5, 0.9):
        stats = _fitted("mlp", torch.float64, share=share).stats
        assert stats["columns"] == int((held < share).sum()) + 1
        assert stats["curvature_kept"] >= share
        assert stats["mean_eigenvalue"] * stats["parameters"] == pytest.approx(float(sizes.sum()) / len(twin.train[0]))


@each_network
def test_weighted_sums_equal_the_sum_of_scores(name: str) -> None:
    fitted = _fitted(name)
    queries = network(name).queries("label")
    weights = torch.randn(3, len(queries.rows), generator=torch.Generator().manual_seed(0))
    scores = fitted.score(queries).values.double()
    size = (weights.double().abs() @ scores.abs()).amax(1, keepdim=True)
    assert ((fitted.weighted(queries, weights).double() - weights.double() @ scores).abs() <= FLOAT32 * size).all()


@each_network
def test_saved_and_reloaded_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    fitted, made = _fitted(name, columns=20), network(name)
    save_file(fitted.tensors(), tmp_path / "fitted.safetensors")
    stats = json.loads(json.dumps(dict(fitted.stats)))
    restored = GaussNewton().restore(network(name).subject(), load_file(tmp_path / "fitted.safetensors"), stats)
    for target in TARGETS:
        queries = made.queries(target)
        room = torch.full((len(queries.rows), len(made.train)), torch.nan)
        assert torch.equal(restored.score(queries, out=room).values, fitted.score(queries).values)
        assert torch.equal(room, fitted.score(queries).values)
    assert torch.equal(restored.self_influence(), fitted.self_influence())
    again = _fitted(name, columns=20)
    assert torch.equal(again.score(made.queries("label")).values, fitted.score(made.queries("label")).values)


def test_another_damping_is_as_if_fitted_with_it() -> None:
    queries = network("mlp").queries("label")
    moved, anew = _fitted("mlp").redamped(0.7), _fitted("mlp", damping=0.7)
    assert torch.equal(moved.score(queries).values, anew.score(queries).values)
    assert moved.stats["damping"] == 0.7
    with pytest.raises(SettingsError, match="singular"):
        _fitted("mlp").redamped(-1.0)


def test_what_is_known_of_the_training_set_is_kept_or_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = network("mlp").queries("label")
    kept = _fitted("mlp")
    first, second = kept.score(queries).values, kept.score(queries).values
    monkeypatch.setattr("explorer.influence.gauss_newton.KEEP_BYTES", 0)
    bare = _fitted("mlp")
    assert torch.equal(first, second)
    assert torch.equal(bare.score(queries).values, first)
    assert bare._kept is None
    assert kept._kept is not None


def test_settings_are_checked() -> None:
    for settings in ({"columns": 0}, {"share": 0.0}, {"share": 1.5}, {"damping": -1.0}, {"relative_damping": -1.0}):
        with pytest.raises(SettingsError, match="Expected"):
            GaussNewton(**settings)  # type: ignore[arg-type]
    made = network("mlp")
    subject = made.subject()
    bare = type(subject)(subject.model, subject.train, subject.objective, 0.0, subject.key)
    with pytest.raises(SettingsError, match="singular"):
        GaussNewton(damping=0.0).fit(bare)


@each_network
def test_work_can_be_stopped_anywhere_and_leaves_the_model_as_it_was(name: str) -> None:
    made = network(name)
    before = state(made.model)
    subject = made.subject()

    class Stop:
        def __init__(self, at: int) -> None:
            self.at, self.calls = at, 0

        def __call__(self, done: int, total: int, note: str) -> None:
            assert 0 <= done <= total
            assert note
            self.calls += 1
            if self.calls > self.at:
                raise Cancelled

    fitted = GaussNewton(columns=20).fit(subject)
    queries: Queries = made.queries("label")
    works = (
        lambda progress: GaussNewton(columns=20).fit(subject, progress),
        lambda progress: fitted.score(queries, progress),
        lambda progress: fitted.weighted(queries, torch.ones(1, len(queries.rows)), progress),
        fitted.self_influence,
    )
    for work in works:
        whole = Stop(ALL)
        work(whole)
        assert whole.calls >= 1
        for at in range(whole.calls):
            with pytest.raises(Cancelled):
                work(Stop(at))
            assert state(made.model) == before
