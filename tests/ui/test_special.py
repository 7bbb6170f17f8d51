"""The panel's part "Selection": the same points as on the map, what is said of them, and that data stays text."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from explorer.shown.filters import Filter
from explorer.shown.selection import Selection
from explorer.store import Run
from explorer.store.export import encode
from explorer.ui import answers, wire
from explorer.ui.parts import facts, special
from explorer.ui.parts.special import Members
from explorer.ui.views import selection as heads
from explorer.ui.views import special as views
from explorer.ui.views.special import Claim, Special
from tests.shown.test_selection import centered, slow
from tests.ui.conftest import HOSTILE, Finished
from tests.ui.test_views import Tags

BOX = Selection("pca", ((-0.6, -0.7), (0.3, -0.7), (0.3, 0.4), (-0.6, 0.4)))


def words(html: str) -> str:
    """The text of HTML on one line."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).strip()


def claim(**more: Any) -> Claim:
    return replace(Claim("labeled 7", "share", 0.61, 0.1, 0.51, 0.48, 0.55, 6.1), **more)


def found(**more: Any) -> Special:
    return replace(Special("training", 312, 59_688, 4, 39, (claim(),), 5), **more)


class TestViews:
    def test_how_many_are_selected_of_how_many(self) -> None:
        counts = heads.Counts(312, 40, 60_000, 10_000, 60_000, 10_000, filtered=False)
        assert words(heads.header(counts)) == "312 of 60,000 training · 40 of 10,000 test selected"
        filtered = replace(counts, shown_train=900, shown_test=50, filtered=True)
        assert words(heads.header(filtered)).endswith("selected of the 900 and 50 that the filter shows")
        assert "No point that is shown lies inside" in heads.header(replace(counts, train=0, test=0))

    def test_classes_by_frequency_with_the_share_of_training_examples_in_words(self) -> None:
        shown = heads.classes([heads.ClassCount("cat", 1, 0), heads.ClassCount("dog", 3, 5)])
        assert words(shown) == "label training share test dog 3 75 % 5 cat 1 25 % 0"

    def test_many_classes_are_cut_and_the_rest_is_counted(self) -> None:
        many = [heads.ClassCount(f"class{k}", 100 - k, 1) for k in range(heads.CLASSES + 2)]
        shown = words(heads.classes(many))
        assert "class11" in shown
        assert "class12" not in shown
        assert shown.endswith("and 2 more classes with 175 training and 2 test examples")
        assert heads.classes([]) == ""

    @pytest.mark.parametrize(
        ("made", "row"),
        [
            (claim(), "labeled 7 61 % 10 % +51 points (+48 to +55), 6.1 times as common"),
            (claim(ratio=1.2), "labeled 7 61 % 10 % +51 points (+48 to +55)"),
            (claim(outside=0.0, ratio=float("inf")), "labeled 7 61 % 0 % +51 points (+48 to +55), only here"),
            (
                claim(inside=0.001, outside=0.005, difference=-0.004, low=-0.0061, high=-0.00032, ratio=0.2),
                "labeled 7 0.1 % 0.5 % −0.4 points (−0.6 to −0.03)",
            ),
            (
                claim(fact="ink", kind="number", inside=-1.5, outside=0.2, difference=-0.84, low=-0.9, high=-0.04),
                "ink −1.5 0.2 −0.8 sd (−0.9 to −0.04)",
            ),
            (
                claim(fact="loss", kind="number", inside=83, outside=50, difference=1.2, low=1, high=1.4, ranked=True),
                "loss median percentile 83 50 +1.2 sd (+1.0 to +1.4)",
            ),
        ],
    )
    def test_a_claim_in_words(self, made: Claim, row: str) -> None:
        assert row in words(views.special(found(claims=(made,))))

    def test_what_was_compared_is_counted(self) -> None:
        shown = words(views.special(found(note="Of others nothing is known.")))
        assert "What is special about the 312 selected training examples" in shown
        assert "1 of 4 facts that surely differ" in shown
        assert "39 compared with the 59,688 others shown. Of others nothing is known." in shown
        assert "95 % confidence" in views.method(0.95)

    def test_small_groups_say_so_and_claim_nothing(self) -> None:
        shown = words(views.special(found(inside=4, claims=())))
        assert "Too few inside to tell: 4, and it takes 5." in shown
        assert "Too few outside to tell: 0" in words(views.special(found(outside=0, claims=())))
        assert "the 1 selected training example Too" in words(views.special(found(inside=1, claims=())))

    def test_nothing_special_is_said(self) -> None:
        assert "of 39 facts compared none differs beyond chance" in views.special(found(claims=()))

    def test_empty_states_name_the_keys(self) -> None:
        for shown in (heads.how_to_select(), heads.other_map("umap")):
            assert {"L", "B"} <= set(re.findall(r"<kbd>(.)</kbd>", shown))
        assert "on the map UMAP" in words(heads.other_map("umap"))

    def test_data_stays_text(self) -> None:
        shown = heads.classes([heads.ClassCount(HOSTILE, 1, 1)]) + heads.gallery_title(1, 1, HOSTILE, HOSTILE)
        shown += views.special(found(split=HOSTILE, claims=(claim(fact=HOSTILE),), note=HOSTILE))
        assert Tags(shown).named("img") == []


def opened(path: Path) -> Run:
    return Run.at(path)


def influences(run: Run) -> special.Influences:
    row = special._influences(run, answers.first_query(run), "label")
    assert row is not None
    return row


def dense(run: Run) -> NDArray[np.float64]:
    """Influence of every training example on the first query: its int8 row, exact where the top list holds it."""
    query = answers.first_query(run)
    row, top = run.row(query, "label"), run.top(query, "label")
    assert row is not None
    assert top is not None
    values = row.values.astype(float) / 127 * row.scale
    for rows, exact in ((top.towards, top.towards_influence), (top.away, top.away_influence)):
        for place, value in zip(rows, exact, strict=True):
            if place >= 0:
                values[place] = value
    return values


def everyone(run: Run, selected: NDArray[np.bool_]) -> Members:
    """All points shown, those of a mask over training examples selected."""
    meta = run.meta()
    return Members(
        np.ones(meta.train + meta.test, bool), np.concatenate([selected, np.zeros(meta.test, bool)]), meta.train
    )


class TestMembers:
    def test_classes_and_marks_are_those_of_the_map(self, finished: Finished) -> None:
        for path in (finished.digits, finished.hostile, finished.regression):
            run = opened(path)
            meta, sent = run.meta(), wire.points(run, "pca")
            n = meta.train + meta.test
            start = 16 + 4 * int(np.frombuffer(sent, "<u4", 3)[2]) + 8 * n
            classes = np.frombuffer(sent, np.uint8, n, start)
            marks = np.frombuffer(sent, np.uint8, n, start + n)
            train, test = facts.side(run, "train"), facts.side(run, "test")
            assert np.concatenate([train.classes, test.classes]).tolist() == classes.tolist()
            wrong = np.concatenate([train.wrong, test.wrong])
            assert wrong.tolist() == ((marks & wire.WRONG) > 0).tolist()
            assert train.suspect.tolist() == ((marks[: meta.train] & wire.SUSPECT) > 0).tolist()

    def test_the_rule_point_by_point(self, finished: Finished) -> None:
        run = opened(finished.digits)
        kept = Filter(classes=(1, 3, 5, 7, 9), outcome="right", sign="towards")
        row = run.row(answers.first_query(run), "label")
        assert row is not None
        members = special.members(run, BOX, kept, row)
        train, test = run.table("train").join(run.table("outcomes-train")), run.table("queries").sort_values("row")
        units = centered(np.asarray(run.array("coordinates-pca")))
        shown = [
            label % 2 == 1 and not wrong
            for part in (train, test)
            for label, wrong in zip(part["label"], part["wrong"], strict=True)
        ]
        shown = [ok and (i >= len(train) or row.values[i] > 0) for i, ok in enumerate(shown)]
        assert members.shown.tolist() == shown
        inside = [slow(BOX.polygon, u, v) for u, v in units]
        assert members.selected.tolist() == [a and b for a, b in zip(shown, inside, strict=True)]
        assert any(members.selected)

    def test_counts_and_classes_are_those_of_the_tables(self, finished: Finished) -> None:
        run = opened(finished.digits)
        members = special.members(run, BOX, Filter(), None)
        train = run.table("train").iloc[members.rows("train")]
        test = run.table("test").iloc[members.rows("test")]
        counts = special.counts(run, members, Filter())
        assert (counts.train, counts.test, counts.filtered) == (len(train), len(test), False)
        assert (counts.shown_train, counts.shown_test) == (counts.total_train, counts.total_test)
        by_class = {one.name: (one.train, one.test) for one in special.by_class(run, members)}
        wanted = {
            str(label): (int((train["label"] == label).sum()), int((test["label"] == label).sum()))
            for label in sorted({*train["label"], *test["label"]})
        }
        assert by_class == wanted

    def test_a_regression_has_no_classes(self, finished: Finished) -> None:
        run = opened(finished.regression)
        assert special.by_class(run, special.members(run, BOX, Filter(), None)) == []


class TestWhatIsSpecial:
    def test_flipped_labels_are_said_to_be_planted_and_wrongly_answered(self, finished: Finished) -> None:
        run = opened(finished.digits)
        train = run.table("train")
        flipped = (train["true_label"] != train["label"]).to_numpy()
        (part,) = special.special(run, everyone(run, flipped), influences(run))
        assert (part.inside, part.outside) == (flipped.sum(), (~flipped).sum())
        said = {one.fact: one for one in part.claims}
        planted = said["planted wrong label"]
        assert (planted.inside, planted.outside) == (1, 0)
        assert planted.low > 0.8
        wrong = run.table("outcomes-train")["wrong"].to_numpy()
        assert said["wrong"].inside == pytest.approx(wrong[flipped].mean())
        assert said["wrong"].outside == pytest.approx(wrong[~flipped].mean())
        assert said["loss"].ranked
        assert said["loss"].inside > 80
        assert len(part.claims) <= special.CLAIMS

    def test_a_class_is_found_by_its_label_and_its_look(self, finished: Finished) -> None:
        run = opened(finished.digits)
        ones = (run.table("train")["label"] == 1).to_numpy()
        (part,) = special.special(run, everyone(run, ones), None)
        assert "labeled 1" in {one.fact for one in part.claims}
        pixels = np.asarray(run.array("preview-train")) / 255
        looks = facts.looks(str(run.path), "train")
        assert looks.note == ""
        assert looks.numbers["brightness"].values == pytest.approx(pixels.mean(axis=(1, 2)), abs=1e-5)

    def test_a_table_is_compared_by_its_columns_in_raw_units(self, finished: Finished) -> None:
        run = opened(finished.hostile)
        column = np.asarray(run.array("preview-train"))[:, 2]
        high = column > np.median(column)
        (part,) = special.special(run, everyone(run, high), None)
        one = next(one for one in part.claims if one.fact == run.meta().features[2])
        assert (one.inside, one.outside) == pytest.approx((np.median(column[high]), np.median(column[~high])))
        assert one.low > 0
        assert Tags(views.special(part)).named("img") == []

    def test_both_splits_together_claim_at_most_eight_facts(self, finished: Finished) -> None:
        run = opened(finished.digits)
        parts = special.special(run, special.members(run, BOX, Filter(), None), None)
        assert [part.split for part in parts] == ["training", "test"]
        assert 0 < len(parts[1].claims) <= special.CLAIMS_TEST
        assert sum(len(part.claims) for part in parts) == special.CLAIMS
        for part in parts:
            assert sum(one.fact.startswith("labeled") for one in part.claims) <= special.OF_A_KIND
            assert sum(one.fact.startswith("model says") for one in part.claims) <= special.OF_A_KIND
        assert all(part.found >= len(part.claims) for part in parts)

    def test_the_rest_is_what_the_filter_shows(self, finished: Finished) -> None:
        run = opened(finished.digits)
        kept = Filter(classes=(0, 1))
        members = special.members(run, BOX, kept, None)
        part = special.special(run, members, None)[0]
        assert part.inside + part.outside == run.table("train")["label"].isin([0, 1]).sum()

    def test_pictures_beyond_the_budget_are_sampled_and_that_is_said(
        self, finished: Finished, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = opened(finished.digits)
        whole = facts.looks(str(run.path), "test").numbers["ink"].values
        monkeypatch.setattr(facts, "VALUES", 64 * 100)
        facts.looks.cache_clear()
        part = facts.looks(str(run.path), "test")
        facts.looks.cache_clear()
        measured = part.numbers["ink"].values
        known = ~np.isnan(measured)
        assert known.sum() == 100
        assert measured[known].tolist() == whole[known].tolist()
        assert part.note == f"Pictures: 100 of {len(whole):,} measured, drawn at random."


class TestGallery:
    def test_the_strongest_members_come_first(self, finished: Finished) -> None:
        run = opened(finished.digits)
        members = special.members(run, BOX, Filter(), None)
        html = special.gallery(run, members, "label", influences(run))
        shown = [int(row) for row in re.findall(r'data-inspect="(\d+)"', html)]
        strength = np.abs(dense(run))
        rows = members.rows("train")
        assert set(shown) <= set(rows)
        assert len(shown) == special.TILES - special.TILES_TEST
        assert min(strength[shown]) >= max(strength[sorted(set(rows) - set(shown))])
        assert strength[shown].tolist() == sorted(strength[shown], reverse=True)
        assert f"{len(shown)} of {len(rows):,} training examples" in words(html)

    def test_test_members_are_worst_first_and_point_at_the_map(self, finished: Finished) -> None:
        run = opened(finished.digits)
        members = special.members(run, BOX, Filter(), None)
        html = special.gallery(run, members, "label", None)
        shown = [int(row) for row in re.findall(r'data-query="(\d+)"', html)]
        order = [row for row in run.table("queries")["row"] if row in set(members.rows("test"))]
        assert shown == order[: special.TILES_TEST]
        points = {int(point) for point in re.findall(r'data-point="(\d+)"', html)}
        assert {run.meta().train + row for row in shown} <= points

    def test_data_stays_text(self, finished: Finished) -> None:
        run = opened(finished.hostile)
        everything = everyone(run, np.ones(run.meta().train, bool))
        tags = Tags(special.gallery(run, everything, "label", influences(run)))
        assert tags.named("img") == []
        assert len(tags.named("div")) > special.TILES


class TestSaved:
    def test_the_file_holds_the_members_and_nothing_else(self, finished: Finished) -> None:
        run = opened(finished.digits)
        members = special.members(run, BOX, Filter(), None)
        saved = pd.read_csv(io.BytesIO(encode(special.table(run, members, influences(run)), "csv")), dtype={"id": str})
        train, test = saved[saved["split"] == "train"], saved[saved["split"] == "test"]
        assert train["row"].tolist() == members.rows("train").tolist()
        assert train["id"].tolist() == run.table("train")["id"].iloc[members.rows("train")].tolist()
        assert sorted(test["row"]) == members.rows("test").tolist()
        assert train["influence"].to_numpy() == pytest.approx(dense(run)[members.rows("train")], rel=1e-6, abs=1e-12)
        assert test[["influence", "memorized", "quadrant"]].isna().all(axis=None)
        known = run.table("outcomes-train")
        assert train["wrong"].astype(bool).tolist() == known["wrong"].iloc[members.rows("train")].tolist()

    def test_a_regression_has_neither_right_nor_wrong(self, finished: Finished) -> None:
        run = opened(finished.regression)
        saved = special.table(run, everyone(run, np.ones(run.meta().train, bool)), influences(run))
        assert len(saved) == run.meta().train
        assert not {"wrong", "confidence"} & set(saved.columns)
        assert {"label", "prediction", "influence"} <= set(saved.columns)

    def test_before_memorization_is_measured_the_rest_is_saved(self, finished: Finished, copied: Any) -> None:
        run = copied(finished.digits, without=("memorization.parquet", "summary.json"))
        saved = special.table(run, everyone(run, np.ones(run.meta().train, bool)), None)
        assert list(saved.columns) == ["id", "split", "row", "label", "prediction", "wrong", "confidence", "loss"]
