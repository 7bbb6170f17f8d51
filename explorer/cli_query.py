"""What does the shell say of one prediction? `query`: the training examples behind an answer, a margin, or P rather than Q.

Reads options and writes lines; the influence is computed by the run's own fitted method, as for an export.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from explorer.cli_run import runs_option

if TYPE_CHECKING:
    import pandas as pd

TOP = 5
"""Training examples of each sign that are listed by default."""


def asked_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What is asked: `--target`, `--why P --rather Q` or `--margin C`; `read` makes a target and its classes of them."""
    for option in (
        click.option("--margin", metavar="CLASS", help="Why CLASS rather than any other class?"),
        click.option("--rather", metavar="CLASS", help="With --why: rather than CLASS."),
        click.option("--why", metavar="CLASS", help="With --rather: why CLASS?"),
        click.option(
            "--target",
            type=click.Choice(["label", "prediction"]),
            help="The given label, or the model's own answer [default: label].",
        ),
    ):
        command = option(command)
    return command


def read(target: str | None, why: str | None, rather: str | None, margin: str | None) -> tuple[Any, tuple[str, ...]]:
    """The target and the classes that options ask about.

    Raises:
        click.UsageError: more than one question, or half of one.
    """
    given = {"--target": target, "--why": why, "--rather": rather, "--margin": margin}
    said = [name for name, value in given.items() if value is not None]
    if said == ["--why", "--rather"]:
        return "contrast", (str(why), str(rather))
    if said == ["--margin"]:
        return "margin", (str(margin),)
    if len(said) > 1 or said in (["--why"], ["--rather"]):
        raise click.UsageError(
            f"Expected one question: --target, --why with --rather, or --margin; found {' and '.join(said)}. "
            "Ask, for example, --why 8 --rather 3."
        )
    return target or "label", ()


@click.command("query")
@click.argument("name")
@click.argument("query")
@asked_options
@click.option("--top", type=click.IntRange(1), default=TOP, show_default=True, help="Training examples of each sign.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@runs_option
def query_command(
    name: str,
    query: str,
    target: str | None,
    why: str | None,
    rather: str | None,
    margin: str | None,
    top: int,
    as_json: bool,
    folder: str | None,
) -> None:
    """Which training examples made run NAME say that of test example QUERY (its id)? Computed exactly, most helpful first."""
    kind, classes = read(target, why, rather, margin)
    from explorer.jobs.query import rank_from_run
    from explorer.store import find, runs_root

    run = find(runs_root(folder), name)
    ranked = rank_from_run(run, query, kind, classes)
    asked = {str(key): value for key, value in ranked.attrs.items()}
    towards = ranked[ranked["influence"] > 0].head(top)
    away = ranked[ranked["influence"] < 0].tail(top).iloc[::-1]
    if as_json:
        sides = {side: json.loads(part.to_json(orient="records")) for side, part in _sides(towards, away)}
        click.echo(json.dumps({"query": query, **asked, **sides}, ensure_ascii=False))
        return
    question, *said = _words(asked)
    click.echo(f"{query}: {question}")
    click.echo(f"{len(ranked):,} training examples by {asked['method']}; influence in {asked['unit']}.")
    names = run.meta().classes
    for words, part in zip(said, (towards, away), strict=True):
        click.echo("\n".join(("", words, *_lines(part, names))))


def _sides(towards: pd.DataFrame, away: pd.DataFrame) -> tuple[tuple[str, pd.DataFrame], ...]:
    return ("towards", towards), ("away", away)


def _words(asked: dict[str, Any]) -> tuple[str, str, str]:
    """The question, and what positive and negative influence say of it."""
    classes = asked["classes"]
    if asked["target"] == "contrast":
        p, q = classes
        return f"why {p} rather than {q}?", f"Towards {p}, away from {q}", f"Towards {q}, away from {p}"
    if asked["target"] == "margin":
        return f"why {classes[0]} rather than any other class?", f"Towards {classes[0]}", f"Away from {classes[0]}"
    about = "the given label" if asked["target"] == "label" else "the model's own answer"
    return f"why {about}?", "Towards", "Away"


def _lines(part: pd.DataFrame, names: tuple[str, ...]) -> list[str]:
    """One line a training example: influence, share of all, id, label."""
    width = max((len(str(name)) for name in part["id"]), default=0)
    return [
        f"  {row['influence']:+12.4g}  {row['share']:6.1%}  {row['id']:<{width}}  label "
        f"{names[row['label']] if names else row['label']}"
        for row in part.to_dict("records")
    ] or ["  none"]
