"""Two methods of one subject in the panel: the numbers are those of the stored rows, every state says what to do, a point opens."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from explorer.contracts import Recipe, Target
from explorer.errors import RunError
from explorer.jobs.planning import Request
from explorer.store import Run
from explorer.store.run import block_name
from explorer.ui.parts import agreement, asked, likeness, methods
from explorer.ui.views import agreement as chart
from explorer.ui.views import methods as views
from explorer.ui.views.card import Trust
from explorer.ui.views.tiles import Item
from tests.conftest import compute
from tests.ui import chromium
from tests.ui.conftest import HOSTILE, Finished, hostile_table
from tests.ui.parts import Screen, buttons, nothing, page
from tests.ui.parts import screen as screen
from tests.ui.test_app import opened
from tests.ui.test_app import visit as browse
from tests.ui.test_pages import html, text, visit
from tests.ui.test_views import PICTURE, Tags

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ITEM = Item("train", 5, 5, HOSTILE, PICTURE, HOSTILE, HOSTILE, right=True, badges=(HOSTILE,))
ASKED = Item("test", 2, 12, HOSTILE, PICTURE, HOSTILE, HOSTILE, right=False)
TRUST = Trust("m", 0.5, 0.5, float("nan"), 1.0, "nats", "agree", 100)
HELPS = views.Place(0.5, 3, exact=True, clipped=False)
HURTS = views.Place(-0.25, 99, exact=True, clipped=False)
MIDDLE = views.Place(0.0, 50.5, exact=False, clipped=False)
BEYOND = views.Place(0.1, 22.4, exact=False, clipped=True)
FOUND = views.Query(
    a=views.Opinion("A", HOSTILE, HOSTILE, "nats", TRUST),
    b=views.Opinion("B", HOSTILE, HOSTILE, "nats", TRUST),
    agreement=-0.123,
    helpful=(7, 20),
    harmful=(3, 18),
    verdict="disagree",
    train=100,
    only_a=views.Group(((ITEM, HELPS, MIDDLE),), 9),
    opposite=views.Group(((ITEM, HELPS, HURTS),), 1),
    only_b=views.Group((), 0),
)
OVER = views.Overall(200, 10_000, (0.1, -0.2, 0.3), (0.25, 0.5, 0.75), 40, ((ASKED, float("nan"), 0.125),))
DRAWN = chart.Cloud(
    rows=np.array([4, 7, 9]),
    names=[HOSTILE, "b", "c"],
    influence=(np.array([4.0, -1.0, 0.0]), np.array([1.0, 0.25, -4.0])),
    percentile=(np.array([100.0, 0.0, 50.0]), np.array([100.0, 50.0, 0.0])),
    strong=((np.array([0, 1]), ["1", "1"]), (np.array([0, 2]), ["1", "1"])),
)


@pytest.fixture(scope="module")
def twins(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits by last-layer and by gradient-dot, and nothing else: read it, do not write to it."""
    root = tmp_path_factory.mktemp("methods")
    shutil.copytree(finished.digits, root / finished.digits.name)
    request = Request("digits", flip=0.08, duplicate=0.02, recipe=Recipe(epochs=3), queries=20)
    compute(root, replace(request, method="gradient-dot"))
    return root


@pytest.fixture(scope="module")
def run(finished: Finished, twins: Path) -> Run:
    return Run.at(twins / finished.digits.name)


@pytest.fixture(scope="module")
def other(run: Run, twins: Path) -> Run:
    return next(Run.at(path) for path in twins.iterdir() if path.name != run.key)


@pytest.fixture
def shown_folder(twins: Path, root: Path) -> Path:
    """Copies of both runs, where the pages look."""
    shutil.copytree(twins, root, dirs_exist_ok=True)
    return root


def both(run: Run, other: Run, query: int, target: Target = "label") -> tuple[methods.Said, methods.Said]:
    return tuple(methods.Said.of(asked.influence(one, query, target)) for one in (run, other))  # type: ignore[return-value]


def listed(run: Run, query: int, target: Target = "label", count: int = 20) -> tuple[set[int], set[int]]:
    top = run.top(query, target)
    assert top is not None
    up, down = ({int(row) for row in side[:count] if row >= 0} for side in (top.towards, top.away))
    return up, down


def variant(run: Run, name: str, **change: Any) -> Run:
    """A copy of a run beside it, with parts of its spec changed."""
    path = run.path.parent / name
    shutil.copytree(run.path, path)
    (path / "spec.json").write_text(json.dumps({**run.spec, **change}))
    return Run.at(path)


class TestView:
    def test_markup_stays_text_and_tiles_can_be_clicked(self) -> None:
        made = views.query(FOUND) + views.differences(FOUND) + views.overall(OVER)
        assert HOSTILE not in made
        tags = Tags(made)
        assert buttons(tags, "inspect") == [5, 5]
        assert buttons(tags, "query") == [2]

    def test_numbers_stand_beside_the_sentence(self) -> None:
        made = views.query(FOUND)
        assert "point to different examples" in made
        assert "Rank agreement −0.12 over all 100" in made
        assert "7 of A’s 20 most helpful and 3 of its 18 most harmful are among B’s (20 % expected by chance)" in made
        assert "both in nats" in made
        dot = replace(FOUND.b, unit="products")
        assert "A in nats, B in products: only ranks compare" in views.query(replace(FOUND, b=dot))
        assert made.count("Two methods point to the same strongest examples.") == 2

    def test_places_say_rank_sign_and_what_is_not_exact(self) -> None:
        made = views.differences(replace(FOUND, only_b=views.Group(((ITEM, BEYOND, HELPS),), 4)))
        words = re.sub(r"<[^>]+>", " ", made)
        assert "1 of 9 strong in A, not in B" in words
        assert "3rd most helpful" in words
        assert "2nd most harmful" in words
        assert "about 50th of 100" in words
        assert "about 22nd most helpful" in words
        assert "+0.1 or more" in words

    @pytest.mark.parametrize(
        ("rank", "words"), [(1, "1st"), (2.4, "2nd"), (11, "11th"), (113, "113th"), (1023, "1,023rd")]
    )
    def test_ranks_in_words(self, rank: float, words: str) -> None:
        assert views.ordinal(rank) == words

    def test_a_sample_says_its_size(self) -> None:
        made = views.overall(OVER)
        assert "200 of 10,000 predictions that both runs hold, drawn at random" in made
        assert "−0.20 in the median (half lie within +0.10 to +0.30)" in made
        assert "of A’s 40 strongest 50 % are among B’s (25 % to 75 %)" in made
        assert "undefined" in made
        assert "12.5 % shared" in made
        assert "Over all 200 predictions" in views.overall(replace(OVER, held=200))
        assert "No prediction is computed in both" in views.overall(replace(OVER, looked=0, held=0))


class TestChart:
    def test_equal_shares_lie_on_the_line_and_signs_stay(self) -> None:
        points = chart.figure(DRAWN, ("a", "b"), by_rank=False).data[0]
        assert points.x.tolist() == [1.0, -0.5, 0.0]
        assert points.y.tolist() == [0.5, 0.25, -1.0]
        ranked = chart.figure(DRAWN, ("a", "b"), by_rank=True).data[0]
        assert (ranked.x.tolist(), ranked.y.tolist()) == ([100, 0, 50], [100, 50, 0])

    def test_the_strongest_of_each_are_marked_with_their_rows_and_numbers(self) -> None:
        _, a, b = chart.figure(DRAWN, (HOSTILE, "b"), by_rank=False).data
        assert (a.customdata.tolist(), b.customdata.tolist()) == ([4, 7], [4, 9])
        assert a.text == ("1", "1")
        assert a.marker.symbol != b.marker.symbol
        assert HOSTILE not in a.name + "".join(a.hovertext)

    @pytest.mark.parametrize(
        ("points", "row"), [([], None), ([{"customdata": [7]}], 7), ([{"customdata": 7}], 7), ([{}], None)]
    )
    def test_a_click_names_its_row(self, points: list[Any], row: int | None) -> None:
        assert chart.picked({"selection": {"points": points}}) == row


class TestCompared:
    def test_agreement_and_overlap_are_those_of_the_stored_rows_and_lists(self, run: Run, other: Run) -> None:
        for query in run.plan("label")[:5].tolist():
            found = methods.compared(run, other, query, "label", *both(run, other, query))
            rows = [one.row(query, "label") for one in (run, other)]
            expected = stats.spearmanr(*(row.values.astype(int) for row in rows if row is not None)).statistic
            assert found.agreement == pytest.approx(expected)
            (up, down), (theirs_up, theirs_down) = listed(run, query), listed(other, query)
            assert found.helpful == (len(up & theirs_up), len(up))
            assert found.harmful == (len(down & theirs_down), len(down))
            share = (len(up & theirs_up) + len(down & theirs_down)) / (len(up) + len(down))
            assert found.verdict == ("agree" if share >= 0.5 and expected > 0 else "disagree")

    def test_the_job_that_compared_with_this_method_itself_counted_the_same(self, run: Run, other: Run) -> None:
        assert other.spec["method"]["name"] == "gradient-dot"  # the second method of last-layer's own trust line
        for query in run.plan("label").tolist():
            top, few = run.top(query, "label"), [listed(one, query, count=10) for one in (run, other)]
            assert top is not None
            shared = sum(len(mine & theirs) for mine, theirs in zip(*few, strict=True))
            assert shared == round(20 * top.overlap)

    def test_groups_are_disjoint_and_hold_who_they_say(self, run: Run, other: Run) -> None:
        query = int(run.plan("label")[0])
        a, b = both(run, other, query)
        found = methods.compared(run, other, query, "label", a, b)
        mine, theirs = (set.union(*listed(one, query)) for one in (run, other))
        assert found.only_a.total == len(mine - theirs)
        assert found.only_b.total == len(theirs - mine)
        assert found.opposite.total == sum(a.values[row] * b.values[row] < 0 for row in mine & theirs)
        assert {item.row for item, _, _ in found.only_a.shown} <= mine - theirs
        gaps = [abs(x.rank - y.rank) for _, x, y in found.only_b.shown]
        assert gaps == sorted(gaps, reverse=True)
        for item, x, y in (*found.only_a.shown, *found.opposite.shown, *found.only_b.shown):
            assert (x.influence, y.influence) == (a.values[item.row], b.values[item.row])
            assert x.rank == pytest.approx(stats.rankdata(-a.values)[item.row])

    def test_a_method_agrees_with_itself(self, run: Run) -> None:
        query = int(run.plan("label")[0])
        a, _ = both(run, run, query)
        found = methods.compared(run, run, query, "label", a, a)
        assert found.agreement == pytest.approx(1)
        assert found.verdict == "agree"
        assert found.helpful[0] == found.helpful[1] > 0
        assert (found.only_a.total, found.opposite.total, found.only_b.total) == (0, 0, 0)

    def test_all_that_fits_is_drawn_and_of_more_the_strongest_stay(
        self, run: Run, other: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        query = int(run.plan("label")[0])
        said = both(run, other, query)
        assert methods.cloud(run, *said).rows.tolist() == list(range(run.meta().train))
        monkeypatch.setattr(methods, "DRAWN", 300)
        drawn = methods.cloud(run, *said)
        assert len(drawn.rows) == 300
        assert {*said[0].exact, *said[1].exact} <= set(drawn.rows.tolist())
        for (at, numbers), one in zip(drawn.strong, (run, other), strict=True):
            up, down = listed(one, query, count=10)
            assert set(drawn.rows[at].tolist()) == up | down
            assert numbers == [str(k + 1) for side in (up, down) for k in range(len(side))]


class TestOverPredictions:
    @pytest.mark.parametrize("target", ["label", "prediction"])
    def test_every_prediction_has_the_numbers_of_its_rows_and_lists(self, run: Run, other: Run, target: Target) -> None:
        found = agreement.agreement(run, other, target)
        assert found.rows.tolist() == sorted(run.plan("label").tolist())
        assert found.held == 20
        for query, ranks, share in zip(found.rows.tolist(), found.ranks, found.shared, strict=True):
            rows = [one.row(query, target) for one in (run, other)]
            assert ranks == pytest.approx(
                stats.spearmanr(*(row.values.astype(int) for row in rows if row is not None)).statistic
            )
            mine, theirs = (listed(one, query, target) for one in (run, other))
            same = sum(len(x & y) for x, y in zip(mine, theirs, strict=True))
            assert share == pytest.approx(same / sum(map(len, mine)))

    def test_of_many_a_sample_is_compared_in_pieces_of_any_size(
        self, run: Run, other: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, train = agreement.agreement(run, other, "label"), run.meta().train
        monkeypatch.setattr(agreement, "LEVELS", 7 * train)
        monkeypatch.setattr(agreement, "FEWEST", 3)
        monkeypatch.setattr(agreement, "HELD", 2 * train)
        agreement._agreement.cache_clear()
        some = agreement.agreement(run, other, "label")
        assert (len(some.rows), some.held) == (7, 20)
        at = np.searchsorted(whole.rows, some.rows)
        np.testing.assert_array_equal(some.ranks, whole.ranks[at])
        np.testing.assert_array_equal(some.shared, whole.shared[at])
        agreement._agreement.cache_clear()

    def test_it_is_computed_once_and_again_when_there_is_more(
        self, run: Run, other: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(run.path.parent, tmp_path, dirs_exist_ok=True)
        a, b = Run.at(tmp_path / run.key), Run.at(tmp_path / other.key)
        late = [b.path / block_name(target, 0) for target in ("label", "prediction")]
        for file in late:
            file.rename(file.with_suffix(".away"))
        assert agreement.agreement(a, b, "label").held == 0
        for file in late:
            file.with_suffix(".away").rename(file)
        assert agreement.agreement(a, b, "label").held == 20
        monkeypatch.setattr(likeness, "spearman", lambda *_: pytest.fail("computed again"))
        assert agreement.agreement(a, b, "label").held == 20

    def test_fewest_shared_first(self) -> None:
        ranks, shared = np.array([0.5, np.nan, 0.1, 0.9]), np.array([0.2, 0.2, 0.2, 0.1])
        found = agreement.Agreement(np.arange(4), 4, ranks, shared)
        assert found.most_different(3).tolist() == [3, 1, 2]


class TestPart:
    def test_alone_it_says_how_to_make_another(self, finished: Finished, tmp_path: Path) -> None:
        shutil.copytree(finished.digits, tmp_path / "alone0000001")
        run = Run.at(tmp_path / "alone0000001")
        app = page(lambda: methods.show(run, None, 0, "label", nothing, nothing, nothing))
        assert "No other run here" in app.info[0].value
        assert app.code[0].value.startswith("explorer run --data digits --flip 0.08 --duplicate 0.02 --method ")
        assert app.code[0].value.endswith(f"--epochs 3 --queries 20 --runs {tmp_path}")
        memory = variant(run, "memory000001", source={"kind": "memory"}, model={"kind": "memory", "subject": "s"})
        app = page(lambda: methods.show(memory, None, 0, "label", nothing, nothing, nothing))
        assert app.code[0].value.startswith("explorer.show(model, train, test, method=")

    def test_both_answers_and_the_predictions_are_on_the_page(self, run: Run, other: Run, screen: Screen) -> None:
        query = int(run.plan("label")[0])
        app = page(lambda: methods.show(run, None, query, "label", nothing, nothing, nothing))
        said = html(app)
        assert "A · last-layer against its own second method" in said
        assert "B · gradient-dot against its own second method" in said
        assert "only ranks compare" in said
        assert buttons(screen.tags("methods-tiles"), "inspect")
        worst = agreement.agreement(run, other, "label")
        expected = worst.rows[worst.most_different(10)].tolist()
        assert buttons(screen.tags("methods-overall"), "query") == expected
        name = str(run.table("queries")["id"][0])
        assert app.code[0].value == f"import explorer; explorer.compare_methods({run.key!r}, {other.key!r}, {name!r})"

    def test_the_picker_names_settings_and_hands_the_choice_on(
        self, run: Run, other: Run, tmp_path: Path, screen: Screen
    ) -> None:
        shutil.copytree(run.path.parent, tmp_path, dirs_exist_ok=True)
        mine = Run.at(tmp_path / run.key)
        damped = variant(mine, "damped000001", method={"name": "last-layer", "settings": {"damping": 0.5}})
        heard: list[str] = []
        query = int(run.plan("label")[0])
        app = page(lambda: methods.show(mine, other.key, query, "label", nothing, nothing, heard.append))
        (picker,) = app.selectbox
        assert picker.value == other.key
        assert set(picker.options) == {f"last-layer (damping 0.5) · {damped.key}", f"gradient-dot · {other.key}"}
        picker.set_value(damped.key).run()
        assert heard == [damped.key]
        gone = page(lambda: methods.show(mine, "nothing", query, "label", nothing, nothing, nothing))
        assert gone.selectbox[0].value == damped.key  # the newest

    def test_a_run_without_an_answer_yet_says_so(self, run: Run, other: Run, tmp_path: Path, screen: Screen) -> None:
        shutil.copytree(run.path.parent, tmp_path, dirs_exist_ok=True)
        (tmp_path / other.key / "fitted.json").unlink()
        state = tmp_path / other.key / "state.json"
        state.write_text(json.dumps({**json.loads(state.read_text()), "state": "cancelled"}))
        mine = Run.at(tmp_path / run.key)
        app = page(lambda: methods.show(mine, None, 0, "label", nothing, nothing, nothing))
        assert f"explorer resume {other.key}" in app.info[0].value
        assert screen.html == {}

    def test_a_prediction_that_one_run_lacks_says_why_and_leaves_the_rest(
        self, run: Run, screen: Screen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise RunError("Expected an answer; found *none*.")

        monkeypatch.setattr("explorer.ui.load.top", refuse)
        late = int(run.table("queries")["row"].iloc[-1])
        app = page(lambda: methods.show(run, None, late, "label", nothing, nothing, nothing))
        assert app.warning[0].value == "Expected an answer; found \\*none\\*."
        assert set(screen.html) == {"methods-overall"}


class TestOnThePage:
    def test_the_link_names_the_other_run_and_a_wrong_one_is_said(
        self, shown_folder: Path, run: Run, other: Run
    ) -> None:
        app = visit("explore", run=run.key, part="Methods", against=other.key)
        assert app.session_state["against"] == other.key
        assert app.query_params["against"] in (other.key, [other.key])
        assert app.selectbox(key=f"methods-against-{run.key}").value == other.key
        wrong = visit("explore", run=run.key, part="Methods", against="nobody*")
        assert "No run 'nobody\\*' here" in text(wrong)
        assert "against" not in wrong.query_params
        assert wrong.session_state["against"] is None

    def test_a_chosen_run_is_put_into_the_address(self, shown_folder: Path, run: Run, other: Run) -> None:
        damped = variant(
            Run.at(shown_folder / run.key), "damped000001", method={"name": "last-layer", "settings": {"damping": 0.5}}
        )
        app = visit("explore", run=run.key, part="Methods")
        assert "against" not in app.query_params
        picker = app.selectbox(key=f"methods-against-{run.key}")
        assert picker.value == damped.key
        picker.set_value(other.key).run()
        assert app.query_params["against"] in (other.key, [other.key])
        assert [found.message for found in app.exception] == []

    def test_hostile_names_and_small_data_stay_on_the_page(self, root: Path) -> None:
        request = Request(str(hostile_table(root / "hostile.npz")), flip=0.1, recipe=Recipe(epochs=3))
        for method in ("last-layer", "gradient-dot"):
            key = compute(root, replace(request, method=method)).key
        assert "Two methods on this prediction" in html(visit("explore", run=key, part="Methods"))

    def test_a_regression_alone_is_told_how(self, finished: Finished, root: Path) -> None:
        shutil.copytree(finished.regression, root / "line00000001")
        assert "No other run here" in text(visit("explore", run="line00000001", part="Methods"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.open_browser() as one:
        yield one


POINT = """() => {
  const chart = document.querySelector(".js-plotly-plot"), layout = chart._fullLayout, at = chart.getBoundingClientRect();
  const { x, y } = chart.calcdata[1][0];
  return [at.x + layout._size.l + layout.xaxis.d2p(x), at.y + layout._size.t + layout.yaxis.d2p(y)];
}"""


def hover(page: Page) -> None:
    """Move the mouse onto A's first example until its hover text is there: Plotly takes clicks on what it hovers."""
    page.locator(".js-plotly-plot").scroll_into_view_if_needed()
    before: list[float] = []
    for _ in range(100):
        page.wait_for_timeout(200)
        x, y = page.evaluate(POINT)
        if before == [x, y]:  # what is above has come, and nothing moves any more
            page.mouse.move(x + 5, y)
            page.mouse.move(x, y)
            page.wait_for_timeout(200)
            if "percentile" in (page.locator(".hoverlayer").text_content() or ""):
                return
        before = [x, y]
    raise AssertionError("no hover text")


@pytest.mark.browser
@pytest.mark.slow
def test_a_point_opens_its_example_which_closes_for_good_and_a_prediction_is_selected(
    browser: Browser, run: Run, other: Run
) -> None:
    with opened(run, chromium.free_port()) as url, browse(browser, f"{url}&part=Methods") as page:
        page.wait_for_selector(".js-plotly-plot .scatterlayer")
        page.wait_for_selector(".ix-card")
        page.wait_for_selector("section[aria-label='Two methods over predictions']")
        hover(page)
        page.mouse.down()
        page.mouse.up()
        page.get_by_role("dialog").wait_for()
        top = run.top(int(run.plan("label")[0]), "label")
        assert top is not None
        page.wait_for_function(
            "id => new URL(location).searchParams.get('row') === id", arg=str(run.table("train")["id"][top.towards[0]])
        )
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="detached")
        page.wait_for_timeout(1000)
        assert page.get_by_role("dialog").count() == 0
        tile = page.locator("section[aria-label='Two methods over predictions'] [data-query]").last
        row = int(tile.get_attribute("data-query") or -1)
        name = str(run.table("test")["id"][row])
        tile.click()
        page.wait_for_function("id => new URL(location).searchParams.get('query') === id", arg=name)
        page.get_by_text(f"{other.key}', '{name}'").first.wait_for()
