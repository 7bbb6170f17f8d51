"""The fidelity benchmark measures what it says: its trainer, its truth, its numbers, and a small run of everything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from explorer.contracts import Recipe
from explorer.objectives import CrossEntropy
from explorer.training import train_epochs
from tests.bench import fidelity, fidelity_measure
from tests.bench.fidelity_methods import Answer, Candidate, LeftOutError, registered, similarity
from tests.bench.fidelity_numbers import auc, ceiling, columns_spearman, detection, lds, precision
from tests.bench.fidelity_peers import needs
from tests.bench.fidelity_problems import MissingDataError, Problem, Removal, margin, problem
from tests.bench.fidelity_tables import table
from tests.bench.fidelity_trained import Trained, checkpoint_epochs, noisy, trained
from tests.bench.fidelity_truth import Truth, masks_of, train, truth
from tests.problems import one_thread

ROUNDING = 1e-4
"""Float32 sums in another order, grown over 20 steps of training (found: 1e-6)."""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPLORER_BENCH", str(tmp_path_factory.getbasetemp() / "bench-fidelity"))


def _short() -> Problem:
    made = problem("small")
    return replace(made, training=replace(made.training, epochs=5), flips=1)


@pytest.mark.parametrize("fixed", [True, False])
def test_many_networks_at_once_are_the_networks_alone(fixed: bool) -> None:
    made = _short()
    masks = masks_of(made, Removal(0.5, 3))
    with one_thread():
        together = train(made, [4, 5, 6], [[4], [5], [6]], masks, fixed=fixed)
        for at, seed in enumerate((4, 5, 6)):
            alone = train(made, [seed], [[seed]], masks[at : at + 1], fixed=fixed)
            for name, values in together.items():
                assert (values[at] - alone[name][0]).abs().max() < ROUNDING, name


def test_the_trainer_agrees_with_the_products() -> None:
    """Two loops that share no code: same start, same order, same rates, momentum and decay."""
    made = _short()
    with one_thread():
        mine = train(made, [3], [[3]], np.ones((1, len(made.train)), dtype=bool), fixed=True)
        theirs = made.build(3)
        t = made.training
        recipe = Recipe(t.epochs, t.rate, t.momentum, t.decay, t.batch, seed=3)
        for _ in train_epochs(theirs, CrossEntropy(), made.train, made.test, recipe):
            pass
    for name, values in theirs.state_dict().items():
        assert (mine[name][0] - values).abs().max() < ROUNDING, name


def test_removed_examples_have_no_say() -> None:
    """Other labels for what is removed change nothing, under both readings of removal."""
    made = _short()
    mask = masks_of(made, Removal(0.5, 1))
    labels = torch.where(torch.from_numpy(mask), made.train.targets, (made.train.targets + 1) % 10)
    for fixed in (True, False):
        with one_thread():
            first = train(made, [0], [[0]], mask, fixed=fixed)
            second = train(made, [0], [[0]], mask, fixed=fixed, targets=labels)
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_truth_is_kept_whole_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPLORER_BENCH", str(tmp_path))
    made, removal = replace(_short(), chunk=2), Removal(0.5, 4, seeds=2)
    with one_thread():
        first = truth(made, removal, lambda _: None)
        files = sorted((tmp_path / "fidelity").iterdir())
        assert len(files) == removal.seeds  # the chunks are gone
        files[0].unlink()
        said: list[str] = []
        again = truth(made, removal, said.append)
        assert len(said) == 1
        assert np.array_equal(first.measures, again.measures)
        other = truth(replace(made, training=replace(made.training, rate=0.05)), removal, lambda _: None)
    assert not np.allclose(first.measures, other.measures)
    assert first.measures.shape == (2, 4, len(made.test))
    assert (first.masks.sum(1) == round(0.5 * len(made.train))).all()


def test_the_measure_is_the_margin_of_the_true_class() -> None:
    outputs, targets = torch.tensor([[2.0, 1.0, -1.0], [0.0, 3.0, 1.0]]), torch.tensor([0, 2])
    p = outputs.double().softmax(1).gather(1, targets.unsqueeze(1))[:, 0]
    # float32 outputs, logits of size one
    assert torch.allclose(margin(outputs, targets).double(), (p / (1 - p)).log(), atol=1e-6)


def test_rank_numbers_agree_with_scipy_and_by_hand() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 5, (30, 4)).astype(float), draw.normal(size=(30, 4))
    each = [spearmanr(a[:, k], b[:, k]).statistic for k in range(4)]
    assert np.allclose(columns_spearman(a, b), each, atol=1e-12)  # float64
    scores, bad = np.array([5.0, 4.0, 3.0, 3.0, 1.0]), np.array([True, False, True, False, False])
    assert auc(scores, bad) == pytest.approx((3 + 1.5) / 6)
    assert precision(scores, bad) == 0.5
    both = detection([scores, scores], [bad, ~bad])
    assert both[0].mean == pytest.approx((auc(scores, bad) + auc(scores, ~bad)) / 2)


def test_lds_of_additive_truth_is_one_and_of_noise_within_its_interval() -> None:
    draw = np.random.default_rng(1)
    effects = draw.normal(size=(6, 50))
    masks = draw.random((40, 50)) < 0.5
    exact = Truth(Removal(0.5, 40), masks, (masks @ effects.T)[None].astype(np.float32))
    assert lds(effects, exact)[0].mean == pytest.approx(1.0)
    assert lds(-effects, exact)[0].mean == pytest.approx(-1.0)
    low, high = lds(draw.normal(size=(6, 50)), exact)[0].interval
    assert low < 0 < high
    assert len(lds(effects[:2], exact)[0].as_json()) == 4  # fewer queries than the truth has
    assert ceiling(exact) is None


def test_the_ceiling_is_the_reach_of_a_perfect_estimate() -> None:
    """Noise of the size of the effect in each of 8 seeds: the effect itself correlates with their mean at √(8/9)."""
    draw = np.random.default_rng(2)
    effect = draw.normal(size=(2000, 5))
    measures = (effect + draw.normal(size=(8, 2000, 5))).astype(np.float32)
    made = Truth(Removal(0.5, 2000, 8), np.ones((2000, 1), dtype=bool), measures)
    found = ceiling(made)
    assert found is not None
    reached = columns_spearman(effect, measures.mean(0).astype(np.float64)).mean()
    assert found[0] == pytest.approx(reached, abs=0.02)  # 2,000 subsets x 5 queries; ranks instead of values


def test_flips_are_where_they_are_said_to_be() -> None:
    made = _short()
    with one_thread():
        (one,) = noisy(made)
        clean = trained(made, members=2)
    wrong = one.train.targets != made.train.targets
    assert torch.equal(wrong, one.flipped)
    assert int(wrong.sum()) == round(0.08 * len(made.train))
    assert len(one.states) == len(checkpoint_epochs(made.training.epochs))
    assert len(clean.members) == 2
    assert sum(clean.rates) == pytest.approx(sum(clean.recipe().rate * x for x in _cosine(clean)))
    again = trained(made, members=2)  # from the disk
    assert all(torch.equal(clean.states[-1][k], again.states[-1][k]) for k in clean.states[-1])


def _cosine(made: Trained) -> np.ndarray:
    steps = made.problem.training.epochs * -(-len(made.train) // made.problem.training.batch)
    return 0.5 * (1 + np.cos(np.pi * np.arange(steps) / steps))


def test_registered_methods_are_asked_the_margin() -> None:
    """The gradient of the margin is that of log p divided by 1 − p, query by query."""
    made = _short()
    with one_thread():
        explained = trained(made, members=2)
        answer = registered(explained, "gradient-dot", {})
        subject = explained.subject()
        features, outputs = explained.features(made.train.inputs), explained.outputs(made.train.inputs)
        asked = explained.outputs(made.test.inputs).requires_grad_()
        (pulls,) = torch.autograd.grad(margin(asked, made.test.targets).sum(), asked)
        errors = outputs.softmax(1) - nn.functional.one_hot(made.train.targets, 10)
        seen = explained.features(made.test.inputs)
        products = -(pulls @ errors.T) * (seen @ features.T + 1) / len(made.train)
    assert answer.asked == "margin"
    assert (answer.values - products).abs().max() < ROUNDING * products.abs().max()
    assert subject.weight_decay == made.training.decay


def test_an_answer_about_fewer_queries_is_the_beginning_of_the_whole() -> None:
    with one_thread():
        explained = trained(_short(), members=2)
        whole = similarity(explained).values
        few = Candidate("trivial", "some", similarity, queries=7)(explained).values
    assert torch.equal(few, whole[:7])


def _too_slow(_: Trained) -> Answer:
    import time

    time.sleep(60)
    raise AssertionError


def _broken(_: Trained) -> Answer:
    raise ValueError("no such thing")


def _absent(_: Trained) -> Answer:
    needs("a_library_nobody_has", "nobody")
    raise AssertionError


@pytest.mark.slow
def test_what_fails_is_left_out_with_its_reason() -> None:
    with pytest.raises(LeftOutError, match="pip install nobody"):
        _absent(trained(_short(), members=2))
    broken = Candidate("x", "broken", _broken), Candidate("x", "absent", _absent), Candidate("x", "fine", similarity)
    found = fidelity_measure.measure("small", broken, timed=False)
    assert found[0].left_out == "ValueError: no such thing"
    assert "not installed" in found[1].left_out
    assert found[2].values.shape == (40, 240)
    assert not found[2].left_out
    slow = Candidate("x", "slow", _too_slow), Candidate("x", "next", similarity)
    late = fidelity_measure.measure("small", slow, timed=False, limit=8)
    assert [bool(one.left_out) for one in late] == [True, True]
    assert "more than 8 s" in late[0].left_out


def test_problems_without_their_data_say_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPLORER_DATA", "/nowhere")
    from tests.bench.fidelity_problems import MAKERS

    for name in ("fashion", "tabular", "text"):
        with pytest.raises(MissingDataError, match="EXPLORER_DATA"):
            MAKERS[name]()


def test_tables_are_markdown() -> None:
    assert table(["a", "long"], [["1", "2"]]).splitlines() == ["| a | long |", "|---|------|", "| 1 | 2    |"]


@pytest.mark.slow
def test_the_small_form_prints_and_writes_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "out.json", tmp_path / "sub" / "fidelity.md"
    fidelity.main(["--small", "--json", str(out), "--write", str(page), "--only", "la"])
    found = json.loads(out.read_text())
    (one,) = found["problems"]
    rows = {row["method"]: row for row in one["rows"]}
    best = rows["last-layer"]
    assert len(best["lds"]) == len(one["truths"]) == 2
    assert best["lds"][0]["mean"] > 0.5  # measured .68; random -.02
    assert best["self_influence"]["auc"]["mean"] > 0.9  # measured .99
    assert best["seconds"]
    assert best["megabytes"] >= 0
    assert one["ceilings"][0]["lds"] > one["ceilings"][0]["halves"] > 0.9  # measured .99 and .96
    assert one["ceilings"][1] is None
    assert found["place"]["torch"] == torch.__version__
    told = capsys.readouterr().out
    assert page.read_text() in told
    assert "**last-layer**" in told
