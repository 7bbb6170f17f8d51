"""What does a person type? demo, run, check, memorized, act, clean, teach, world, methods, open, runs, cancel, resume, query,
export; every mistake ends in a sentence and exit code 2.

Asks jobs and store for everything; heavy modules are imported by the command that needs them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from explorer import __version__
from explorer.cli_laboratory import teach_command, work_world_command, world_command
from explorer.cli_memorized import act_command, clean_command, memorized_command
from explorer.cli_query import asked_options, query_command, read
from explorer.cli_run import Fault, check_command, methods_command, report, run_command, runs_option, watch
from explorer.errors import ExplorerError

if TYPE_CHECKING:
    from explorer.jobs import JobState

DEMO_FLIPS = 0.08
DEMO_COPIES = 0.02


class _Group(click.Group):
    """Commands whose named errors become one message and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ExplorerError as error:
            raise Fault(str(error)) from error


@click.group(cls=_Group)
@click.version_option(__version__, prog_name="explorer")
def main() -> None:
    """Which training examples made the model say that?"""


def _serving_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--no-browser", is_flag=True, help="Serve without opening a browser."),
        click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on."),
        click.option("--port", type=click.IntRange(1, 65535), help="Port to serve on [default: first free from 8501]."),
    ):
        command = option(command)
    return command


@main.command()
@runs_option
@_serving_options
def demo(folder: str | None, port: int | None, host: str, no_browser: bool) -> None:
    """Train on scikit-learn's digits with planted label flips, explain every test prediction, open the page."""
    from explorer import serving
    from explorer.jobs import start
    from explorer.jobs.planning import Request, plan
    from explorer.store import create, runs_root

    root = runs_root(folder)
    chosen = serving.free_port(port, host)
    run = create(root, plan(Request("digits", flip=DEMO_FLIPS, duplicate=DEMO_COPIES)))
    start(run)
    watch(run, until_browsable=True)
    raise SystemExit(serving.serve(root, run.key, port=chosen, host=host, browser=not no_browser))


main.add_command(run_command)
main.add_command(check_command)
main.add_command(memorized_command)
main.add_command(act_command)
main.add_command(clean_command)
main.add_command(teach_command)
main.add_command(world_command)
main.add_command(work_world_command)
main.add_command(methods_command)
main.add_command(query_command)


@main.command("open")
@click.argument("name", default="latest")
@runs_option
@_serving_options
def open_page(name: str, folder: str | None, port: int | None, host: str, no_browser: bool) -> None:
    """Open the page on run NAME (its name, a beginning of it, its path; default: the latest)."""
    from explorer import serving
    from explorer.store import find, runs_root

    run = find(runs_root(folder), name)
    raise SystemExit(serving.serve(run.path.parent, run.key, port=port, host=host, browser=not no_browser))


@main.command()
@runs_option
def runs(folder: str | None) -> None:
    """List runs: name, state, data, method, size on the disk, and why one ended early."""
    from explorer.store import list_runs, runs_root

    root = runs_root(folder)
    paths = list_runs(root)
    if not paths:
        click.echo(f"No runs in {root}. Make one with: explorer demo")
    for path in paths:
        try:
            click.echo(_line(path))
        except ExplorerError as error:
            click.echo(f"{path.name}  unreadable   {error}")


@main.command()
@click.argument("name")
@runs_option
def cancel(name: str, folder: str | None) -> None:
    """Ask the job of run NAME to stop; what it computed stays."""
    from explorer import jobs
    from explorer.store import find, runs_root

    run = find(runs_root(folder), name)
    state = jobs.read_state(run.path)
    if not state.active:
        click.echo(f"Run {run.key} is {state.state}: nothing to cancel.")
        return
    jobs.cancel(run)
    click.echo(f"Asked run {run.key} to stop. `explorer resume {run.key}` goes on from there.")


@main.command()
@click.argument("name")
@runs_option
def resume(name: str, folder: str | None) -> None:
    """Go on with run NAME where it stopped."""
    from explorer.jobs import start
    from explorer.store import find, runs_root

    run = find(runs_root(folder), name)
    start(run)
    watch(run)
    report(run)


@main.command("export")
@click.argument("name")
@click.option("--query", required=True, help="Id of the test example.")
@asked_options
@click.option("--format", "kind", type=click.Choice(["csv", "parquet", "json"]), default="csv", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False), help="File to write [default: RUN-QUERY.FORMAT].")
@click.option(
    "--rows",
    type=click.Choice(["all", "shown", "strongest"]),
    default="all",
    show_default=True,
    help="All, computed exactly; or as stored: those the page shows, or the strongest.",
)
@click.option("--filter", "kept", default="", help="With --rows shown: a filter, from the page's address.")
@click.option("--select", default="", help="With --rows shown: a lasso or box, from the page's address.")
@runs_option
def export_command(
    name: str,
    query: str,
    target: str | None,
    why: str | None,
    rather: str | None,
    margin: str | None,
    kind: str,
    output: str | None,
    rows: str,
    kept: str,
    select: str,
    folder: str | None,
) -> None:
    """Write training examples ranked for one query of run NAME ("-" as output prints csv or json)."""
    from explorer.api import table
    from explorer.jobs.query import rank_from_run
    from explorer.store import find, runs_root, write_bytes
    from explorer.store.export import encode

    if rows != "shown" and (kept or select):
        raise click.UsageError(
            f"Expected --filter and --select with --rows shown; found --rows {rows}. Add --rows shown."
        )
    asked, classes = read(target, why, rather, margin)
    if rows != "all" and classes:
        raise click.UsageError(
            f"Expected --rows all with --why and --margin, whose answers no run stores; found --rows {rows}. Leave it out."
        )
    run = find(runs_root(folder), name)
    ranked = (
        rank_from_run(run, query, asked, classes)
        if rows == "all"
        else table(run, query, target=asked, filter=kept, select=select, strongest=rows == "strongest")
    )
    data = encode(ranked, kind)
    if output == "-":
        sys.stdout.buffer.write(data)
        return
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in query)
    path = Path(output or f"{run.key}-{safe}.{kind}").absolute()
    write_bytes(path, data)
    click.echo(f"Wrote {path}")


@main.command(hidden=True)
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
def work(path: Path) -> None:
    """The worker process of one run; started by the others."""
    from explorer.jobs.pipeline import STAGES, run_pipeline
    from explorer.jobs.planning import ingredients_of
    from explorer.jobs.process import run_as_worker
    from explorer.store import Run

    run = Run.at(path)
    run_as_worker(run, len(STAGES), lambda writer: run_pipeline(run, ingredients_of(run), writer))


@main.command(hidden=True)
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--idle", type=float, required=True)
def answer(path: Path, idle: float) -> None:
    """The worker process that answers what was not computed; started by `jobs.asking`."""
    from explorer.jobs.answering import serve
    from explorer.store import Run

    serve(Run.at(path), idle)


def _line(path: Path) -> str:
    from explorer.jobs import read_state
    from explorer.store import Run

    run = Run.at(path)
    state: JobState = read_state(path)
    name = run.meta().name if run.has("data.json") else str(run.spec["source"].get("kind"))
    line = f"{run.key}  {state.state:<11}  {name}  {run.spec['method']['name']}"
    if state.state == "running":
        share = f" {state.done}/{state.total}" if state.total else ""
        left = f", {state.seconds_left:.0f} s left" if state.seconds_left else ""
        return f"{line}  {state.stage}{share}{left}"
    line = f"{line}  {sum(part.bytes for part in run.sizes()) / 1e6:,.1f} MB"
    return f"{line}  {state.reason}" if state.reason else line
