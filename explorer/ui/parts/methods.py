"""The panel's part "Methods": the same model and data explained by another method, and where the two differ.

A is the run on screen, B another run of its subject. Reads what both jobs stored; computes ranks of it, no influence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from explorer import fidelity
from explorer.contracts import Target
from explorer.errors import RunError
from explorer.shown import again
from explorer.shown.filters import LEVELS
from explorer.shown.methods import TOP
from explorer.store import Run, same_subject
from explorer.ui import answers, load, scatter
from explorer.ui.parts import agreement, asked, items, likeness
from explorer.ui.parts.asked import Influence
from explorer.ui.parts.special import Influences
from explorer.ui.views import agreement as chart
from explorer.ui.views import methods as views
from explorer.ui.views.words import as_markdown

DIFFER = 6
"""Training examples shown that are strong in A only, in B only, and in both with opposite signs."""
WORST = 10
"""Predictions shown on which the methods differ most."""
DRAWN = 3000
"""Points in the picture: SVG stays quick up to here."""
NUMBERED = 10
"""Strongest examples of each sign that are marked in the picture, with their numbers in the galleries."""
SUGGESTED = ("ekfac", "last-layer")
"""Methods to make a second run with: the first that is not the run's own."""
BY_INFLUENCE, BY_RANK = "Influence", "Percentile of rank"
TURN = "methods-turn"
"""Session key of how often a point was opened: a new chart has none selected, so that a closed drawer stays closed."""
Pick = Callable[[int, Target], None]
Inspect = Callable[[int], None]


def show(
    run: Run,
    against: str | None,
    query: int,
    target: Target,
    on_pick: Pick,
    on_inspect: Inspect,
    on_oppose: Callable[[str], None],
) -> None:
    """The picker of the other run (`against`, or the newest), both answers to the query, and agreement over predictions."""
    others = same_subject(run)
    if not others:
        _alone(run)
        return
    other = _picked(run, others, against, on_oppose)
    if not other.browsable:
        st.info(_unfinished(other))
        return
    try:
        both = asked.influence(run, query, target), asked.influence(other, query, target)
    except RunError as error:
        st.warning(as_markdown(error))
    else:
        said = Said.of(both[0]), Said.of(both[1])
        found = compared(run, other, query, target, *said)
        st.html(views.query(found))
        _picture(run, other, query, target, said, on_inspect)
        html = views.differences(found)
        scatter.show_tiles(html, run=run.key, key="methods-tiles", on_pick=on_pick, on_inspect=on_inspect)
    with st.spinner("Comparing predictions; this is done once for two runs."):
        html = views.overall(over_predictions(run, other, target))
    scatter.show_tiles(html, run=run.key, key="methods-overall", on_pick=on_pick, on_inspect=on_inspect)
    st.caption("Every training example with both influences and ranks, in Python:")
    st.code(_line(run, other, query, target), language="python", wrap_lines=True)


def named(run: Run) -> str:
    """A run's method, with the settings that were given."""
    method = run.spec["method"]
    given = ", ".join(f"{name} {value}" for name, value in method.get("settings", {}).items())
    return f"{method['name']} ({given})" if given else str(method["name"])


@dataclass(frozen=True)
class Said:
    """What one method says: the answer as stored, and of all training examples `[n]` influence and rank.

    Influence is exact for the strongest, whose rows are in `exact`, and else in steps of 1/127 of the row's scale.
    """

    answer: Influence
    exact: Mapping[int, float]
    values: NDArray[np.float64]
    ranks: NDArray[np.float64]

    @classmethod
    def of(cls, answer: Influence) -> Self:
        """From an answer."""
        stored = Influences(answer.row, likeness.influences(answer.top))
        values = stored.of(np.arange(len(answer.row.values), dtype=np.int64))
        return cls(answer, stored.exact, values, fidelity.ranks(values))

    def place(self, row: int) -> views.Place:
        """Where it puts a training row."""
        known = row in self.exact
        clipped = not known and abs(int(self.answer.row.values[row])) == LEVELS
        return views.Place(float(self.values[row]), float(self.ranks[row]), known, clipped)


def compared(run: Run, other: Run, query: int, target: Target, a: Said, b: Said) -> views.Query:
    """Both answers to a query in plain data."""
    one, two = a.answer, b.answer
    helpful, harmful = _shared(one.top.towards, two.top.towards), _shared(one.top.away, two.top.away)
    share = (helpful[0] + harmful[0]) / max(1, helpful[1] + harmful[1])
    ranks = likeness.spearman(one.row.values, two.row.values)
    return views.Query(
        a=_opinion("A", run, query, target, one),
        b=_opinion("B", other, query, target, two),
        agreement=ranks,
        helpful=helpful,
        harmful=harmful,
        verdict=fidelity.verdict(ranks, share, noise=0.0, largest=1.0),
        train=len(a.values),
        **_groups(run, a, b),
    )


def cloud(run: Run, a: Said, b: Said) -> chart.Cloud:
    """What is drawn: all training examples if they fit, else the strongest of both methods and a seeded sample."""
    kept = np.array(sorted({*a.exact, *b.exact}), dtype=np.int64)
    others = np.ones(len(a.values), dtype=np.bool_)
    others[kept] = False
    rest = np.random.default_rng(0).permutation(np.flatnonzero(others))[: max(0, DRAWN - len(kept))]
    rows = np.sort(np.concatenate([kept, rest]))
    names = dict(zip(kept.tolist(), load.train_columns(run).ids.at(kept.tolist()), strict=True))
    last = max(1, len(a.values) - 1)
    return chart.Cloud(
        rows=rows,
        names=[names.get(row, f"row {row:,}") for row in rows.tolist()],
        influence=(a.values[rows], b.values[rows]),
        percentile=(100 * (1 - (a.ranks[rows] - 1) / last), 100 * (1 - (b.ranks[rows] - 1) / last)),
        strong=(_strong(rows, a.answer), _strong(rows, b.answer)),
    )


def over_predictions(run: Run, other: Run, target: Target) -> views.Overall:
    """How the methods agree over the predictions that both runs hold for a target, and where they differ most."""
    found = agreement.agreement(run, other, target)
    at = found.most_different(WORST)
    shown = items.predictions(run, found.rows[at].tolist())
    return views.Overall(
        looked=len(found.rows),
        held=found.held,
        agreement=_quartiles(found.ranks),
        shared=_quartiles(found.shared),
        listed=2 * TOP,
        worst=tuple(
            (item, float(ranks), float(share))
            for (item, _), ranks, share in zip(shown, found.ranks[at], found.shared[at], strict=True)
        ),
    )


def _picked(run: Run, others: Sequence[Run], against: str | None, on_oppose: Callable[[str], None]) -> Run:
    """The picker; the run that is compared with."""
    by_key = {other.key: other for other in others}
    chosen = by_key.get(against or "", others[0])
    key = f"methods-against-{run.key}"
    st.session_state[key] = chosen.key
    st.selectbox(
        f"A is {as_markdown(named(run))}, this run. B, the same model and data by another method:",
        list(by_key),
        key=key,
        format_func=lambda name: f"{named(by_key[name])} · {name}",
        on_change=lambda: on_oppose(st.session_state[key]),
    )
    return chosen


def _picture(run: Run, other: Run, query: int, target: Target, both: tuple[Said, Said], on_inspect: Inspect) -> None:
    axes = st.segmented_control(
        "Axes", (BY_INFLUENCE, BY_RANK), default=BY_INFLUENCE, key="methods-axes", required=True
    )
    drawn, turn = cloud(run, *both), st.session_state.setdefault(TURN, 0)
    train = load.meta(run).train

    def clicked(row: int) -> None:
        st.session_state[TURN] = turn + 1
        if 0 <= row < train:
            on_inspect(row)

    chart.show(
        drawn,
        (named(run), named(other)),
        by_rank=axes == BY_RANK,
        alt=f"Influence of {len(drawn.rows):,} training examples by both methods; where they differ most is listed below",
        key=f"methods-{run.key}-{other.key}-{query}-{target}-{axes}-{turn}",
        on_click=clicked,
    )
    some = "" if len(drawn.rows) == train else ", with the strongest of both methods"
    scale = "" if axes == BY_RANK else " Axes are stretched: equal steps are equal steps of the square root."
    st.caption(
        f"{len(drawn.rows):,} of {train:,} training examples shown{some}. On the dotted line both methods say the same. "
        f"Numbers are those of each method’s galleries.{scale} Click a point to open the example."
    )


def _opinion(mark: str, run: Run, query: int, target: Target, found: Influence) -> views.Opinion:
    trust = answers.trust(run, query, target, found.top)
    return views.Opinion(mark, named(run), run.key, answers.unit(run, target), trust)


def _groups(run: Run, a: Said, b: Said) -> dict[str, views.Group]:
    """Examples strong in one method only, and those strong in both with opposite signs; farthest apart first."""
    in_a, in_b = (fidelity.misplaced(x.values, y.values, TOP) for x, y in ((a, b), (b, a)))
    both = in_a[np.isin(in_a, in_b)]
    parts = {
        "only_a": in_a[~np.isin(in_a, in_b)],
        "opposite": both[a.values[both] * b.values[both] < 0],
        "only_b": in_b[~np.isin(in_b, in_a)],
    }
    groups = {}
    for name, rows in parts.items():
        shown = rows[:DIFFER].tolist()
        told = zip(items.training(run, shown), shown, strict=True)
        groups[name] = views.Group(tuple((item, a.place(row), b.place(row)) for item, row in told), len(rows))
    return groups


def _strong(rows: NDArray[np.int64], found: Influence) -> tuple[NDArray[np.int64], list[str]]:
    """Where the numbered examples are among the drawn rows, and their numbers."""
    sides = [side[:NUMBERED][side[:NUMBERED] >= 0] for side in (found.top.towards, found.top.away)]
    numbers = [str(number) for side in sides for number in range(1, len(side) + 1)]
    return np.searchsorted(rows, np.concatenate(sides)), numbers


def _shared(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> tuple[int, int]:
    """How many of the `TOP` strongest of one sign are shared, and of how many."""
    mine, other = (side[:TOP][side[:TOP] >= 0] for side in (ours, theirs))
    return int(np.isin(mine, other).sum()), len(mine)


def _quartiles(values: NDArray[np.float64]) -> tuple[float, float, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan"), float("nan")
    low, middle, high = np.quantile(known, (0.25, 0.5, 0.75)).tolist()
    return low, middle, high


def _alone(run: Run) -> None:
    st.info(
        "No other run here explains the same model and data by another method. Two methods that point to the same "
        "examples are better evidence than one."
    )
    method = next(name for name in SUGGESTED if name != run.spec["method"]["name"])
    line = again(run, method)
    if line is not None:
        st.markdown("Make one in a terminal, then come back to this page:")
        st.code(line, language="bash", wrap_lines=True)
        return
    st.markdown(
        "This run was made from objects or settings that no command can name. Call `explorer.show` again with the same model, "
        f"data and weight decay, and another `method`, into the folder `{run.path.parent}`:"
    )
    st.code(
        f'explorer.show(model, train, test, method="{method}", runs={str(run.path.parent)!r})',
        language="python",
        wrap_lines=True,
    )


def _unfinished(other: Run) -> str:
    job = load.state(other)
    if job.active:
        return (
            f"{as_markdown(named(other))} is still being computed; the comparison appears here with its first answers."
        )
    return (
        f"Run {other.key} ({as_markdown(named(other))}) is {job.state} before its first answer. Go on with "
        f"`explorer resume {other.key}`, or choose another run."
    )


def _line(run: Run, other: Run, query: int, target: Target) -> str:
    name = str(answers.query_row(run, query)["id"])
    asked_of = "" if target == "label" else f", target={target!r}"
    return f"import explorer; explorer.compare_methods({run.key!r}, {other.key!r}, {name!r}{asked_of})"
