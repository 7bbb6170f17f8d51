"""What a run will cost: sizes against real runs, laws of scaling, and that trying a method changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from explorer import influence
from explorer.contracts import Fitted, Progress, Recipe, Subject, silent
from explorer.errors import ExplorerError, SettingsError
from explorer.influence import GradientDot, LastLayer
from explorer.influence.conjugate_gradient import ConjugateGradient
from explorer.influence.gauss_newton import GaussNewton
from explorer.influence.lissa import Lissa
from explorer.influence.relative import Relative
from explorer.jobs import estimate as estimates
from explorer.jobs import probe as probes
from explorer.jobs import sizes
from explorer.jobs.estimate import Estimate
from explorer.jobs.pipeline import STAGES
from explorer.jobs.planning import Request, ingredients_of
from explorer.jobs.probe import Sample
from explorer.jobs.sizes import Shape
from explorer.jobs.subject import FromSpec
from explorer.jobs.timings import SOLUTIONS, Line, Timings
from explorer.store import Run
from tests.conftest import SMALL, compute

DISK = 0.10
"""What is promised of the disk."""
BRIEF = 0.05
"""Seconds of probing that the tests allow: enough for two samples of a small set."""

SHAPE = Shape(
    train=10_000, test=1_000, queries=500, answers=100, outputs=10, features=64, weights=70_000, epochs=30, previews=64,
    fitted=3_000_000, classes=10,
)  # fmt: skip


def measured(**seconds: float) -> Timings:
    """Timings whose every part costs so much on 1,000 rows, and a quarter of it on 250."""
    found = Timings(queries=100)
    for part in (*(part for part in probes.ROUND if part != SOLUTIONS), *probes.PLAIN, "training", "fitted"):
        cost = seconds.get(part, 1.0)
        for rows in (250, 1_000):
            found.add(part, rows * rows if part == "neighbors" else rows, cost * rows / 1_000)
    return found


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Request, Run]:
    request = Request("digits", flip=0.08, recipe=Recipe(epochs=3), queries=300)
    return request, compute(tmp_path_factory.mktemp("estimated"), request)


@pytest.fixture(scope="module")
def of_digits(digits: tuple[Request, Run], tmp_path_factory: pytest.TempPathFactory) -> Estimate:
    return estimates.estimate(digits[0], tmp_path_factory.mktemp("nothing"), budget=BRIEF)


@pytest.fixture(scope="module")
def of_small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Estimate, list[Path]]:
    """An estimate for a folder that is not there yet, and what was there afterwards."""
    place = tmp_path_factory.mktemp("nothing")
    return estimates.estimate(SMALL, place / "not" / "yet", budget=BRIEF), list(place.iterdir())


def test_the_disk_is_within_a_tenth_of_a_real_run(
    digits: tuple[Request, Run], wine: Run, of_digits: Estimate, of_small: tuple[Estimate, list[Path]]
) -> None:
    for found, run in ((of_digits, digits[1]), (of_small[0], wine)):
        sizes_ = {part.what: part.bytes for part in run.sizes()}
        assert sum(sizes_.values()) == pytest.approx(found.disk, rel=DISK)
        assert found.parts.keys() == sizes_.keys()
        assert (found.train, found.test) == (run.meta().train, run.meta().test)
        assert found.queries == len(run.plan("label"))


def test_the_parts_that_are_formulas_are_exact(digits: tuple[Request, Run], of_digits: Estimate) -> None:
    found, run = of_digits, digits[1]
    shape = replace(SHAPE, train=found.train, queries=len(run.plan("label")), answers=len(run.plan("prediction")))
    headers = 2 * 128 * 2  # of at most two blocks of each target
    rows = next(part.bytes for part in run.sizes() if "int8" in part.what)
    assert 0 <= rows - sizes.disk(shape)["influence of every training example, int8"] <= headers
    fitted = (run.path / "fitted.safetensors").stat().st_size
    assert found.parts["the fitted method"] == pytest.approx(fitted, rel=0.01)


def test_twice_the_queries_are_twice_the_scores() -> None:
    twice = replace(SHAPE, queries=2 * SHAPE.queries, answers=2 * SHAPE.answers)
    once, more = (estimates.stages(shape, measured(), 1.0, 0.0) for shape in (SHAPE, twice))
    assert more["scores"] == pytest.approx(2 * once["scores"])  # type: ignore[operator]
    assert {stage: once[stage] for stage in STAGES if stage != "scores"} == {
        stage: more[stage] for stage in STAGES if stage != "scores"
    }
    disk, doubled = sizes.disk(SHAPE), sizes.disk(twice)
    for what in ("influence of every training example, int8", "top lists and trust of every query"):
        assert doubled[what] == 2 * disk[what]
    assert sum(doubled.values()) - sum(disk.values()) == disk["influence of every training example, int8"] + disk["top lists and trust of every query"]  # fmt: skip


def test_time_by_the_row_the_epoch_and_the_file() -> None:
    once = estimates.stages(SHAPE, measured(), 1.0, 0.0)
    assert once["curvature"] == pytest.approx(10)
    assert once["scores"] == pytest.approx(10 * 600 / 100)
    assert once["training"] == pytest.approx(10 * 30)
    longer = estimates.stages(replace(SHAPE, epochs=60), measured(), 1.0, 0.0)
    assert longer["training"] == pytest.approx(2 * once["training"])  # type: ignore[operator]
    assert estimates.stages(replace(SHAPE, epochs=0), measured(), 1.0, 0.0)["training"] == 0
    with_files = estimates.stages(SHAPE, measured(), 1.0, 0.5)
    for stage, count in sizes.files(SHAPE).items():
        assert with_files[stage] - once[stage] == pytest.approx(0.5 * count)  # type: ignore[operator]


def test_neighbors_go_with_the_square() -> None:
    found = Timings()
    for rows in (500, 1_000):
        found.add("neighbors", rows**2, 1e-6 * rows**2)
    for train in (10_000, 20_000):
        shape = replace(SHAPE, train=train)
        assert estimates.stages(shape, found, 0.0, 0.0)["neighbors"] == pytest.approx(1e-6 * train**2)
    many = replace(SHAPE, train=1_000_000)
    assert estimates.stages(many, found, 0.0, 0.0)["neighbors"] < 1e-6 * 1e12  # type: ignore[operator]  # an index then


def test_neighbors_by_inputs_are_part_of_memorization_and_go_with_the_square() -> None:
    found, plain = measured(), estimates.stages(SHAPE, measured(), 1.0, 0.0)
    for rows in (500, 1_000):
        found.add(probes.INPUTS, rows**2, 1e-7 * rows**2)
    more = estimates.stages(SHAPE, found, 1.0, 0.0)
    assert more["memorization"] - plain["memorization"] == pytest.approx(1e-7 * SHAPE.train**2)  # type: ignore[operator]
    assert {stage for stage in STAGES if more[stage] != plain[stage]} == {"memorization"}


def test_the_grid_of_dampings_takes_two_floats_an_example_each() -> None:
    what, found = "memorization, influence of classes", replace(measured(), dampings=11)
    shape = estimates.with_fitted(SHAPE, found)
    assert sizes.disk(shape)[what] - sizes.disk(SHAPE)[what] == 11 * 2 * 4 * SHAPE.train
    assert sizes.files(shape)["memorization"] == sizes.files(SHAPE)["memorization"] + 1


def test_what_was_not_measured_is_unknown_and_first_calls_count_once() -> None:
    found = Timings(given_up="64 training examples took more than 12 s")
    seconds = estimates.stages(SHAPE, found, 1.0, 0.0)
    assert seconds["curvature"] is None
    assert seconds["scores"] is None
    assert seconds["data"] == 1
    warm = measured()
    warm.first["curvature"] = (1_000, 4.0)  # three seconds more than later
    assert estimates.stages(SHAPE, warm, 1.0, 0.0)["curvature"] == pytest.approx(10 + 3)


def test_a_line_goes_through_the_last_sample_and_is_never_negative() -> None:
    assert Line.through([(100, 2.0)]) == Line(0.0, 0.02, 100)
    assert Line.through([(100, 2.0), (400, 5.0)]).at(1_000) == pytest.approx(1 + 0.01 * 1_000)
    for points in ([(100, 3.0), (400, 2.0)], [(100, 0.1), (400, 2.0)], [(100, 2.0), (400, 2.0)]):
        line = Line.through(points)
        assert line.fixed >= 0
        assert line.each >= 0
        assert line.at(400) == pytest.approx(2.0)


def test_a_busy_machine_makes_everything_longer_by_the_time_that_passed() -> None:
    found, idle = measured(), estimates.stages(SHAPE, measured(), 1.0, 0.0)
    for part in ("curvature", "scores", "memorization"):
        found.passed(part, computed=100.0, seconds=400.0)
    busy = estimates.stages(SHAPE, found, 1.0, 0.0)
    for part in ("curvature", "scores", "memorization"):
        assert busy[part] == pytest.approx(4 * idle[part])  # type: ignore[operator]
    assert busy["training"] == idle["training"]  # nothing was said of it
    assert "4.0 times as long" in estimates._sure(SHAPE, found, trained=True)
    assert "times as long" not in estimates._sure(SHAPE, measured(), trained=True)


def test_the_slowness_of_a_moment_is_that_of_all_parts_together() -> None:
    found = Timings()
    found.passed("curvature", computed=10.0, seconds=20.0)
    found.passed("scores", computed=0.001, seconds=0.1)  # a hundred times: the machine looked away for a moment
    assert found.busy == pytest.approx(2, rel=0.01)
    assert found.slowness("scores") == pytest.approx(found.busy + 0.2, rel=0.05)
    assert found.slowness("curvature") == pytest.approx(2, rel=0.01)
    shared = Timings()
    shared.passed("curvature", computed=30.0, seconds=10.0)  # three threads
    assert shared.slowness("curvature") == pytest.approx(1 / 3)


def test_solutions_go_with_the_square_of_the_rows_up_to_those_that_each_goes_over() -> None:
    def cost(rows: int) -> float:
        return 2.0 + rows * (0.01 + 1e-4 * rows)

    found = Timings()
    for rows in (64, 256):
        found.add("memorization", rows, 2.0)
        found.add(SOLUTIONS, rows, 0.01 + 1e-4 * rows)
    assert found.seconds("memorization", 5_000) == pytest.approx(cost(5_000))
    found.directions = 100  # as many solutions more
    assert found.seconds("memorization", 5_000) == pytest.approx(2.0 + 5_100 * (0.01 + 1e-4 * 5_000))
    found.solved_over, found.directions = 1_000, 0
    assert found.seconds("memorization", 5_000) == pytest.approx(2.0 + 5_000 * (0.01 + 1e-4 * 1_000))
    assert found.seconds("curvature", 5_000) is None


def tried(rows: list[int], cost: Callable[[int], float], linear: int = 0, most: int = 10_000) -> list[int]:
    """`rows` and every sample after it of a method whose fit costs so much."""
    found = Timings()
    found.first["scores"] = (16, 0.0)
    while rows[-1]:
        found.add("scores", rows[-1], 0.0)
        found.add("curvature", rows[-1], cost(rows[-1]))
        found.passed("curvature", cost(rows[-1]), cost(rows[-1]))
        rows.append(probes._next(found, rows[-1], most, 3.0, linear))
    return rows[:-1]


def test_samples_grow_as_far_as_there_is_time_and_twice_beyond_where_cost_is_by_the_row() -> None:
    assert tried([64], lambda n: 1e-6 * n) == [64, 128, 512, 2_048, 8_192, 10_000]
    assert tried([64], lambda n: 0.01 * n, most=1_000) == [64, 128]  # 1.9 s, and 192 rows would take as much again
    assert tried([64], lambda n: 0.1 * n, most=200) == [64]
    saturated = tried([64], lambda n: 1e-3 * min(n, 205) ** 2 / 20 + 1e-4 * n, linear=205)
    assert saturated == [64, 205, 410]
    long = tried([64], lambda n: 0.002 * n, most=60_000)  # 120 s: a tenth of it is worth trying for
    assert sum(0.002 * n for n in long) == pytest.approx(probes.LIMIT, rel=0.5)
    assert long[-1] > 1_000


def test_where_the_cost_of_gauss_newton_becomes_one_by_the_row() -> None:
    digits, wine = (FromSpec({"kind": kind}, {}, 0).dataset() for kind in ("digits", "wine"))
    assert probes.linear_from(GaussNewton(columns=2_048), digits) == 205  # times ten outputs
    assert probes.linear_from(GaussNewton(columns=30), wine) == 10
    assert probes.linear_from(probes.own(Relative("gauss-newton", {"columns": 300})), digits) == 30
    assert probes.linear_from(Relative("refine", probes=300), digits) == 300
    assert probes.linear_from(Relative("refine", probes=300, form="loss"), digits) < 300
    assert probes.linear_from(LastLayer(), digits) == 0
    assert probes.linear_from(Lissa(batch=100), digits) == 200


def test_a_step_of_an_iterative_method_goes_over_the_rows_that_it_says() -> None:
    assert probes.solved_over(Lissa(batch=32)) is None  # residuals go over all
    assert probes.solved_over(probes.own(Relative("conjugate-gradient", {"sample": 500}))) == 500
    assert probes.solved_over(ConjugateGradient()) is None
    assert probes.solved_over(LastLayer()) is None


def test_a_costly_first_epoch_does_not_keep_a_larger_sample_from_being_tried(
    digits: tuple[Request, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def epochs(*args: Any, **settings: Any) -> Iterator[None]:
        nonlocal calls
        calls += 1
        time.sleep(0.1 if calls == 1 else 0)
        return iter(())

    monkeypatch.setattr(probes.training, "train_epochs", epochs)
    ingredients = ingredients_of(digits[1])
    data = ingredients.dataset()
    found = Timings()
    probes._training(found, data, ingredients.model(data), Recipe(), budget=0.1)
    assert [rows for rows, _ in found.points["training"]] == [512, len(data.train)]
    assert found.spent(("training",)) < 0.1


def test_memory_grows_with_what_is_held() -> None:
    base = sizes.memory(SHAPE, held=300_000_000)
    assert base > 300_000_000 + SHAPE.fitted
    assert sizes.memory(SHAPE, held=400_000_000) - base == 100_000_000
    assert sizes.memory(replace(SHAPE, fitted=10**9), 0) > sizes.COPIES * 10**9
    assert sizes.memory(replace(SHAPE, train=1_000_000, queries=100), 0) > base


def test_a_sample_is_rows_of_the_data_in_proportion(wine: Run) -> None:
    data = ingredients_of(wine).dataset()
    part = Sample.of(data, 20)
    assert (part.rows, len(part.data.train), len(part.data.test)) == (
        20,
        20,
        round(20 / len(data.train) * len(data.test)),
    )
    rows = [data.train.ids.tolist().index(name) for name in part.data.train.ids]
    assert len(set(rows)) == 20
    assert (part.data.train.labels == data.train.labels[rows]).all()
    torch.testing.assert_close(part.data.train.batch(np.arange(20)), data.train.batch(np.array(rows)))
    assert Sample.of(data, 10_000).data is data


def test_a_given_model_and_torch_are_as_before(digits: tuple[Request, Run]) -> None:
    ingredients = ingredients_of(digits[1])
    data = ingredients.dataset()
    model = ingredients.model(data)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    probes.probe(data, model, LastLayer(), Recipe(), trained=True, queries=20, budget=BRIEF)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


@dataclass(frozen=True)
class Endless:
    """A method that would take for ever, and says so."""

    name: ClassVar[str] = "endless"

    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        for step in range(10_000):
            progress(step, 10_000, "fitting")
            time.sleep(0.02)
        return GradientDot().fit(subject)

    def restore(self, subject: Subject, tensors: Mapping[str, Any], stats: Mapping[str, Any]) -> Fitted:
        raise NotImplementedError


def test_a_method_that_takes_too_long_is_given_up_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(influence.METHODS, "endless", Endless)  # type: ignore[arg-type]
    monkeypatch.setattr(probes, "LIMIT", 0.2)
    found = estimates.estimate(Request("wine", method="endless"), tmp_path, budget=BRIEF)
    assert found.seconds["curvature"] is None
    assert "took more than" in found.basis["curvature"]
    assert "Only a lower bound" in found.sure
    assert found.seconds["data"] is not None


def test_the_answer_has_every_stage_and_keeps_nothing(of_small: tuple[Estimate, list[Path]]) -> None:
    found, left = of_small
    assert tuple(found.seconds) == STAGES
    assert tuple(found.basis) == STAGES
    assert all(value is not None and value >= 0 for value in found.seconds.values())
    assert found.total == pytest.approx(sum(found.seconds.values()))  # type: ignore[arg-type]
    assert left == []
    plain = estimates.as_json(found)
    assert plain["total"] == found.total
    assert plain["warnings"] == []


def test_what_does_not_fit_is_said(of_small: tuple[Estimate, list[Path]]) -> None:
    found = replace(of_small[0], disk_free=1, memory_free=10**15)
    assert len(estimates.check_room(found)) == 1
    assert "of room on the disk" in estimates.check_room(found)[0]


def test_it_refuses_what_the_run_would_refuse(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Expected damping >= 0"):
        estimates.estimate(Request("wine", damping=-1.0), tmp_path)
    undamped = Request("wine", model="linear", damping=0.0, recipe=Recipe(weight_decay=0.0, epochs=1))
    with pytest.raises(ExplorerError, match="singular"):
        estimates.estimate(undamped, tmp_path, budget=BRIEF)
