"""What shall be run, and what will it cost? The fields of a run and its price, from plain data to plain choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from explorer.ui.views.words import as_markdown, duration, safe

PATH = "a path on the server …"
MEGA, GIGA = 1e6, 1e9


def data(names: Sequence[str], *, key: str) -> str:
    """A built-in data set, or the path of a file."""
    chosen = st.selectbox("Data", [*names, PATH], key=f"{key}-data")
    if chosen != PATH:
        return str(chosen)
    help_ = (
        "A file that the server can read: .npz with x_train, y_train, x_test and y_test, or .jsonl with texts, a line an example. "
        "It is read as data, never run."
    )
    return (
        st.text_input("Path of an .npz or .jsonl file", key=f"{key}-path", placeholder="/data/mine.npz", help=help_)
        or ""
    )


def faults(*, key: str) -> tuple[str, str]:
    """Shares of labels to flip and of rows to repeat."""
    flip = st.text_input(
        "Labels to flip", "0", key=f"{key}-flip", help="Share of training labels set wrong on purpose."
    )
    copies = st.text_input("Rows to repeat", "0", key=f"{key}-copies", help="Share of training rows that come twice.")
    return flip or "0", copies or "0"


def method(described: Sequence[Mapping[str, Any]], *, key: str, usual: str | None = None) -> Mapping[str, Any]:
    """One of the methods, and what it answers; chosen at first is the `usual` one, or the first of all."""
    by_name = {str(one["name"]): one for one in described}
    names = list(by_name)
    own = (
        f"{key}-method" if usual not in by_name else f"{key}-method-{usual}"
    )  # a choice of one's own stays with its kind of data
    name = st.selectbox("Method", names, names.index(usual) if usual in by_name else 0, key=own)
    return by_name[str(name)]


def about(chosen: Mapping[str, Any]) -> str:
    """What a method answers, and what it leaves out."""
    return f'<p class="ix-note">{safe(chosen["question"])} <span class="ix-quiet">{safe(chosen["limits"])}</span></p>'


def settings(chosen: Mapping[str, Any], *, key: str) -> dict[str, str]:
    """The settings that were given a value; each shows its default, and its help says what it does."""
    found: dict[str, str] = {}
    fields: Sequence[Mapping[str, Any]] = chosen["settings"]
    columns = st.columns(3) if fields else []
    for number, one in enumerate(fields):
        with columns[number % 3]:
            value = _setting(one, f"{key}-{chosen['name']}-{one['name']}")
        if value and value != one["default"]:
            found[str(one["name"])] = value
    return found


def _setting(one: Mapping[str, Any], key: str) -> str:
    name, default, help_ = str(one["name"]), str(one["default"]), as_markdown(f"{one['help']} ({one['kind']})".strip())
    choices = list(one["choices"])
    if choices:
        return str(st.selectbox(name, choices, choices.index(default), key=key, help=help_))
    return (st.text_input(name, key=key, placeholder=default, help=help_) or "").strip()


def queries(*, key: str) -> str:
    """How many predictions; empty for all."""
    help_ = "Test predictions to explain, the most confident mistakes first."
    return st.text_input("Queries", key=f"{key}-queries", placeholder="all", help=help_) or ""


def retrainings(*, key: str) -> str:
    """How many models are trained again as evidence; empty for none."""
    help_ = (
        "Checks the scores by training so many models again on random halves of the training set, and chooses the damping "
        "by them. 12 are enough; it takes about that many trainings."
    )
    return st.text_input("Retrainings", key=f"{key}-evidence", placeholder="none", help=help_) or ""


def price(found: Mapping[str, Any]) -> str:
    """Time by stage, memory and disk in one table, and how sure it is."""
    seconds: Mapping[str, float | None] = found["seconds"]
    stages = [_row(stage, _time(value), str(found["basis"][stage])) for stage, value in seconds.items()]
    sums = [
        _row("all stages", _time(found["total"]), "", strong=True),
        _row("memory, at most", size(found["memory"]), f"{size(found['memory_free'])} free", strong=True),
        _row("disk", size(found["disk"]), f"{size(found['disk_free'])} free", strong=True),
    ]
    counted = (
        f"{found['train']:,} training and {found['test']:,} test examples, {found['parameters']:,} parameters, "
        f"{found['queries']:,} queries"
    )
    warnings = "".join(f'<p class="ix-note">⚠ {safe(words)}</p>' for words in found["warnings"])
    head = '<thead><tr><th scope="col">Stage</th><th scope="col">Estimate</th><th scope="col">From</th></tr></thead>'
    return (
        f'{warnings}<table class="ix-table" aria-label="Estimate"><caption class="ix-quiet">{safe(counted)}</caption>{head}'
        f'<tbody>{"".join(sums + stages)}</tbody></table><p class="ix-quiet">{safe(found["sure"])}</p>'
    )


def size(count: float) -> str:
    """Bytes as a person would say them."""
    if count >= GIGA:
        return f"{count / GIGA:,.1f} GB"
    return f"{count / MEGA:,.0f} MB" if count >= 10 * MEGA else f"{count / MEGA:.1f} MB"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def _row(name: str, value: str, basis: str, *, strong: bool = False) -> str:
    told = f"<strong>{safe(value)}</strong>" if strong else safe(value)
    return f'<tr><th scope="row">{safe(name)}</th><td>{told}</td><td class="ix-quiet">{safe(basis)}</td></tr>'
