"""Which runs are there and how do they stand? One run as HTML; whoever shows it adds the buttons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from explorer.ui.views.jobs import Standing, standing
from explorer.ui.views.words import duration, plain, safe

MINUTE, HOUR, DAY = 60, 3600, 86400


@dataclass(frozen=True)
class Entry:
    """One run. `job` is None for a run that cannot be read, and `reason` then says why; `facts` are short phrases.

    `age` is the seconds since it was started (or, if it never was, made); `when` the moment in full.
    """

    key: str
    title: str
    facts: tuple[str, ...] = ()
    job: Standing | None = None
    reason: str = ""
    started: bool = True
    age: float = 0.0
    when: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    log: str = ""
    log_path: str = ""
    browsable: bool = False


def described(entry: Entry) -> str:
    """What the run is about, and when it was started."""
    facts, verb = " · ".join(safe(fact) for fact in entry.facts), "started" if entry.started else "made"
    began = f'<span title="{safe(entry.when)}">{verb} {ago(entry.age)}</span>' if entry.when else ""
    return (
        f'<div class="ix-run"><div class="ix-run-title ix-cut" title="{safe(entry.title)}">{safe(entry.title)}</div>'
        f'<div>{facts}</div><div class="ix-quiet"><code>{safe(entry.key)}</code> {began}</div></div>'
    )


def progress(entry: Entry) -> str:
    """State, share of the stage, rate and time left; times by stage; and why it ended early, in full."""
    if entry.job is None:
        return f'<div class="ix-run"><strong>⚠ unreadable</strong></div><p class="ix-note">{safe(entry.reason)}</p>'
    bar = _bar(entry.job) if entry.job.state == "running" else ""
    why = f'<p class="ix-note ix-lines">{safe(entry.reason)}</p>' if entry.reason else ""
    return f'<div class="ix-run"><strong>{safe(standing(entry.job))}</strong>{bar}{_times(entry.seconds)}</div>{why}'


def ago(seconds: float) -> str:
    """How long ago, in words a person would use."""
    if seconds < MINUTE:
        return "just now"
    for unit, size, limit in (("minute", MINUTE, HOUR), ("hour", HOUR, DAY)):
        if seconds < limit:
            return _count(int(seconds // size), unit)
    return _count(int(seconds // DAY), "day")


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'} ago"


def _bar(job: Standing) -> str:
    share = (
        f'<progress max="{job.total}" value="{job.done}" aria-label="{safe(job.stage)}"></progress>'
        if job.total
        else ""
    )
    counted = f"{job.done:,} of {job.total:,}" if job.total else ""
    rate = f"{plain(job.rate)} a second" if job.rate else ""
    line = " · ".join(part for part in (counted, rate) if part)
    return f'{share}<div class="ix-quiet">{line}</div>' if line else ""


def _times(seconds: Mapping[str, float]) -> str:
    if not seconds:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{safe(stage)}</th><td>{took(value)}</td></tr>' for stage, value in seconds.items()
    )
    return (
        f'<details class="ix-times"><summary>{took(sum(seconds.values()))}, by stage</summary>'
        f'<table class="ix-table"><tbody>{rows}</tbody></table></details>'
    )


def took(seconds: float) -> str:
    """A time that was measured: tenths below ten seconds."""
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)
