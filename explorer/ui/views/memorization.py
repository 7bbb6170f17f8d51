"""How many examples are suspect, whom do they help, and can the flag be trusted? The headline as HTML."""

from __future__ import annotations

from dataclasses import dataclass

from explorer.ui.views.words import percent, plain, safe


@dataclass(frozen=True)
class Headline:
    """The answer in numbers. `damping` is None where the method has none; `epochs` is 0 without a training log.

    `high`, of which `useful`, `harmful` and the rest unclear, have a high self-influence; `both` of them are flagged.
    `chance` is how many of `high` the noise band lets through when none has an effect; `own_by` names the method of the
    self-influence where it is not `method`. `neighbors` says that the flag also rests on the labels of the nearest inputs;
    `refused` counts the flagged whose label the model does not give (None for a regression); `asked` is what a label is called.
    """

    flagged: int
    total: int
    epochs: int
    group: str
    high: int
    useful: int
    harmful: int
    both: int
    chance: int
    method: str
    damping: float | None
    damping_rule: str
    own_by: str = ""
    neighbors: bool = False
    refused: int | None = None
    asked: str = "label"


@dataclass(frozen=True)
class Finding:
    """How well one score finds the planted flips: rank AUC, and precision and recall of its `k` highest examples."""

    score: str
    auc: float
    k: int
    precision: float
    recall: float


@dataclass(frozen=True)
class Check:
    """The flag against the planted flips, and each score's finding; the score of the flag comes first. The model gives the
    planted label for `fitted` of them."""

    planted: int
    caught: int
    flagged: int
    findings: tuple[Finding, ...]
    verdict: str
    fitted: int | None = None


def headline(facts: Headline) -> str:
    """The answer in words and numbers, and what it rests on."""
    return f"""
<section class="ix-headline" aria-label="How many training examples are suspect">
  <h3>{facts.flagged:,} of {facts.total:,} training examples are suspect: they look memorized or {"mislabeled" if facts.asked == "label" else "wrong"} <span class="ix-quiet">{percent(facts.flagged / max(facts.total, 1))}</span></h3>
  <p>{_effect(facts)}</p>
  <p class="ix-quiet">{_basis(facts)} The flag proves neither.{_refused(facts)} {_settings(facts)}</p>
</section>"""


def check(facts: Check) -> str:
    """The planted flips as ground truth: what the flag caught, and how well each score ranks them."""
    rows = "".join(
        f'<tr><th scope="row">{safe(f.score)}</th><td>{f.auc:.3f}</td><td>{percent(f.precision)}</td>'
        f"<td>{percent(f.recall)}</td></tr>"
        for f in facts.findings
    )
    k = facts.findings[0].k
    return f"""
<section class="ix-check" aria-label="Is the flag right?">
  <h4>Is it right? {facts.planted:,} labels were flipped on purpose</h4>
  <p>The flag catches <strong>{facts.caught:,} of {facts.planted:,}</strong>; the other {facts.flagged - facts.caught:,}
  of {facts.flagged:,} flagged examples kept their label.</p>
  <table class="ix-table"><thead><tr><th scope="col">score</th><th scope="col">AUC</th>
  <th scope="col">precision of top {k:,}</th><th scope="col">recall of top {k:,}</th></tr></thead><tbody>{rows}</tbody></table>
  <p class="ix-quiet">{safe(facts.verdict)}{_fitted(facts)}</p>
</section>"""


def _effect(facts: Headline) -> str:
    if not facts.high:
        return "None has a self-influence that stands out."
    unclear = facts.high - facts.useful - facts.harmful
    return (
        f"{facts.high:,} have a high self-influence: the model’s answer on them rests much on themselves. Of these, "
        f"<strong>▼ {facts.harmful:,} harm</strong> held-out answers, <strong>▲ {facts.useful:,} help</strong> them, and "
        f"◇ {unclear:,} show no effect beyond the noise. "
        f'<span class="ix-quiet">(If none had an effect, the 95 % band would still let about {facts.chance:,} through.)</span>'
    )


def _refused(facts: Headline) -> str:
    if not facts.refused:
        return ""
    return (
        f" Suspect and memorized are two things: for {facts.refused:,} of the {facts.flagged:,} the model gives another {safe(facts.asked)} than theirs, so "
        "it refused to fit them, and they are suspect rather than memorized."
    )


def _fitted(facts: Check) -> str:
    if facts.fitted is None:
        return ""
    return (
        f" The model gives the flipped label for {facts.fitted:,} of the {facts.planted:,} ({percent(facts.fitted / max(facts.planted, 1))}): a flip that "
        "it refuses to fit is suspect, but not memorized."
    )


def _basis(facts: Headline) -> str:
    rule = f"more than 3 robust deviations above {facts.group}"
    own = f"Self-influence (by {safe(facts.own_by)})" if facts.own_by else "Self-influence"
    if facts.epochs:
        score = (
            f"the training log and the nearest inputs: mean loss over {facts.epochs:,} epochs plus how unlikely the ten nearest inputs make the label"
            if facts.neighbors
            else f"the training log: loss summed over {facts.epochs:,} epochs (CSL)"
        )
        return (
            f"The flag rests on {score}, {rule}. {own} is "
            f"a second measurement, so the two can differ: {facts.both:,} examples are high in both."
        )
    return f"The flag rests on self-influence, {rule}: this run has no training log."


def _settings(facts: Headline) -> str:
    if facts.damping is None:
        return f"Influence by {safe(facts.method)}, which has no damping."
    return (
        f"Influence by {safe(facts.method)} with damping λ = {plain(facts.damping)} ({safe(facts.damping_rule)}); "
        "more damping turns more signs to harmful."
    )
