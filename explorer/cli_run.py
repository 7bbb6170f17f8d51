"""From what is typed to a watched job: `run` with its estimate, `methods`, and the progress bars of every command.

Asks jobs for everything; heavy modules are imported by the command that needs them.
"""

from __future__ import annotations

import json
import os
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from explorer.jobs import JobState
    from explorer.jobs.estimate import Estimate
    from explorer.jobs.planning import Request
    from explorer.jobs.settings import Description
    from explorer.store import Run

BAR = "{desc:>16} {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left"
SCORED = 6
"""Number of the stage of scores: after it every answer is there."""
POLL = 0.2
"""Seconds between two looks at a job."""
WIDTH = 110


class Fault(click.ClickException):
    """A mistake said in one message; exit code 2."""

    exit_code = 2


def runs_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--runs DIR`."""
    return click.option("--runs", "folder", metavar="DIR", help="Folder of all runs [env EXPLORER_RUNS, else ./runs].")(
        command
    )


@click.command("run")
@click.option("--data", required=True, help="digits, breast-cancer, wine, or a path to an .npz or .jsonl file.")
@click.option("--flip", type=float, default=0.0, show_default=True, help="Share of training labels to flip on purpose.")
@click.option("--duplicate", type=float, default=0.0, show_default=True, help="Share of training rows to repeat.")
@click.option(
    "--model", default="auto", show_default=True, help="auto, linear, mlp, cnn, transformer, or FILE.py:FUNCTION."
)
@click.option("--weights", help="Trained weights (.safetensors, .pt) to use instead of training.")
@click.option("--method", help="A name that `explorer methods` lists [default: last-layer; ekfac for sequences].")
@click.option("--set", "pairs", metavar="KEY=VALUE", multiple=True, help="A setting of the method; may be repeated.")
@click.option("--damping", type=float, help="Damping of the inverse curvature [default: chosen and shown].")
@click.option("--layers", metavar="A,B", help="Layers whose parameters count, where the method chooses [default: all].")
@click.option("--epochs", type=int, help="Passes over the training set [default: 30, fewer for large sets].")
@click.option("--rate", type=float, help="Learning rate at the start, cosine to 0 [default: 0.05; 0.2 for sequences].")
@click.option("--weight-decay", type=float, default=5e-4, show_default=True, help="Weight decay, also of --weights.")
@click.option("--batch-size", type=int, help="[default: 64; 16 for sequences]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--queries", type=int, help="Explain only this many test predictions, worst first [default: all].")
@click.option(
    "--query-ids", metavar="IDS|FILE", help="Explain only these: ids with commas, or a file with one id a line."
)
@click.option(
    "--evidence",
    type=int,
    default=0,
    metavar="N",
    help="Check the scores by N retrainings on random halves, and choose the damping by them (12 are enough).",
)
@click.option(
    "--estimate", "only_estimate", is_flag=True, help="Say what it would cost in time, memory and disk; start nothing."
)
@click.option("--background", is_flag=True, help="Start the job and return at once.")
@click.option("--json", "as_json", is_flag=True, help="With --estimate or --background: the answer as JSON.")
@runs_option
def run_command(folder: str | None, only_estimate: bool, background: bool, as_json: bool, **options: Any) -> None:
    """Train or load a model, compute influence, memorization flags and the map; interrupted runs go on where they were."""
    if as_json and not (only_estimate or background):
        raise click.UsageError("Expected --json with --estimate or --background; found it alone. Add one of them.")
    if only_estimate:
        _wait_as_workers()
    from explorer.jobs import start
    from explorer.jobs.planning import plan
    from explorer.store import create, runs_root

    request, root = _request(options), runs_root(folder)
    if only_estimate:
        _say_estimate(request, root, as_json)
        return
    run = create(root, plan(request))
    if as_json:
        start(run)
        click.echo(json.dumps({"run": run.key, "path": str(run.path)}))
        return
    click.echo(f"Run {run.key} in {run.path}")
    start(run)
    if background:
        click.echo("It goes on in the background. Watch: explorer runs")
        return
    watch(run)
    report(run)


@click.command("check")
@click.argument("name", default="latest")
@click.option("--share", type=float, default=0.01, show_default=True, help="Share of the training set in each removal.")
@click.option("--removals", type=int, default=20, show_default=True, help="Random removals; two trainings for each.")
@click.option("--background", is_flag=True, help="Start the job and return at once.")
@runs_option
def check_command(name: str, share: float, removals: int, background: bool, folder: str | None) -> None:
    """Retrain run NAME without a few examples, twice, and say whether anybody can know what such removals do."""
    from explorer.jobs import checks, start
    from explorer.store import find, runs_root

    run = find(runs_root(folder), name)
    checks.ask(run, checks.Removals(share, removals))
    start(run)
    if background:
        click.echo("It goes on in the background. Watch: explorer runs")
        return
    watch(run)
    found = checks.found(run)
    click.echo(found.sentence if found is not None and not checks.pending(run) else f"Run {run.key} was stopped.")


@click.command("methods")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def methods_command(as_json: bool) -> None:
    """List every method: what it answers, what it leaves out, and its settings with their defaults."""
    from explorer.jobs.settings import descriptions

    found = descriptions()
    if as_json:
        click.echo(json.dumps([asdict(method) for method in found], ensure_ascii=False))
        return
    click.echo("\n\n".join(_method_in_words(method) for method in found))
    click.echo("\nChoose one with: explorer run --data ... --method NAME --set KEY=VALUE")


def _request(options: dict[str, Any]) -> Request:
    from explorer.jobs.planning import Request, recipe_of
    from explorer.jobs.settings import from_words

    names = ("epochs", "rate", "weight_decay", "batch_size", "seed")
    given = {name: value for name in names if (value := options.pop(name)) is not None}
    recipe = recipe_of(options["data"], **given)
    return Request(recipe=recipe, settings=from_words(options.pop("pairs")), **options)


def _wait_as_workers() -> None:
    """Threads that wait as a worker's do, or the estimate would be of something else; to be said before torch is loaded."""
    from explorer.jobs.process import WAIT

    os.environ.update({name: value for name, value in WAIT.items() if name not in os.environ})


def _say_estimate(request: Request, root: Path, as_json: bool) -> None:
    from explorer.jobs import estimate

    found = estimate.estimate(request, root)
    if as_json:
        click.echo(json.dumps(estimate.as_json(found), ensure_ascii=False))
        return
    click.echo(_estimate_in_words(found))
    for warning in estimate.check_room(found):
        click.echo(f"Warning: {warning}")


def _estimate_in_words(found: Estimate) -> str:
    rows = [
        f"{stage:>16}  {'unknown' if seconds is None else f'{seconds:,.1f} s':>10}  {found.basis[stage]}"
        for stage, seconds in found.seconds.items()
    ]
    lines = [
        f"{found.train:,} training and {found.test:,} test examples, {found.parameters:,} parameters; {found.queries:,} "
        f"queries, {found.answers:,} of them for the model's own answer too.",
        *rows,
        f"{'all':>16}  {found.total:>8,.1f} s",
        f"{'memory':>16}  {found.memory / 1e6:>7,.0f} MB  {found.memory_free / 1e6:,.0f} MB free",
        f"{'disk':>16}  {found.disk / 1e6:>7,.1f} MB  {found.disk_free / 1e6:,.0f} MB free",
        found.sure,
    ]
    return "\n".join(lines)


def _method_in_words(method: Description) -> str:
    lines = [method.name, *(["  From Python only: a run holds one training."] if method.python_only else [])]
    for text in (method.summary, method.question, method.limits):
        lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")
    for one in method.settings:
        about = f"--set {one.name}={one.default}  ({one.kind}) {one.help}".rstrip()
        lines += textwrap.wrap(about, WIDTH, initial_indent="    ", subsequent_indent="        ")
    return "\n".join(lines if method.settings else [*lines, "    no settings"])


def watch(run: Run, until_browsable: bool = False) -> None:
    """Draw the job's stages as progress bars until it ends (or a first answer can be shown)."""
    background = f"Watch: explorer runs. Stop: explorer cancel {run.key}"
    state = draw_until(run.path, lambda now: until_browsable and run.browsable and now.number > SCORED, background)
    if state.state in ("failed", "interrupted"):
        raise Fault(
            f"{state.reason}\nRun {run.key} is {state.state}; `explorer resume {run.key}` goes on where it stopped."
        )


def draw_until(path: Path, enough: Callable[[JobState], bool], background: str) -> JobState:
    """Draw the stages of the job of a folder until it ends or that is enough, and its last state; `background` says how to
    go on after an interrupt, which leaves the job alone."""
    from tqdm import tqdm

    from explorer.jobs import read_state

    bar: Any = None
    state = read_state(path)
    try:
        while True:
            state = read_state(path)
            if state.stage and (bar is None or bar.desc != state.stage):
                _close(bar, full=True)
                bar = tqdm(desc=state.stage, total=state.total or 1, bar_format=BAR, dynamic_ncols=True)
            if bar is not None and state.active and state.total:
                bar.total = state.total
                bar.update(state.done - bar.n)
            if not state.active or enough(state):
                return state
            time.sleep(POLL)
    except KeyboardInterrupt:
        click.echo(f"\nThe job goes on in the background. {background}")
        raise SystemExit(130) from None
    finally:
        _close(bar, full=state.state == "done")


def left_alone(run: Run, waiting: Callable[[], bool], background: bool, as_json: bool) -> bool:
    """Whether the job goes on without us; else it was watched until nothing more is `waiting`, or it ended early."""
    from explorer.jobs import read_state, start

    start(run)
    if background:
        click.echo(json.dumps({"run": run.key}) if as_json else "It goes on in the background. Watch: explorer runs")
        return True
    while True:
        watch(run)
        if read_state(run.path).state != "done" or not waiting():
            return False
        start(run)  # it was asked for just as the job ended


def rows_of(run: Run, split: str, text: str) -> tuple[int, ...]:
    """Rows of the "train" or "test" examples that are named by ids with commas or a file of them, in the order of the data.

    Raises:
        SettingsError: an id that is not there, or no id.
    """
    from explorer.errors import SettingsError
    from explorer.jobs.planning import read_ids

    wanted, names = read_ids(text), run.table(split)["id"].astype(str)
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise SettingsError(
            f"Expected ids of {'training' if split == 'train' else 'test'} examples of run {run.key}; found "
            f"{', '.join(map(repr, unknown[:3]))}. Ids look like {', '.join(names.head(3))}."
        )
    return tuple(int(row) for row in names.index[names.isin(wanted)])


def _close(bar: Any, *, full: bool) -> None:
    if bar is not None:
        if full:
            bar.update(bar.total - bar.n)
        bar.close()


def report(run: Run) -> None:
    """How the job ended, in a sentence or two."""
    from explorer.jobs import read_state
    from explorer.store import read_json

    state = read_state(run.path)
    if state.state != "done":
        click.echo(f"Run {run.key} is {state.state}. {state.reason}")
        return
    numbers = read_json(run.path / "summary.json")
    meta = run.meta()
    quality = (
        f"test accuracy {numbers['test_accuracy']:.1%}"
        if "test_accuracy" in numbers
        else f"test loss {numbers['test_loss']:.4g}"
    )
    seconds = sum(state.timings.values())
    click.echo(
        f"Run {run.key} is done in {seconds:.0f} s: {meta.train:,} training and {meta.test:,} test examples of {meta.name}, "
        f"{quality}, {numbers['memorized']:,} flagged as suspect.\nOpen it: explorer open {run.key}"
    )
    for note in meta.notes:
        click.echo(f"Note: {note}")
