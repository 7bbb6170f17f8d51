"""Two methods of one subject: which runs have one, how another is made, and the table of both, against slow twins."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from scipy import stats

import explorer
from explorer import cli, fidelity
from explorer.contracts import Recipe, RunSpec
from explorer.errors import DataError, RunError, SettingsError
from explorer.jobs.planning import Request, plan, recipe_of
from explorer.shown import again
from explorer.store import Run, create, read_json, same_subject, subject_of
from tests.conftest import SMALL, compute

ROUNDING = 1e-12
"""Two float64 ways to the same number of order one."""


@pytest.fixture(scope="module")
def pair(wine: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Wine by last-layer and by gradient-dot, in a folder of their own."""
    folder = tmp_path_factory.mktemp("pair")
    shutil.copytree(wine.path, folder / wine.key)
    return Run.at(folder / wine.key), compute(folder, replace(SMALL, method="gradient-dot"))


class TestRanks:
    def test_equal_scipy_with_ties(self) -> None:
        values = np.round(np.random.default_rng(0).normal(size=200), 1)
        assert len(np.unique(values)) < 100
        np.testing.assert_allclose(fidelity.ranks(values), stats.rankdata(-values), rtol=ROUNDING)

    def test_the_highest_is_first_and_one_or_none_are_ranked_too(self) -> None:
        assert fidelity.ranks([0.5, -1.0, 2.0]).tolist() == [2, 3, 1]
        assert fidelity.ranks([7.0]).tolist() == [1]
        assert fidelity.ranks([]).tolist() == []

    def test_refuses_tables_and_nan(self) -> None:
        with pytest.raises(DataError, match=r"found shape \(1, 2\)"):
            fidelity.ranks([[1.0, 2.0]])
        with pytest.raises(DataError, match="1 of 2"):
            fidelity.ranks([1.0, np.nan])


class TestShared:
    def test_equals_python_sets(self) -> None:
        draw = np.random.default_rng(0)
        a, b = (np.stack([draw.permutation(30)[:10] for _ in range(20)]) for _ in range(2))
        expected = [len(set(x) & set(y)) / 10 for x, y in zip(a.tolist(), b.tolist(), strict=True)]
        assert fidelity.shared(a, b).tolist() == expected

    def test_ends_of_lists_are_nobody_s(self) -> None:
        found = fidelity.shared([[3, 5, -1, -1], [-1, -1, -1, -1]], [[5, -1], [-1, 2]])
        assert found[0] == 0.5
        assert np.isnan(found[1])
        with pytest.raises(DataError, match="two tables"):
            fidelity.shared([[1]], [[1], [2]])


class TestMisplaced:
    def test_the_strong_ones_farthest_from_their_other_place_come_first(self) -> None:
        a = np.array([9.0, 8.0, 7.0, 0.1, 0.0, -0.1, -7.0, -8.0, -9.0])
        b = np.array([9.0, -9.0, 7.0, 0.1, 0.0, -0.1, -7.0, 0.2, -8.0])
        # ranks in b: 1, 9, 2, 4, 5, 6, 7, 3, 8
        assert fidelity.misplaced(a, b, 3).tolist() == [1, 7, 2, 8, 0, 6]
        assert fidelity.misplaced(a, b, 1).tolist() == [8, 0]

    def test_equals_a_slow_twin(self) -> None:
        draw = np.random.default_rng(1)
        a, b = draw.normal(size=(2, 60))
        places = [sorted(range(60), key=lambda i, x=x: -x[i]) for x in (a, b)]
        strong = set(places[0][:10] + places[0][-10:])
        apart = {i: abs(places[0].index(i) - places[1].index(i)) for i in strong}
        assert fidelity.misplaced(a, b, 10).tolist() == sorted(strong, key=lambda i: (-apart[i], i))

    def test_only_ranks_count_and_the_wrong_sign_is_not_strong(self) -> None:
        a, b = np.random.default_rng(2).normal(size=(2, 60))
        np.testing.assert_array_equal(fidelity.misplaced(a, b, 9), fidelity.misplaced(1e3 * a, np.exp(b), 9))
        assert fidelity.misplaced([3.0, 2.0, 1.0], [1.0, 2.0, 3.0], 2).tolist() == [0, 1]
        assert fidelity.misplaced([0.0, 0.0], [1.0, 2.0], 1).tolist() == []

    def test_refuses_other_lengths_and_none(self) -> None:
        with pytest.raises(DataError, match="found 2 and 1"):
            fidelity.misplaced([1.0, 2.0], [1.0], 1)
        with pytest.raises(SettingsError, match="found 0"):
            fidelity.misplaced([1.0], [1.0], 0)


def made(root: Path, **change: Any) -> Run:
    """An empty run of a spec, with some of its parts changed."""
    spec = RunSpec({"kind": "wine"}, {"kind": "auto"}, {"seed": 0}, {"name": "last-layer", "settings": {}}, 5)
    return create(root, replace(spec, **change))


class TestSameSubject:
    def test_source_model_recipe_and_seed_must_agree_and_the_method_must_not(self, tmp_path: Path) -> None:
        run = made(tmp_path)
        dot = {"name": "gradient-dot", "settings": {}}
        wanted = {
            made(tmp_path, method=dot).key,
            made(tmp_path, method=dot, queries=None).key,
            made(tmp_path, method={"name": "last-layer", "settings": {"damping": 0.1}}).key,
        }
        made(tmp_path, queries=7)  # the same method: the same numbers
        for part in ({"source": {"kind": "digits"}}, {"model": {"kind": "mlp"}}, {"recipe": {"seed": 1}}, {"seed": 1}):
            made(tmp_path, method=dot, **part)
        assert {other.key for other in same_subject(run)} == wanted

    def test_where_a_file_lies_does_not_count_and_its_content_does(self, tmp_path: Path) -> None:
        dot = {"name": "gradient-dot", "settings": {}}
        run = made(tmp_path, source={"kind": "npz", "path": "/a.npz", "sha256": "1"})
        other = made(tmp_path, source={"kind": "npz", "path": "/b.npz", "sha256": "1"}, method=dot)
        made(tmp_path, source={"kind": "npz", "path": "/a.npz", "sha256": "2"}, method=dot)
        assert [found.key for found in same_subject(run)] == [other.key]

    def test_objects_in_memory_agree_by_their_subject(self, tmp_path: Path) -> None:
        def held(subject: str, method: str) -> Run:
            source = {"kind": "memory", "train": "t", "test": "e"}
            model, recipe = {"kind": "memory", "subject": subject}, {"weight_decay": 0.0}
            return made(tmp_path, source=source, model=model, recipe=recipe, method={"name": method, "settings": {}})

        run, other = held("s", "last-layer"), held("s", "gradient-dot")
        held("z", "gradient-dot")
        assert [found.key for found in same_subject(run)] == [other.key]

    def test_newest_first_and_what_cannot_be_read_is_left_out(self, tmp_path: Path) -> None:
        run = made(tmp_path)
        others = [made(tmp_path, method={"name": "last-layer", "settings": {"damping": k}}) for k in (1, 2, 3)]
        for age, other in enumerate(others):
            os.utime(other.path / "spec.json", (1_000_000 - age, 1_000_000 - age))
        broken = made(tmp_path, method={"name": "other", "settings": {}})
        (broken.path / "spec.json").write_text(json.dumps({**broken.spec, "format_version": 99}))
        (tmp_path / "torn").mkdir()
        (tmp_path / "torn" / "spec.json").write_text("{")
        assert [found.key for found in same_subject(run)] == [other.key for other in others]


def planned(line: str) -> RunSpec:
    """The spec that `explorer run` would make of a printed line."""
    program, name, *words = shlex.split(line)
    assert (program, name) == ("explorer", "run")
    command = cli.main.commands["run"]
    with click.Context(command) as context:
        command.parse_args(context, list(words))
        said = dict(context.params)
    names = ("epochs", "rate", "weight_decay", "batch_size", "seed")
    recipe = recipe_of(said["data"], **{name: said[name] for name in names if said[name] is not None})
    kept = {
        name: said[name] for name in ("data", "flip", "duplicate", "model", "weights", "method", "queries", "query_ids")
    }
    return plan(Request(recipe=recipe, **kept))


class TestAgain:
    @pytest.mark.parametrize(
        "request_",
        [
            Request("digits"),
            Request("wine", flip=0.1, duplicate=0.05, recipe=Recipe(epochs=5, seed=3)),
            Request("digits", model="mlp", recipe=Recipe(rate=0.01, weight_decay=0.0, batch_size=7), queries=20),
            Request("digits", query_ids="digit-7,digit 8's", method="last-layer", damping=0.5),
        ],
    )
    def test_the_line_makes_a_run_of_the_same_subject_and_queries(self, request_: Request, tmp_path: Path) -> None:
        run = create(tmp_path, plan(request_))
        line = again(run, "gradient-dot")
        assert line is not None
        other = create(tmp_path, planned(line))
        assert other.spec["method"]["name"] == "gradient-dot"
        assert other.spec["queries"] == run.spec["queries"]
        assert [found.key for found in same_subject(run)] == [other.key]
        assert f"--runs {shlex.quote(str(tmp_path))}" in line

    @pytest.mark.parametrize("recipe", [None, Recipe()])
    def test_a_run_of_sequences_keeps_its_recipe(self, recipe: Recipe | None, tmp_path: Path) -> None:
        (tmp_path / "t.jsonl").write_text('{"text": "a b"}\n{"text": "b a"}\n')
        run = create(tmp_path, plan(Request(str(tmp_path / "t.jsonl"), recipe=recipe)))
        line = again(run, "gradient-dot")
        assert line is not None
        assert subject_of(create(tmp_path, planned(line))) == subject_of(run)

    def test_files_and_factories_are_named_where_they_lie(self, tmp_path: Path) -> None:
        data, code, weights = tmp_path / "my data.npz", tmp_path / "net.py", tmp_path / "w.safetensors"
        np.savez(data, x_train=np.zeros((2, 1)), y_train=[0, 1], x_test=np.zeros((1, 1)), y_test=[0])
        code.write_text("def make(): ...")
        weights.write_bytes(b"")
        run = create(tmp_path, plan(Request(str(data), model=f"{code}:make", weights=str(weights))))
        line = again(run, "gradient-dot")
        assert line is not None
        assert subject_of(create(tmp_path, planned(line))) == subject_of(run)

    def test_none_where_no_line_can_name_it(self, tmp_path: Path) -> None:
        usual = plan(Request("wine", flip=0.1))
        faults = {**usual.source, "seed": 9}
        for change in (
            {"source": {"kind": "memory", "train": "t", "test": "e"}, "model": {"kind": "memory", "subject": "s"}},
            {"source": faults},
            {"source": {"kind": "folder", "depth": 3}},
            {"recipe": {**usual.recipe, "momentum": 0.5}},
            {"seed": 4},
        ):
            assert again(create(tmp_path, replace(usual, **change)), "ekfac") is None

    def test_ids_that_fit_no_line_are_left_out(self, tmp_path: Path) -> None:
        for ids in (("a,b", "c"), tuple(f"digit-{k}" for k in range(100))):
            line = again(create(tmp_path, replace(plan(Request("digits")), queries=ids)), "ekfac")
            assert line is not None
            assert "--quer" not in line


class TestCompareMethods:
    def test_both_columns_are_those_of_the_runs_and_ranks_are_scipy_s(self, pair: tuple[Run, Run]) -> None:
        a, b = pair
        for target in ("label", "prediction"):
            name = str(a.table("queries")["id"][0])
            found = explorer.compare_methods(a, b, name, target)
            for side, run in (("a", a), ("b", b)):
                alone = explorer.table(run, name, target=target).set_index("row").loc[found["row"]]
                np.testing.assert_array_equal(found[f"influence_{side}"], alone["influence"])
                np.testing.assert_array_equal(found[f"exact_{side}"], alone["exact"])
                np.testing.assert_allclose(found[f"rank_{side}"], stats.rankdata(-alone["influence"]), rtol=ROUNDING)
            assert found["influence_a"].is_monotonic_decreasing
            assert sorted(found["row"]) == list(range(a.meta().train))
            assert found["id"].tolist() == a.table("train")["id"][found["row"]].tolist()

    def test_the_evidence_is_that_of_the_stored_rows_and_lists(self, pair: tuple[Run, Run]) -> None:
        a, b = pair
        query = a.table("queries").iloc[1]
        said = explorer.compare_methods(a, b, str(query["id"])).attrs
        rows, tops = zip(
            *((run.row(int(query["row"]), "label"), run.top(int(query["row"]), "label")) for run in pair), strict=True
        )
        assert said["rank_agreement"] == pytest.approx(
            stats.spearmanr(*(row.values.astype(int) for row in rows)).statistic
        )
        for name, side in (("shared_helpful", "towards"), ("shared_harmful", "away")):
            ours, theirs = ({row for row in getattr(top, side)[:20].tolist() if row >= 0} for top in tops)
            assert said[name] == pytest.approx(len(ours & theirs) / len(ours))
        assert said["methods"] == ["last-layer", "gradient-dot"]
        assert said["units"] == [read_json(run.path / "fitted.json")["unit"] for run in pair]

    def test_runs_are_found_by_name(self, pair: tuple[Run, Run]) -> None:
        a, b = pair
        name = str(a.table("queries")["id"][2])
        found = explorer.compare_methods(a.key, b.key[:6], name, runs=a.path.parent)
        assert found.equals(explorer.compare_methods(a, b, name))

    def test_other_subjects_and_unknown_examples_are_refused(self, pair: tuple[Run, Run], tmp_path: Path) -> None:
        a, b = pair
        other = create(tmp_path, plan(Request("wine")))
        with pytest.raises(RunError, match=f"{a.key} and {other.key}"):
            explorer.compare_methods(a, other, str(a.table("queries")["id"][0]))
        with pytest.raises(RunError, match="nobody"):
            explorer.compare_methods(a, b, "nobody")
