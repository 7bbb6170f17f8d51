"""The numbers behind the Memorized page: against slow twins, against the files they come from, and against stated properties."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from explorer import cleaning as loop
from explorer import memorization, remedies
from explorer.jobs import remedies as requests
from explorer.jobs.cleaning import Asked as AskedCleaning
from explorer.jobs.cleaning import Cleaning
from explorer.shown import Filter, Selection
from explorer.shown.selection import in_map_units
from explorer.store import Run, write_bundle
from explorer.ui import load
from explorer.ui.memorized import cleaning, clusters, link, outcomes, scores, suspects, thresholds
from explorer.ui.memorized.thresholds import CORNERS, Thresholds
from tests.ui.conftest import Copier, Finished

FLOAT32 = 1e-6
"""The grid of dampings is kept in float32."""
SEED = 7


def grid(run: Run, *others: tuple[float, float, float]) -> None:
    """A grid that holds the run's own damping, and for each (damping, factor of self-influence, factor of held-out influence) another."""
    table, own = run.table("memorization"), float(load.evidence(run)["damping"])
    rows = [(own, 1.0, 1.0), *others]
    write_bundle(
        run.path / load.GRID,
        {
            "dampings": np.array([damping for damping, _, _ in rows], dtype=np.float32),
            "self_influence": np.stack([a * table["self_influence"] for _, a, _ in rows]).astype(np.float32),
            "held_out": np.stack([b * table["held_out"] for _, _, b in rows]).astype(np.float32),
        },
    )


class TestThresholds:
    def test_the_defaults_are_what_the_run_says(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        table, found = run.table("memorization"), thresholds.measured(run, Thresholds())
        assert [CORNERS[number] for number in found.corner] == table["quadrant"].tolist()
        assert found.neutral.tolist() == table["neutral"].tolist()
        assert found.suspect.tolist() == table["memorized"].tolist()

    def test_corners_are_the_rule_of_the_job(self) -> None:
        draw = np.random.default_rng(SEED)
        high, neutral, value = draw.random(500) < 0.5, draw.random(500) < 0.3, draw.normal(size=500).round(1)
        told = thresholds.corners(high, value, neutral)
        assert [CORNERS[number] for number in told] == memorization.quadrant(high, value, neutral).tolist()

    def test_each_threshold_moves_its_own_group(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        table = run.table("memorization")
        found = thresholds.measured(run, Thresholds(1.0, 2.0, 0.5))
        assert found.suspect.tolist() == (table["z"] > 1).tolist()
        assert found.high.tolist() == (table["self_influence_z"] > 2).tolist()
        assert found.neutral.tolist() == (table["held_out"].abs() <= 0.5 * table["held_out_se"]).tolist()

    def test_counts_precision_and_recall_are_those_of_a_loop(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        found, train = thresholds.measured(run, Thresholds(1.5, 2.0, 1.0)), run.table("train")
        counted, planted = thresholds.counts(run, found)
        wrong = [a != b for a, b in zip(train["true_label"], train["label"], strict=True)]
        assert planted == sum(wrong)
        groups = (found.suspect, found.high, found.corner == CORNERS.index(memorization.HARMFUL), found.neutral)
        for count, group in zip(counted, groups, strict=True):
            hits = sum(1 for inside, flip in zip(group, wrong, strict=True) if inside and flip)
            assert count.count == sum(group)
            assert count.recall == pytest.approx(hits / planted)
            assert (
                math.isnan(count.precision or 0)
                if not sum(group)
                else count.precision == pytest.approx(hits / sum(group))
            )

    def test_without_planted_flips_there_is_nothing_to_be_right_about(self, finished: Finished, copied: Copier) -> None:
        counted, planted = thresholds.counts(run := copied(finished.regression), thresholds.measured(run, Thresholds()))
        assert planted == 0
        assert {one.precision for one in counted} == {None}

    @pytest.mark.parametrize("largest", [-1.0, 3.0, 9.99, 10.0, 61_560.0, 1e12])
    def test_the_steps_rise_past_every_example(self, largest: float) -> None:
        found = link.steps(largest)
        assert found == sorted(set(found))
        assert {1.0, memorization.FLAG_Z} <= set(found)
        assert found[-1] > largest
        assert len(found) < 100


class TestDamping:
    def test_no_grid_no_choice(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        (run.path / load.GRID).unlink(missing_ok=True)
        assert thresholds.dampings(run) is None
        grid(run)  # the run's own alone is no choice either
        assert thresholds.dampings(run) is None

    def test_the_runs_own_damping_is_among_the_choices_once(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        grid(run, (1e-5, 1, 1), (10.0, 1, 1))
        own = float(load.evidence(run)["damping"])
        assert thresholds.dampings(run) == ([pytest.approx(1e-5), own, pytest.approx(10.0)], own)

    def test_the_same_values_at_another_scale_change_nothing(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        grid(run, (10.0, 3.0, 5.0))
        own = float(load.evidence(run)["damping"])
        told = thresholds.stability(run, 10.0, own)
        assert (told.signs, told.firm) == (1.0, 1.0)
        assert (told.held_out, told.self_influence) == (pytest.approx(1, abs=FLOAT32), pytest.approx(1, abs=FLOAT32))
        before, after = (thresholds.measured(run, Thresholds(damping=at)) for at in (None, 10.0))
        assert (before.corner == after.corner).mean() > 1 - 2 / len(
            before.corner
        )  # a value on the border may round over it
        np.testing.assert_allclose(after.held_out_se, 5 * before.held_out_se, rtol=1e-5)

    def test_turned_signs_are_all_lost(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        grid(run, (10.0, 1.0, -1.0))
        table = run.table("memorization")
        told = thresholds.stability(run, 10.0, float(load.evidence(run)["damping"]))
        assert told.signs == pytest.approx((table["held_out"] == 0).mean())
        assert told.held_out == pytest.approx(-1, abs=FLOAT32)
        assert told.harmful == pytest.approx((table["held_out"] > 0).mean())
        assert told.own_harmful == pytest.approx((table["held_out"] < 0).mean())

    def test_rank_correlation_is_scipys(self) -> None:
        draw = np.random.default_rng(SEED)
        a, b = draw.integers(0, 9, 200).astype(float), draw.normal(size=200)
        assert thresholds.spearman(a, b + a) == pytest.approx(spearmanr(a, b + a).statistic)
        assert math.isnan(thresholds.spearman(a, np.ones(200)))


class TestHistory:
    def test_one_example_is_its_column_of_the_log(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        for row in (0, 311):
            found = load.epochs(run, row)
            assert found is not None
            for name in ("loss", "confidence", "correct"):
                log = run.training_log(name)
                assert log is not None
                assert found[name].tolist() == log[:, row].tolist()

    def test_given_weights_have_none(self, finished: Finished, copied: Copier) -> None:
        assert load.epochs(copied(finished.given), 0) is None


def components(flagged: list[int], neighbors: dict[int, list[int]]) -> list[set[int]]:
    """Groups of three or more by merging sets: slow and obvious."""
    sets = [{row} for row in flagged]
    for a in flagged:
        for b in flagged:
            if b in neighbors[a] and a in neighbors[b]:
                one, other = (next(group for group in sets if row in group) for row in (a, b))
                if one is not other:
                    sets.remove(other)
                    one |= other
    return [group for group in sets if len(group) >= clusters.FEWEST]


class TestGroups:
    def test_components_are_those_of_merged_sets(self) -> None:
        draw = np.random.default_rng(SEED)
        points = draw.normal(size=(120, 2))
        order = np.argsort(np.linalg.norm(points[:, None] - points[None], axis=2), axis=1)[:, 1:5]
        flagged = np.sort(draw.permutation(120)[:60])
        found = clusters.connected(flagged, order[flagged])
        expected = components(flagged.tolist(), {int(row): order[row].tolist() for row in flagged})
        assert len(expected) > 2
        assert sorted(map(sorted, (set(group.tolist()) for group in found))) == sorted(map(sorted, expected))
        assert [len(group) for group in found] == sorted((len(group) for group in found), reverse=True)

    def test_none_flagged_no_groups(self) -> None:
        none = np.zeros(0, dtype=np.int64)
        assert clusters.connected(none, none.reshape(0, 10)) == []
        assert clusters.close(none, none.reshape(0, 10))[0] == []

    def test_missing_neighbors_link_nothing(self) -> None:
        assert clusters.connected(np.arange(4), np.full((4, 3), -1)) == []

    def test_a_chain_is_taken_apart_by_looking_at_fewer_neighbors(self) -> None:
        n = 4 * clusters.LARGEST
        at = np.arange(n) + 3.0 * (np.arange(n) // 4)  # fours with gaps, in one long line
        order = np.argsort(np.abs(at[:, None] - at[None]), axis=1, kind="stable")[:, 1:7]
        assert len(clusters.connected(np.arange(n), order)[0]) == n
        found, links = clusters.close(np.arange(n), order)
        assert links == 3  # the fourth neighbor lies across the gap
        assert [group.tolist() for group in found] == np.arange(n).reshape(-1, 4).tolist()

    def test_a_chain_that_no_fewer_neighbors_take_apart_stays(self) -> None:
        n = 2 * clusters.LARGEST
        order = np.stack(
            [(np.arange(n) - 1) % n, (np.arange(n) + 1) % n], axis=1
        )  # a ring: with one neighbor each no link is mutual
        found, links = clusters.close(np.arange(n), order)
        assert ([len(group) for group in found], links) == ([n], 2)

    @pytest.mark.parametrize("count", [1, 2, 3, 500])
    def test_the_selection_holds_every_point(self, count: int) -> None:
        places = np.random.default_rng(SEED).normal(size=(count, 2)).astype(np.float32)
        assert clusters.around("pca", places).inside(places).all()

    def test_points_in_a_line_too(self) -> None:
        places = np.stack([np.linspace(0, 1, 9), np.zeros(9)], axis=1).astype(np.float32)
        assert clusters.around("pca", places).inside(places).all()

    def test_the_link_selects_the_group_among_suspect_examples(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        found = clusters.groups(run)
        assert found is not None
        assert found.shown
        flagged = np.flatnonzero(run.table("memorization")["memorized"])
        for group in found.shown:
            said = clusters.link(run, group)
            assert Filter.parse(said["filter"]) == Filter(suspect=True)
            selection = Selection.parse(said["select"])
            assert selection is not None
            places = in_map_units(np.asarray(run.array(f"coordinates-{selection.layout}")))
            assert set(group.rows) <= set(flagged)
            inside = selection.inside(places[flagged])
            assert set(group.rows) <= set(flagged[inside])
            assert group.held == inside.sum()

    def test_without_neighbors_there_is_no_answer(self, finished: Finished, copied: Copier) -> None:
        assert clusters.groups(copied(finished.digits, without=("neighbors.json",))) is None


class TestSuspects:
    @pytest.mark.parametrize("name", ["digits", "hostile", "regression", "given"])
    def test_new_labels_are_those_the_job_suggests(self, name: str, finished: Finished, copied: Copier) -> None:
        run = copied(getattr(finished, name))
        rows = np.arange(run.meta().train)[::3]
        assert suspects.proposed(run, rows) == list(requests.suggested(run, rows.tolist()))

    def test_the_most_suspect_are_first_and_the_unknown_last(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        table = run.table("memorization")
        z = table["z"].to_numpy()
        assert (np.diff(z[suspects.by_score(run, suspects.OWN)]) <= 0).all()
        known = pd.DataFrame({"entropy": z.copy()})
        known.loc[5, "entropy"] = np.nan
        assert suspects.by_score(run, "entropy", known)[-1] == 5

    @pytest.mark.parametrize("name", ["digits", "regression", "given"])
    def test_scores_that_are_offered_can_be_had(self, name: str, finished: Finished, copied: Copier) -> None:
        run = copied(getattr(finished, name))
        known = set(load.signs(run)[0].columns)
        offered = suspects.scores(run)
        assert offered[0] == suspects.OWN
        assert set(offered[1:]) <= known
        assert name != "digits" or len(offered) > 8

    def test_one_class_leaves_out_its_own(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        rows = np.arange(50)
        labels = run.table("train")["label"].to_numpy()[:50]
        chosen, new = suspects.changed(rows, suspects.one_class(run, rows, 3))
        assert list(chosen) == np.flatnonzero(labels != 3).tolist()
        assert set(new) == {3}

    def test_ticked_rows_are_those_of_the_table(self) -> None:
        event = {"selection": {"rows": [0, 2, 99], "columns": []}}
        assert suspects.ticked(event, np.array([7, 8, 9])).tolist() == [7, 9]
        assert suspects.ticked({"selection": {"rows": []}}, np.array([7])).tolist() == []


class TestScores:
    def test_correlations_are_pandas(self) -> None:
        draw = np.random.default_rng(SEED)
        table = pd.DataFrame(draw.normal(size=(80, 4)), columns=list("abcd")).round(1)
        table.loc[::7, "b"] = np.nan
        np.testing.assert_allclose(scores.correlations(table), table.corr(method="spearman").to_numpy(), atol=1e-12)

    def test_a_constant_has_none(self) -> None:
        table = pd.DataFrame({"a": [1.0, 2, 3, 4], "b": [1.0] * 4})
        assert np.isnan(scores.correlations(table)[0, 1])

    def test_every_score_is_drawn_or_has_a_reason(self, finished: Finished, copied: Copier) -> None:
        for path in (finished.digits, finished.given, finished.regression):
            run = copied(path, path.name[:8] + "0001")
            found = scores.agreement(run)
            assert len(found.names) + len(found.missing) == len(scores.SIGNS)
            assert all(found.missing.values())
            assert found.matrix.shape == (len(found.names),) * 2

    def test_of_many_examples_a_sample_is_ranked(self) -> None:
        rows = scores.sampled(3 * scores.SAMPLE)
        assert len(set(rows.tolist())) == scores.SAMPLE
        assert rows.tolist() == scores.sampled(3 * scores.SAMPLE).tolist()
        assert scores.sampled(10).tolist() == list(range(10))


def arm(draw: np.random.Generator, seeds: int, classes: int, asked: int) -> remedies.Arm:
    return remedies.Arm(
        draw.random(seeds), draw.random(seeds), draw.random((seeds, classes)), draw.normal(size=(seeds, asked))
    )


def tried(seeds: int = 4) -> tuple[remedies.Outcome, requests.Asked]:
    draw = np.random.default_rng(SEED)
    outcome = remedies.Outcome(tuple(range(seeds)), *(arm(draw, seeds, 10, 3) for _ in range(3)))
    told = json.loads(json.dumps(outcome.as_json()))
    remedy = requests.Remedy("drop", (1, 2, 3), seeds=max(seeds, 2))
    return outcome, requests.Asked("key", remedy, told, complete=True, left_out="", folder=Path("nowhere"))


class TestOutcomes:
    def test_lines_are_the_effects_of_the_outcome(self, finished: Finished, copied: Copier) -> None:
        outcome, asked = tried()
        found = outcomes.result(copied(finished.digits), asked)
        assert found is not None
        assert (found.seeds, found.wanted) == (4, 4)
        accuracy, loss, hurt, *classes = found.lines
        for against in outcomes.AGAINST:
            expected = outcome.effect("accuracy", against)
            assert accuracy.changes[against].mean == pytest.approx(expected.mean)
            assert accuracy.changes[against].low == pytest.approx(expected.low)
            expected = outcome.effect("loss", against)  # less loss is better: turned, and its interval too
            assert loss.changes[against].mean == pytest.approx(-expected.mean)
            assert (loss.changes[against].low, loss.changes[against].high) == pytest.approx(
                (-expected.high, -expected.low)
            )
            assert hurt.changes[against].mean == pytest.approx(outcome.effect("asked", against).mean)
        assert len(classes) == 10
        assert (accuracy.before, loss.after) == pytest.approx(
            (outcome.before.accuracy.mean(), outcome.after.loss.mean())
        )
        assert hurt.random == pytest.approx(outcome.random.asked.mean())
        assert classes[3].after == pytest.approx(outcome.after.per_class[:, 3].mean())

    def test_a_regression_has_no_accuracy(self, finished: Finished, copied: Copier) -> None:
        _, asked = tried()
        found = outcomes.result(copied(finished.regression), asked)
        assert found is not None
        assert {line.unit for line in found.lines} == {"squared error"}

    def test_one_training_has_no_interval(self, finished: Finished, copied: Copier) -> None:
        _, asked = tried(seeds=1)
        found = outcomes.result(copied(finished.digits), asked)
        assert found is not None
        assert math.isnan(found.lines[0].changes["before"].low)

    def test_nothing_trained_nothing_said(self, finished: Finished, copied: Copier) -> None:
        asked = requests.Asked("key", requests.Remedy("drop", (1,)), None, complete=False, left_out="", folder=Path())
        assert outcomes.result(copied(finished.digits), asked) is None


def rounds(losses: list[float], size: int = 5) -> list[loop.Round]:
    draw = np.random.default_rng(SEED)
    return [
        loop.Round(
            number,
            np.arange(size * number, size * (number + 1)) if number else np.zeros(0, dtype=np.int64),
            100 - size * number,
            np.zeros(0, dtype=np.int64),
            *(loss + 0.01 * draw.normal(size=3) for _ in range(5)),
        )
        for number, loss in enumerate(losses)
    ]


def cleaned(done: list[loop.Round]) -> AskedCleaning:
    summary = json.loads(json.dumps(loop.summary(done))) if done else {}
    told = json.loads(json.dumps([one.as_json() for one in done]))
    at = summary.get("stopped_at")
    return AskedCleaning("key", Cleaning(), told, True, at, summary, "", Path("nowhere"))


class TestCleaning:
    def test_the_curve_is_that_of_the_rounds(self, finished: Finished, copied: Copier) -> None:
        done = rounds([0.5, 0.3, 0.4])
        found = cleaning.curve(copied(finished.digits), cleaned(done))
        assert found is not None
        assert [point.removed for point in found.points] == [0, 5, 10]
        assert found.kept == loop.stopped_at(done) == 1
        for point, one in zip(found.points, done, strict=True):
            assert point.report[0] == pytest.approx(one.report_loss.mean())
            assert point.random[0] == pytest.approx(one.random_report_loss.mean())
            assert point.stop[1] == pytest.approx(one.stop_loss.std(ddof=1) / math.sqrt(3))
        assert found.loss[0].mean == pytest.approx(loop.gain(done, "report_loss").mean)
        assert found.accuracy is not None
        assert found.accuracy[1].mean == pytest.approx(loop.gain(done, "accuracy", "random").mean)

    def test_before_the_first_round_there_is_no_curve(self, finished: Finished, copied: Copier) -> None:
        assert cleaning.curve(copied(finished.digits), cleaned([])) is None
