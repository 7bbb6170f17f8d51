"""What EK-FAC and K-FAC share: the Fisher they sum, blocks, cancelling, saving, separable products, settings and evidence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from explorer.errors import Cancelled, ModelError, SettingsError
from explorer.influence import backward, directional, factors, fisher, layers
from explorer.influence.ekfac import EKFAC
from explorer.influence.kfac import KFAC
from explorer.influence.kronecker import TOLERANCE
from explorer.objectives import CrossEntropy, SquaredError
from tests.influence.networks import NAMES, Network, network, state
from tests.problems import TensorExamples, one_thread


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with one_thread():
        yield


FLOAT64 = 2e-6
"""Share of a row's largest |score|: passes and algebra in float64 on both sides, the answer rounded to float32 (6e-8), and
eigenvectors of close eigenvalues that may turn by rounding over their gap."""
DAMPING = 0.05

METHODS = {"ekfac": EKFAC, "kfac": KFAC}
each_method = pytest.mark.parametrize("method", METHODS)


def _close(found: Tensor, expected: Tensor, share: float) -> None:
    assert found.shape == expected.shape
    error = (found.double() - expected).abs().amax(-1) / expected.abs().amax(-1)
    assert error.max() <= share, f"{error.max():.1e} of the row's largest, over {share:g}"


# ---- the Fisher ----


@pytest.mark.parametrize("objective", [CrossEntropy(), SquaredError()])
def test_fisher_columns_are_a_root_of_the_curvature(objective: CrossEntropy | SquaredError) -> None:
    k = 5 if objective.task == "classification" else 1
    outputs = 3 * torch.randn(6, k, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    outputs[0] *= 20  # an answer so sure that its curvature is nearly nothing
    columns, fewest = (
        torch.stack(list(found(objective, outputs)), 2) for found in (factors.fisher_columns, factors.fewest_columns)
    )
    assert columns.shape == (6, k, k)
    assert fewest.shape == (6, k, max(1, k - 1))
    assert fewest.shape[2] == factors.fewest_count(objective, k)
    rounding = 1e-14
    for root in (columns, fewest):
        assert (root @ root.mT - objective.loss_curvature(outputs)).abs().max() < rounding


def test_with_very_many_classes_labels_are_drawn_and_it_is_said() -> None:
    k = factors.MOST_CLASSES + 6
    outputs = torch.randn(1, k, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = CrossEntropy().loss_curvature(outputs)[0]

    def drawn(start: int, times: int) -> Tensor:
        columns = torch.stack(list(factors.fisher_columns(CrossEntropy(), outputs.expand(times, -1), start)), 2)
        assert columns.shape == (times, k, factors.DRAWS)
        return torch.einsum("bkr,blr->kl", columns, columns) / times

    assert torch.equal(drawn(7, 3), drawn(7, 3))
    assert not torch.equal(drawn(7, 3), drawn(8, 3))
    # 32,000 draws: the standard error of a probability near .1 is 1.7e-3, and one in 2,485 entries may be at 4 of them
    assert (drawn(0, 2000) - exact).abs().max() < 7e-3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(4, k)
        train = TensorExamples(torch.randn(8, 4), torch.arange(8))
    made = Network("many", model, train, train, CrossEntropy())
    first, second = (EKFAC().fit(made.subject()) for _ in range(2))
    assert first.stats["fisher"] == f"16 labels drawn for each example (seed 0), {k} classes"
    assert torch.equal(first.score(made.queries()).values, second.score(made.queries()).values)


# ---- cut in blocks, kept or not, cancelled ----


@pytest.mark.parametrize("name", ["mlp", "conv"])
@each_method
def test_blocks_and_passes_change_nothing(method: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = network(name, torch.float64)
    whole = METHODS[method](damping=DAMPING).fit(made.subject())
    expected = whole.score(made.queries()).values.double()
    own = whole.self_influence().double()
    monkeypatch.setattr(backward, "BATCH", 5)
    monkeypatch.setattr(factors, "ELEMENTS", 40)
    for passes, kept in ((2**28, 2**30), (0, 0)):
        monkeypatch.setattr(fisher, "FISHER_BYTES", passes)
        monkeypatch.setattr(directional, "KEEP_BYTES", kept)
        fitted = METHODS[method](damping=DAMPING).fit(made.subject())
        _close(fitted.score(made.queries()).values, expected, FLOAT64)
        _close(fitted.self_influence(), own, FLOAT64)


@each_method
@pytest.mark.parametrize("rank", [None, 2])
def test_the_same_twice_saved_and_reloaded_to_the_bit(method: str, rank: int | None) -> None:
    for made, same in ((network("mlp"), network("mlp")), (network("conv"), network("conv")), (_wide(), _wide())):
        chosen = METHODS[method](rank=rank)
        first, second = chosen.fit(made.subject()), chosen.fit(same.subject())
        stats = json.loads(json.dumps(dict(first.stats)))
        again = chosen.restore(same.subject(), {k: t.clone() for k, t in first.tensors().items()}, stats)
        assert dict(again.stats) == dict(first.stats)
        for other in (second, again):
            assert torch.equal(other.score(made.queries()).values, first.score(made.queries()).values)
            assert torch.equal(other.self_influence(), first.self_influence())


@each_method
def test_cancelled_anywhere_the_model_is_as_it_was(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = network("conv")
    made.model.again.requires_grad_(False)
    monkeypatch.setattr(backward, "BATCH", 8)
    before = state(made.model)
    calls: list[int] = []
    METHODS[method](rank=2).fit(made.subject(), lambda done, total, note: calls.append(done))
    assert state(made.model) == before
    assert len(calls) > 5
    for stop in range(len(calls)):

        def cancel(finished: int, total: int, note: str, left: list[int] = [stop]) -> None:  # noqa: B006
            assert 0 <= finished <= total
            assert note
            left[0] -= 1
            if left[0] < 0:
                raise Cancelled

        with pytest.raises(Cancelled) as caught:
            METHODS[method](rank=2).fit(made.subject(), cancel)
        assert caught  # still held, and with it every frame of the work
        assert state(made.model) == before


# ---- fewer products ----


def _flat_problem(n: int = 200) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 16), nn.GELU(), nn.Linear(16, 5))
        x, y = torch.randn(n + 30, 12), torch.randint(5, (n + 30,))
    return Network("flat", model, TensorExamples(x[:n], y[:n]), TensorExamples(x[n:], y[n:]), CrossEntropy())


def _wide() -> Network:
    """Layers that are worth their products."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 5))
        x, y = torch.randn(180, 40) / torch.arange(1, 41), torch.randint(5, (180,))
    return Network("wide", model, TensorExamples(x[:150], y[:150]), TensorExamples(x[150:], y[150:]), CrossEntropy())


@each_method
def test_products_are_as_many_as_the_tolerance_asks_and_cost_no_ranks(method: str) -> None:
    exact = METHODS[method](tolerance=0.0).fit(_wide().subject())
    assert (exact.stats["ranks"], exact.stats["tails"], exact.stats["rank_error"]) == ([0, 0, 0], [0, 0, 0], 0)
    assert not any(name.endswith(("left", "right")) for name in exact.tensors())
    expected = exact.score(_wide().queries()).values
    errors, counts = [], []
    for tolerance in (1e-1, 1e-2, TOLERANCE):
        fitted = METHODS[method](tolerance=tolerance).fit(_wide().subject())
        found = fitted.score(_wide().queries()).values
        assert fitted.stats["tolerance"] == tolerance
        assert 0 < max(fitted.stats["tails"]) <= tolerance
        assert fitted.stats["ranks"][2] == 0  # of 245 parameters: too few to gain anything
        assert torch.equal(fitted.self_influence(), exact.self_influence())
        errors.append(float(((found - expected).norm(dim=1) / expected.norm(dim=1)).median()))
        counts.append(fitted.stats["ranks"][:2])
        assert errors[-1] / 5 <= fitted.stats["rank_error"] <= 5 * errors[-1]
        ranks = np.mean([spearmanr(a, b).statistic for a, b in zip(found, expected, strict=True)])
        assert fitted.stats["rank_agreement"] == pytest.approx(ranks, abs=0.02)
    assert errors == sorted(errors, reverse=True)
    assert counts == sorted(counts)
    assert min(counts[-1]) > 1
    assert ranks > 0.999  # what a default may cost
    default = METHODS[method]().fit(_wide().subject())
    assert torch.equal(default.score(_wide().queries()).values, found)


@each_method
def test_separable_products_come_close_and_say_how_close(method: str) -> None:
    made = _flat_problem()
    exact = METHODS[method](tolerance=0.0).fit(made.subject())
    expected = exact.score(made.queries()).values
    errors = []
    for rank in (1, 2, 4, 8, 100):
        fitted = METHODS[method](rank=rank).fit(made.subject())
        found = fitted.score(made.queries()).values
        error = float(((found - expected).norm(dim=1) / expected.norm(dim=1)).median())
        agreement = np.mean([spearmanr(a, b).statistic for a, b in zip(found, expected, strict=True)])
        # the same number on training examples asked about training examples: within a small factor
        assert error / 5 - 1e-6 <= fitted.stats["rank_error"] <= 5 * error + 1e-6
        assert fitted.stats["rank_agreement"] == pytest.approx(agreement, abs=0.05)
        assert fitted.stats["rank"] == rank
        assert all(r <= rank for r in fitted.stats["ranks"])
        assert torch.equal(fitted.self_influence(), exact.self_influence())
        errors.append(error)
    assert errors == sorted(errors, reverse=True)
    full_rank = 1e-5  # nothing is left away but float32's rounding, over some hundred terms
    assert errors[-1] < full_rank
    assert errors[3] < 0.01


def test_layers_with_positions_are_scored_exactly_whatever_the_rank() -> None:
    made = network("attention")
    fitted = EKFAC(rank=1, layers=("qkv", "out")).fit(made.subject())
    assert fitted.stats["ranks"] == [0, 0]
    assert fitted.stats["rank_error"] == 0
    exact = EKFAC(layers=("qkv", "out")).fit(made.subject())
    assert torch.equal(fitted.score(made.queries()).values, exact.score(made.queries()).values)
    mixed = EKFAC(rank=3).fit(made.subject())
    assert mixed.stats["ranks"] == [0, 0, 3]
    _close(mixed.score(made.queries()).values, EKFAC().fit(made.subject()).score(made.queries()).values.double(), 1e-4)


# ---- settings, evidence ----


@each_method
def test_stats_say_what_was_done(method: str) -> None:
    made = network("attention")
    stats = METHODS[method](damping=0.3, layers=["qkv", "head"]).fit(made.subject()).stats
    assert stats["layers"] == ["qkv", "head"]
    assert stats["left_out"] == {
        "place": "parameter of Attention: not handled",
        "embed": "embedding: not handled",
        "norm": "layer norm: not handled",
        "out": "not chosen",
    }
    assert (stats["damping"], stats["damping_rule"]) == (0.3, "chosen by the user")
    assert stats["fisher"] == "summed over classes"
    assert stats["parameters"] == 5 * 12 + 5 * 3
    assert stats["seconds"] == pytest.approx(sum(stats["seconds_each"].values()))
    assert json.loads(json.dumps(dict(stats))) == dict(stats)


@each_method
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"damping": -1.0}, r"damping >= 0.*found -1"),
        ({"damping": float("nan")}, r"damping >= 0.*found nan"),
        ({"relative_damping": float("inf")}, r"relative_damping >= 0.*found inf"),
        ({"rank": 0}, r"rank >= 1.*found 0"),
        ({"tolerance": -1e-3}, r"tolerance >= 0 and below 1; found -0.001"),
        ({"tolerance": 1.0}, r"tolerance >= 0 and below 1; found 1.0"),
        ({"tolerance": float("nan")}, r"tolerance >= 0 and below 1; found nan"),
    ],
)
def test_settings_out_of_range_are_refused_in_words(method: str, settings: dict[str, float], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        METHODS[method](**settings)


@each_method
@pytest.mark.parametrize("rank", [None, 2])
def test_another_damping_is_as_if_fitted_with_it(method: str, rank: int | None) -> None:
    for make in [*(partial(network, name) for name in NAMES), _wide]:
        queries = make().queries("label")
        moved = METHODS[method](rank=rank).fit(make().subject()).redamped(0.7)
        anew = METHODS[method](damping=0.7, rank=rank).fit(make().subject())
        assert torch.equal(moved.score(queries).values, anew.score(queries).values)
        assert torch.equal(moved.self_influence(), anew.self_influence())
        assert moved.tensors().keys() == anew.tensors().keys()
        changed = {key for key in anew.stats if moved.stats[key] != anew.stats[key]}
        assert changed <= {"damping_rule", "seconds", "seconds_each"}
    with pytest.raises(SettingsError, match="damping >= 0 and finite; found -1"):
        moved.redamped(-1.0)


@each_method
def test_a_singular_curvature_without_damping_is_refused(method: str) -> None:
    made = replace(network("mlp"), weight_decay=0.0)
    with pytest.raises(SettingsError, match=r"invertible.*found.*damping 0 .*[Cc]hoose a larger damping"):
        METHODS[method](damping=0.0).fit(made.subject())


@each_method
def test_a_layer_whose_gradients_are_not_numbers_is_named(method: str) -> None:
    made = network("mlp")
    with torch.no_grad():
        made.model[0].weight[0, 0] = float("inf")
    with pytest.raises(ModelError, match=r"^Expected finite .*found NaN or infinity"):
        METHODS[method]().fit(made.subject())
    with torch.no_grad():  # outputs are finite, the square of an input is not
        made.model[0].weight[0, 0] = 0.0
    huge = TensorExamples(made.train.inputs * 1e25, made.train.targets)
    made.model[0].weight.data.zero_()
    with pytest.raises(ModelError, match=r"^Expected finite .*in every layer; found NaN or infinity in 0\."):
        METHODS[method]().fit(made.subject(train=huge))


def _largest(work: Callable[[], object]) -> int:
    """The most elements that any one tensor made by an operation had."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, Tensor):
                    self.largest = max(self.largest, tensor.untyped_storage().nbytes() // 4)
            return out

    with Watch() as watch:
        work()
    return watch.largest


@pytest.mark.parametrize("rank", [None, 4])
def test_gradients_of_all_examples_never_exist_at_once(rank: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 3000
    made = _flat_problem(n)
    monkeypatch.setattr(directional, "ELEMENTS", 2**15)
    monkeypatch.setattr(directional, "QUERY_ELEMENTS", 2**15)
    size = layers.of(made.model, made.train.inputs[:4]).size

    def work() -> None:
        fitted = EKFAC(rank=rank).fit(made.subject())
        fitted.score(made.queries())
        fitted.self_influence()
        fitted.weighted(made.queries(), torch.ones(2, 30))

    assert _largest(lambda: torch.zeros(n, 50)) == n * 50  # the ruler measures
    largest = _largest(work)
    assert largest < n * size / 12, f"{largest} of {n * size}"
