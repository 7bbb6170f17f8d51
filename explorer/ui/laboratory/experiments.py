"""The experiments of a run on the page: which there are, how far they are, and what the chosen one found.

Reads what the job wrote; `form` asks for new ones.
"""

from __future__ import annotations

import streamlit as st

from explorer.jobs import laboratory
from explorer.jobs.laboratory import Asked, Experiment
from explorer.store import Run
from explorer.ui import begin
from explorer.ui.laboratory import form, found, link, matrix
from explorer.ui.views import lab_score
from explorer.ui.views.words import as_markdown, safe

FAILED = 5
"""Lessons that failed which are named."""


def show(run: Run) -> None:
    """The form, and the experiments."""
    there = laboratory.listed(run)
    with st.expander("A new experiment", expanded=not there, icon=":material/science:"):
        form.show(run)
    begin.stopped(run, laboratory.pending(run))
    begin.watched(run, "experiments", lambda: _experiments(run))


def _experiments(run: Run) -> None:
    there = laboratory.listed(run)
    if not there:
        link.write(run)
        st.markdown(
            "Nothing was taught yet. An experiment fine-tunes the model on one sample at a time, each time from the same "
            "weights, and measures what that changes for every other sample."
        )
        return
    chosen = there[0]
    if len(there) > 1:
        names = {one.key: title(one) for one in there}
        key = st.selectbox(
            "Experiment",
            list(names),
            index=link.place(list(names)),
            key=f"lab-experiment-{run.key}-{len(there)}",
            format_func=lambda key: names[key],
        )
        chosen = next(one for one in there if one.key == key)
    link.write(run, experiment="" if chosen is there[0] else chosen.key)
    _experiment(run, chosen)


def _experiment(run: Run, one: Experiment) -> None:
    if one.left_out:
        st.warning(as_markdown(one.left_out))
        return
    held = found.matrices(one)
    if held is None:
        done = len(list(one.folder.glob("part-*.safetensors")))
        st.html(
            f'<p class="ix-note">{safe(title(one))}: '
            f"{'its lessons are being taught' if done else 'it has not begun'}. The matrix comes first, then the scorecard.</p>"
        )
        return
    failed = one.found["failed"] if one.found else {}
    if one.found is not None:
        _headline(one)
    matrix.show(run, one.key, held, failed)
    if one.found is None:
        st.html('<p class="ix-note">The scorecard comes when the samples were taught with noise as well.</p>')
        return
    st.html(f'<div class="ix-scroll">{lab_score.card(found.scores(one.found))}</div>')
    _missing(one)


def _headline(one: Experiment) -> None:
    """Settings, and the badge."""
    assert one.found is not None
    told = one.found
    regime = found.regime(told)
    before, after = told["own_loss"]
    own = "" if before is None else f" · own loss {before:.3g} → {after:.3g} (mean)"
    words = f"{told['samples']:,} samples, {told['probes']:,} probes · {told['words']} · {told['dtype']}{own}"
    st.html((lab_score.badge(regime) if regime else "") + f'<p class="ix-drawer-line">{safe(words)}</p>')
    failed = told["failed"]
    if failed:
        some = "; ".join(f"{name}: {why}" for name, why in list(failed.items())[:FAILED])
        more = f"; and {len(failed) - FAILED:,} more" if len(failed) > FAILED else ""
        st.warning(
            f"{len(failed):,} lesson{'s' if len(failed) > 1 else ''} failed, the rest went on. {as_markdown(some)}{more}"
        )
    share = told["unresolved"]
    if share is not None and share > 0.01:
        st.caption(
            f"{share:.0%} of the effects are smaller than rounding ({told['resolution']:.1g}); float64 resolves more."
        )


def _missing(one: Experiment) -> None:
    assert one.found is not None
    lines = "".join(f"<li>{safe(name)}: {safe(why)}</li>" for name, why in one.found["missing"].items())
    if lines:
        st.html(f'<p class="ix-quiet">Not measured here:</p><ul class="ix-missing">{lines}</ul>')


def title(one: Experiment) -> str:
    """An experiment in a line: its settings as they came out, else as they were asked for."""
    asked = one.asked
    probes = "" if asked.probes is None else f" on {len(asked.probes):,} test examples"
    return f"{len(asked.samples):,} samples{probes} · {words(one.found['words'] if one.found else '', asked)}"


def words(told: str, asked: Asked) -> str:
    """The settings in words."""
    if told:
        return told
    rate = "rate to be searched" if asked.rate is None else f"rate {asked.rate:g}"
    return f"{asked.teaching.words}, {rate}"
