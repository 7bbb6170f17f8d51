"""A run of sequences on every page: texts where other runs have labels, and nothing offered that such a run cannot do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from explorer import shown
from explorer.shown import Filter, Selection
from explorer.store import Meta, Run
from explorer.ui import answers, columns, facets, load, memorized, offers, server, wire
from explorer.ui.memorized import classes, clusters, thresholds
from explorer.ui.parts import drawer, facts, special
from explorer.ui.views import drawer as views
from tests.ui import texts
from tests.ui.conftest import Copier, Finished
from tests.ui.parts import Screen
from tests.ui.parts import screen as screen
from tests.ui.test_pages import OF_A_RUN, PAGES, text, visit
from tests.ui.test_server import asked
from tests.ui.test_texts_views import plain
from tests.ui.test_views import Tags

META = Meta("made", "sequence", (), 3, 2, "text", (), (), 0, 0)


@pytest.fixture
def run(sequences: Run, root: Path) -> Run:
    """A copy that the pages show."""
    return texts.copied(sequences, root)


def told(run: Run, split: str) -> pd.DataFrame:
    """The texts of a split, from their file."""
    return pd.read_parquet(run.path / f"texts-{split}.parquet")


class TestWire:
    def test_the_list_has_texts_and_the_prompts_of_the_test_rows(self, run: Run) -> None:
        sent, queries, test = json.loads(wire.queries(run)), run.table("queries"), told(run, "test")
        assert sent["labels"] == queries["label"].tolist()
        assert sent["predictions"] == queries["prediction"].tolist()
        assert (sent["kind"], sent["task"]) == ("text", "sequence")
        for row, prompt in enumerate(sent["prompts"]):
            whole = test["prompt"][row]
            assert prompt == whole if row != texts.LONG else whole.endswith(prompt[2:])
        assert len(sent["prompts"][texts.LONG]) == wire.LISTED_TEXT + 2
        assert sent["prompts"][texts.EMPTY] == ""
        assert wire._begins(["a b", "x" * 3000]) == ["a b", "x" * wire.LISTED_TEXT + " …"]

    def test_points_have_no_class_and_the_marks_of_the_tables(self, run: Run) -> None:
        blob, total = bytes(wire.points(run, "pca")), texts.N_TRAIN + texts.N_TEST
        start = len(blob) - 11 * total - texts.N_TRAIN
        one = np.frombuffer(blob, np.uint8)[start + 8 * total :].reshape(-1)[: 3 * total].reshape(3, total)
        assert (one[0] == 255).all()
        assert (one[2] == 255).all()
        outcomes, queries = run.table("outcomes-train"), run.table("queries").sort_values("row")
        wrong = np.concatenate([outcomes["wrong"].to_numpy(), queries["wrong"].to_numpy()])
        assert ((one[1] & wire.WRONG) > 0).tolist() == wrong.tolist()

    def test_the_text_of_a_point_is_told_to_a_session(self, run: Run) -> None:
        for split, row in (("train", 3), ("test", texts.LONG), ("train", texts.EMPTY)):
            response = asked(server.text, run.key, split=split, row=row)
            assert json.loads(bytes(response.body)) == told(run, split).iloc[row].to_dict()
        assert asked(server.text, run.key, token="guess", split="train", row=3).status_code == 403

    @pytest.mark.parametrize(("split", "row"), [("train", texts.N_TRAIN), ("test", -1), ("other", 0)])
    def test_a_text_that_is_not_there_is_refused(self, split: str, row: int, run: Run) -> None:
        assert asked(server.text, run.key, split=split, row=row).status_code == 404

    def test_pictures_and_texts_are_not_mixed_up(self, run: Run, finished: Finished, copied: Copier) -> None:
        assert asked(server.thumbnail, run.key, split="train", row=0).status_code == 404
        digits = copied(finished.digits)
        assert asked(server.text, digits.key, split="train", row=0).status_code == 404

    def test_counts_of_outcomes_without_classes(self, run: Run) -> None:
        found = facets.counts(run)
        assert (found.classes_train, found.classes_test) == ((), ())
        assert found.wrong_train == int(run.table("outcomes-train")["wrong"].sum()) > 0
        assert found.wrong_test == int(run.table("queries")["wrong"].sum()) > 0


class TestAnswer:
    def test_card_and_galleries_hold_the_texts_of_their_rows(self, run: Run) -> None:
        queries, train, test = run.table("queries"), told(run, "train"), told(run, "test")
        for query in (int(queries["row"][0]), 3, texts.LONG):
            response = asked(server.answer, run.key, query=query, target="label")
            said = json.loads(bytes(response.body))
            known = queries[queries["row"] == query].iloc[0]
            assert test["prompt"][query].strip() in plain(said["card"])
            assert known["label"] in plain(said["card"])
            outcome = f"✗ the model says {known['prediction']}" if known["wrong"] else "✓ the model says so"
            assert outcome in plain(said["card"]).replace(" ∅", "")
            assert "log p of the given continuation" in said["card"]
            tiles = [tag for tag in Tags(said["galleries"]).named("div") if "data-inspect" in tag]
            passages = [tag for tag in Tags(said["galleries"]).named("div") if tag.get("class") == "ix-passage"]
            assert len(tiles) == len(passages) == 20
            for tile, passage in zip(tiles, passages, strict=True):
                row = train.iloc[int(tile["data-inspect"] or -1)]
                assert (
                    passage["title"] == f"{row['prompt']} {row['continuation']}".strip()[: len(passage["title"] or "")]
                )
            assert not Tags(said["card"] + said["galleries"]).named("img")

    def test_tiles_say_what_the_model_says_of_training_examples(self, run: Run) -> None:
        outcomes, train = run.table("outcomes-train"), run.table("train")
        for row in range(15):
            tile = answers.tile(run, row, 0.1, 1.0)
            assert (tile.label, tile.prediction) == (train["label"][row], outcomes["prediction"][row])
            assert tile.right != outcomes["wrong"][row]

    def test_it_is_measured_in_nats(self, run: Run) -> None:
        assert {answers.unit(run, target) for target in ("label", "prediction")} == {"nats"}


def test_packed_texts_are_read_like_an_array(run: Run) -> None:
    known, table = load.train_columns(run), run.table("train")["label"].to_numpy(dtype=object)
    assert isinstance(known.labels, columns.PackedText)
    assert known.labels[7] == table[7]
    rows = np.array([5, 3, 3, 119])
    assert known.labels[rows].tolist() == table[rows].tolist()
    assert known.labels[[]].tolist() == []


class TestOffers:
    def test_a_run_of_texts_has_no_classes_and_no_input_to_edit(self) -> None:
        assert not {"Classes", "Edit"} & set(offers.parts(META))
        assert {"Answer", "Selection", "Compare", "Methods", "Table", "About"} == set(offers.parts(META))
        assert offers.colors(META) == ("influence", "outcome", "self-influence", "split")

    def test_others_are_offered_what_they_were(self, finished: Finished) -> None:
        digits, line = Run.at(finished.digits).meta(), Run.at(finished.regression).meta()
        assert offers.parts(digits) == offers.PARTS
        assert offers.colors(digits) == offers.COLORS
        assert offers.parts(line) == tuple(part for part in offers.PARTS if part != "Classes")
        assert offers.colors(line) == ("influence", "self-influence", "split")

    @pytest.mark.parametrize(
        "link",
        [{"part": "Classes"}, {"part": "Edit"}, {"color": "label"}, {"filter": "classes:1"}, {"taught": "train-3"}],
    )
    def test_a_link_to_what_is_not_offered_shows_the_rest(self, link: dict[str, str], run: Run) -> None:
        app = visit("explore", run=run.key, **link)
        state = app.session_state
        assert (state["part"], state["color"], state["lesson"]) == ("Answer", "influence", None)
        assert not state["filter"]

    def test_the_drawer_offers_no_lesson_and_the_answer_no_contrast(self, run: Run, screen: Screen) -> None:
        app = visit("explore", run=run.key, row="train-3")
        keys = {button.key for button in app.button}
        assert "drawer-close" in keys
        assert not {"lesson-teach", "contrast-ask"} & keys
        assert "exact-trace" in keys
        assert told(run, "train")["prompt"][3] in plain(screen.html["drawer-tiles"])


class TestEveryPage:
    @pytest.mark.parametrize("page", PAGES)
    def test_done(self, page: str, run: Run, screen: Screen) -> None:
        shown_ = text(visit(page, run=run.key))
        assert "test continuations right 60.0%" in shown_ if page != "laboratory" else True
        assert texts.HOSTILE not in "".join(screen.html.values())

    @pytest.mark.parametrize("part", offers.parts(META))
    def test_every_part_of_the_panel(self, part: str, run: Run, screen: Screen) -> None:
        queries = run.table("queries")
        link = {"query": queries["id"][0], "pin": queries["id"][1], "select": "pca:-1,-1;1,-1;1,1;-1,1", "map": "pca"}
        app = visit("explore", run=run.key, part=part, **link)
        assert app.session_state["part"] == part
        assert texts.HOSTILE not in "".join(screen.html.values())
        if part in ("Selection", "Compare"):
            assert any("ix-passage" in html for html in screen.html.values())
        if part == "Table":
            (table,) = app.dataframe
            prompts = told(run, "train")["prompt"]
            assert table.value["prompt"].tolist() == [prompts[row] for row in table.value["row"]]

    @pytest.mark.parametrize("page", OF_A_RUN)
    def test_a_run_that_grows(self, page: str, run: Run) -> None:
        for name in ("memorization.parquet", "summary.json", "coordinates-umap.npy", "neighbors.json"):
            (run.path / name).unlink()
        visit(page, run=run.key)

    def test_coming_from_a_run_that_can_do_more(self, run: Run, finished: Finished, copied: Copier) -> None:
        """What was open on the page of another run is not asked of this one."""
        other = copied(finished.digits)
        app = visit("memorized", run=other.key)
        assert app.session_state["memorized-part"] == "Act on suspects"
        app.query_params.update({"run": run.key})
        app.run()
        assert [found.message for found in app.exception] == []
        assert app.session_state["memorized-part"] == "Measure by retraining"
        app.switch_page("screens/laboratory.py")
        app.query_params.update({"run": other.key})
        app.run()
        app.query_params.update({"run": run.key})
        app.run()
        assert [found.message for found in app.exception] == []
        assert "Experiments on a run’s own examples are for pictures and tables" in text(app)


class TestMemorized:
    def test_nothing_that_changes_the_training_set_is_offered(self, run: Run, screen: Screen) -> None:
        app = visit("memorized", run=run.key)
        assert app.session_state["memorized-part"] == "Measure by retraining"
        shown_ = text(app)
        assert "another continuation than theirs" in shown_
        assert "suspect continuation" in shown_
        assert {"act-start", "clean-start", "subset-start"} & {button.key for button in app.button} == {"subset-start"}
        assert "✗ the model says" in plain(screen.html["memorized-gallery"])
        assert set(memorized.PARTS) - memorized.ACTING == {"Measure by retraining", "Groups", "Agreement of scores"}

    @pytest.mark.parametrize("part", ["Groups", "Agreement of scores"])
    def test_the_other_parts(self, part: str, run: Run) -> None:
        app = visit("memorized", run=run.key)
        app.session_state["memorized-part"] = part
        app.run()
        assert [found.message for found in app.exception] == []
        assert {"Groups": "flagged examples", "Agreement of scores": "What each score is"}[part] in text(app)

    def test_a_group_is_told_by_the_words_that_are_typical_of_it(self, run: Run) -> None:
        train = told(run, "train")
        rows = np.flatnonzero(train["continuation"].str.contains("alder"))[:6]
        group = clusters.Group(rows, Selection("pca", ((0, 0), (1, 0), (1, 1))), 6)
        said = [set(re.findall(r"\w+", f"{one} {other}".lower())) for one, other in train.itertuples(index=False)]
        words = clusters.typical(run, rows)
        assert len(words) == clusters.NAMED
        for word, count in words:
            assert count == sum(word in said[row] for row in rows)
            assert count / len(rows) - sum(word in one for one in said) / len(said) > clusters.TYPICAL
        wrong = int(run.table("outcomes-train")["wrong"][rows].sum())
        assert clusters.described(run, group).endswith(f"something else than was given of {wrong}.")

    def test_examples_are_grouped_by_what_the_model_says(self, run: Run) -> None:
        found = classes.grouped(run).set_index("model")
        wrong, flagged = run.table("outcomes-train")["wrong"], run.table("memorization")["memorized"]
        expected = {"says something else": wrong, "says what was given": ~wrong}
        assert found["n"].to_dict() == {name: int(rows.sum()) for name, rows in expected.items()}
        assert found["flagged"].to_dict() == {name: int((rows & flagged).sum()) for name, rows in expected.items()}

    def test_all_rows_can_be_kept_with_their_prompts(self, run: Run) -> None:
        table = classes.whole_table(run)
        assert table["prompt"].tolist() == told(run, "train")["prompt"].tolist()
        assert table["label"].tolist() == told(run, "train")["continuation"].tolist()

    def test_one_class_of_all_at_another_damping(self, run: Run) -> None:
        choice = thresholds.dampings(run)
        assert choice is not None
        found = thresholds.measured(run, thresholds.Thresholds(damping=choice[0][0]))
        own, _ = thresholds.at_damping(run, choice[0][0])
        deviation = np.abs(own - np.median(own))
        z = (own - np.median(own)) / (1.4826 * np.median(deviation))
        assert found.high.tolist() == (z > thresholds.Thresholds().own_z).tolist()


class TestSelection:
    def test_words_are_counted_and_labels_are_not_classes(self, run: Run) -> None:
        known, looks = facts.side(run, "train"), facts.looks(str(run.path), "train")
        assert set(known.categories) >= {facts.OUTCOME}
        assert not {facts.LABEL, facts.ANSWER} & set(known.categories)
        prompts = told(run, "train")["prompt"]
        assert looks.numbers["words of the prompt"].values.tolist() == [len(one.split()) for one in prompts]
        assert looks.numbers["words of the prompt"].values.max() > 300

    def test_a_word_that_only_the_selected_have_is_the_surest_claim(self, run: Run) -> None:
        train = told(run, "train")
        inside = train["continuation"].str.contains("river bank").to_numpy()
        everything = np.ones(texts.N_TRAIN + texts.N_TEST, dtype=np.bool_)
        selected = np.concatenate([inside, np.zeros(texts.N_TEST, dtype=np.bool_)])
        (found,) = special.special(run, special.Members(everything, selected, texts.N_TRAIN), None)
        words = [claim for claim in found.claims if claim.fact.startswith("has the word")]
        assert len(words) == special.OF_WORDS
        own = {f"has the word “{word}”" for word in texts.ENDINGS[1].split()} - {"has the word “the”"}
        others = {f"has the word “{word}”" for text in (texts.ENDINGS[0], texts.ENDINGS[2]) for word in text.split()}
        assert {claim.fact for claim in words} <= own | others
        for claim in words:
            word = claim.fact.removeprefix("has the word “").removesuffix("”")
            has = (
                (train["prompt"] + " " + train["continuation"])
                .str.lower()
                .str.split(r"\W+")
                .map(lambda told, word=word: word in told)
            )
            assert claim.inside == pytest.approx(has[inside].mean())
            assert claim.outside == pytest.approx(has[~inside].mean())

    def test_the_saved_rows_have_prompts(self, run: Run) -> None:
        everywhere = Selection("pca", ((-1.1, -1.1), (1.1, -1.1), (1.1, 1.1), (-1.1, 1.1)))
        found = special.members(run, everywhere, Filter(outcome="wrong"), None)
        table = special.table(run, found, None)
        assert special.by_class(run, found) == []
        both = {split: told(run, split)["prompt"] for split in ("train", "test")}
        assert table["prompt"].tolist() == [
            both[split][row] for split, row in zip(table["split"], table["row"], strict=True)
        ]
        assert len(table) == facets.counts(run).wrong_train + facets.counts(run).wrong_test


def test_the_table_in_python_says_the_same(run: Run) -> None:
    query = int(run.table("queries")["row"][0])
    table = shown.table(run, query, "label")
    assert list(table.columns[:7]) == ["row", "id", "influence", "exact", "share", "prompt", "label"]
    assert table["prompt"].tolist() == told(run, "train")["prompt"][table["row"]].tolist()
    assert table["label"].tolist() == told(run, "train")["continuation"][table["row"]].tolist()
    assert table["prediction"].tolist() == run.table("outcomes-train")["prediction"][table["row"]].tolist()


def test_labels_look_as_they_are_in_every_task(finished: Finished) -> None:
    assert shown.named(["a <b>", ""], META) == ["a <b>", ""]
    digits, line = Run.at(finished.digits).meta(), Run.at(finished.regression).meta()
    assert shown.named(np.array([3, 0]), digits) == [digits.classes[3], digits.classes[0]]
    assert shown.named([0.123456, -2.0], line) == ["0.1235", "-2"]


def test_planted_copies_are_told(run: Run) -> None:
    train = run.table("train")
    copies = np.where(train["row"] == 8, 5, -1)
    train.assign(true_label=train["label"], copy_of=copies).to_parquet(run.path / "train.parquet", index=False)
    assert answers.tile(run, 8, 0.1, 1.0).planted == "planted: copy"
    assert answers.tile(run, 7, 0.1, 1.0).planted == ""
    assert facts.side(run, "train").categories[facts.PLANTED].codes.tolist() == [
        1 if row == 8 else -1 for row in train["row"]
    ]
    assert thresholds.flipped(run) is None
    visit("memorized", run=run.key)


def test_the_drawer_of_an_example(run: Run) -> None:
    html = views.known(drawer.known(run, 3))
    for words in told(run, "train").iloc[3]:
        assert texts.HOSTILE in words
        assert words in plain(html)
    assert not Tags(html).named("img")
