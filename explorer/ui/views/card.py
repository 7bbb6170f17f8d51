"""What did the model say, and what is being explained? The query's card with its trust line, as one HTML element."""

from __future__ import annotations

from dataclasses import dataclass

from explorer.ui.views import text
from explorer.ui.views.text import Passage
from explorer.ui.views.words import beginning, percent, plain, safe, signed

ROUGH = "Trained again with a little different luck, a removal does something else: trust groups, not single examples."


@dataclass(frozen=True)
class Value:
    """One named value of a table row; `unusual` is its distance from the training mean in standard deviations."""

    name: str
    value: float
    unusual: float


@dataclass(frozen=True)
class Face:
    """How an example looks: a picture (data URI), a passage of text, or its most unusual values of `values_total`."""

    picture: str | None = None
    values: tuple[Value, ...] = ()
    values_total: int = 0
    passage: Passage | None = None


@dataclass(frozen=True)
class Query:
    """One prediction; `outcome` says that it is right or wrong. `confidence` is NaN for regression; `rank` counts from 1 among
    `total` queries."""

    id: str
    face: Face
    label: str
    prediction: str
    wrong: bool
    outcome: bool
    confidence: float
    loss: float
    asked: str
    rank: int
    total: int


@dataclass(frozen=True)
class Trust:
    """Evidence under an answer: method and sizes in words, second opinion, noise, and what is to be said about it.

    `checked` says what retrainings found, where there were some, and `repeats` how far small removals repeat; `rough` that
    they do not, so that nobody can know what removing single examples does.
    """

    method: str
    agreement: float
    overlap: float
    noise: float
    strongest: float
    unit: str
    verdict: str
    train: int
    checked: str = ""
    repeats: str = ""
    rough: bool = False


def query_card(query: Query) -> str:
    """The card as HTML."""
    return f"""
<section class="ix-card{card_of(query.face)}" aria-label="Prediction {safe(query.id)}">
  {face(query.face, f"test example {query.id}", large=True)}
  <div class="ix-card-text">
    <div class="ix-id">{safe(query.id)} <span class="ix-quiet">{query.rank:,} of {query.total:,}</span></div>
    <div class="ix-said">{_said(query)}</div>
    <div class="ix-quiet">{_measures(query)}</div>
    <div>Explaining: <strong>{safe(query.asked)}</strong></div>
  </div>
</section>"""


def trust_line(trust: Trust) -> str:
    """The trust line as HTML: the verdict first, then what it rests on."""
    words = {
        "agree": ("✓", "Two methods point to the same strongest examples."),
        "disagree": ("≠", "Two methods point to different examples: take single ones with care."),
        "no effect detected": (
            "∅",
            "No effect detected: one more epoch of training moves this answer more than any one example.",
        ),
        "alone": ("?", "No second method to compare with."),
    }
    mark, sentence = words[trust.verdict]
    if trust.rough:
        mark, sentence = "≈", f"{sentence} {ROUGH}"
    parts = [safe(trust.method), f"{trust.train:,} training examples"]
    if trust.verdict != "alone":
        parts.append(f"rank agreement {trust.agreement:.2f}, {round(20 * trust.overlap)} of the 20 strongest shared")
    noise = (
        f"noise {plain(trust.noise)} {safe(trust.unit)} an epoch"
        if trust.noise == trust.noise
        else "noise not logged for this question"
    )
    parts.append(f"strongest {plain(trust.strongest)}, {noise}")
    parts[1:1] = [safe(part) for part in (trust.checked, trust.repeats) if part]
    return (
        f'<p class="ix-trust" role="note"><strong><span aria-hidden="true">{mark}</span> {sentence}</strong> '
        f'<span class="ix-quiet">{" · ".join(parts)}</span></p>'
    )


def card_of(look: Face) -> str:
    """The further class of a card: text stands above what is said of it, everything else beside."""
    return "" if look.passage is None else " ix-of-text"


def spoken(look: Face, label: str, prediction: str) -> str:
    """Label and answer for the name of what shows an example, as text; both and what came before in short where it is text."""
    if look.passage is not None:
        return f"{text.spoken(look.passage)}, model says {beginning(prediction, text.SPOKEN)}"
    return f"labeled {label}, model says {prediction}"


def face(look: Face, alt: str, large: bool = False) -> str:
    """A picture, a passage of text, or a small table of the most unusual values."""
    if look.passage is not None:
        return text.whole(look.passage) if large else text.clipped(look.passage)
    if look.picture is not None:
        size = "ix-picture-large" if large else "ix-picture"
        return f'<img class="{size}" src="{look.picture}" alt="{safe(alt)}">'
    rows = "".join(
        f'<tr><th scope="row" title="{safe(v.name)}">{safe(v.name)}</th><td>{plain(v.value) if v.value >= 0 else "−" + plain(-v.value)}</td>'
        f'<td class="ix-quiet">{signed(round(v.unusual, 1))}σ</td></tr>'
        for v in look.values
    )
    more = look.values_total - len(look.values)
    note = f"<caption>{len(look.values)} most unusual of {look.values_total} values</caption>" if more > 0 else ""
    return f'<table class="ix-values">{note}<tbody>{rows}</tbody></table>'


def _said(query: Query) -> str:
    if query.face.passage is not None:
        return text.answer(query.label, query.prediction, not query.wrong, text.SAID)
    if not query.outcome:
        return f"says <strong>{safe(query.prediction)}</strong>, true value {safe(query.label)}"
    mark = "✗" if query.wrong else "✓"
    return f"{mark} says <strong>{safe(query.prediction)}</strong>, labeled <strong>{safe(query.label)}</strong>"


def _measures(query: Query) -> str:
    loss = f"loss {plain(query.loss)}"
    return f"confidence {percent(query.confidence)} · {loss}" if query.outcome else loss
