"""What does one sample teach, and does the model learn as one would wish? `teach` on a run, `world` on invented sentences.

Reads options and writes lines; the work is done by the run's job, or by the worker of a world.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from explorer.cli_run import Fault, draw_until, left_alone, rows_of, runs_option
from explorer.errors import SettingsError

if TYPE_CHECKING:
    from explorer.jobs import laboratory, worlds
    from explorer.store import Run

background_option = click.option("--background", is_flag=True, help="Start the job and return at once.")
json_option = click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
compare_option = click.option(
    "--compare", is_flag=True, help="Start nothing; hold all experiments so far side by side."
)


def teaching_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How each sample is taught."""
    for option in (
        click.option("--seed", type=int, default=0, show_default=True, help="Draws samples, noise and intervals."),
        click.option(
            "--dtype", type=click.Choice(["float64", "float32"]), default="float64", show_default=True,
            help="float32 is faster and loses small differences.",
        ),
        click.option("--rank", type=int, help="Move low-rank factors of the matrices instead (LoRA)."),
        click.option("--layers", metavar="A,B", help="Layers that move [default: all]."),
        click.option("--rate", type=float, help="Learning rate [default: searched, and shown]."),
        click.option("--steps", type=int, default=1, show_default=True, help="Steps on each sample."),
        click.option("--optimizer", type=click.Choice(["sgd", "adam"]), default="sgd", show_default=True),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("teach")
@click.argument("name", default="latest")
@click.option("--samples", type=click.IntRange(1), metavar="K", help="Teach K, evenly over classes [default: 100].")
@click.option("--ids", metavar="IDS|FILE", help="Teach these: ids with commas, or a file with one id a line.")
@click.option("--probes", metavar="IDS|FILE", help="Ask about these test examples [default: the samples themselves].")
@click.option("--test", type=click.IntRange(1), metavar="K", help="Ask about K test examples, evenly over classes.")
@click.option("--epoch", type=int, help="Teach the model as it was after this epoch [default: the last].")
@click.option("--noise/--no-noise", default=True, show_default=True, help="Teach every sample with noise too.")
@teaching_options
@compare_option
@background_option
@json_option
@runs_option
def teach_command(
    name: str,
    folder: str | None,
    samples: int | None,
    ids: str | None,
    probes: str | None,
    test: int | None,
    compare: bool,
    background: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fine-tune the model of run NAME on one training example at a time: what changes, and is it what one would wish?"""
    from explorer.jobs import laboratory

    for one, other, names in ((samples, ids, "--samples or --ids"), (probes, test, "--probes or --test")):
        if one is not None and other is not None:
            raise click.UsageError(f"Expected {names}; found both. Leave out one.")
    run = _find(folder, name)
    if compare:
        click.echo(_compared([(e.key, e.found or {"left_out": e.left_out}) for e in laboratory.listed(run)], as_json))
        return
    seed = options["seed"]
    rows = rows_of(run, "train", ids) if ids is not None else None
    asked_rows = rows_of(run, "test", probes) if probes is not None else None
    if test is not None:
        asked_rows = laboratory.evenly(run, "test", test, seed)
    asked = laboratory.Asked(
        rows or laboratory.evenly(run, count=samples or laboratory.SAMPLES, seed=seed), asked_rows, **_settings(options)
    )
    key = laboratory.ask(run, asked)
    waits = not _experiment(run, key).complete
    if waits and left_alone(run, lambda: not _experiment(run, key).complete, background, as_json):
        return
    experiment = _experiment(run, key)
    if as_json:
        told = {"run": run.key, "key": key, "complete": experiment.complete, "left_out": experiment.left_out}
        told |= {"folder": str(experiment.folder), "scorecard": experiment.found}
        click.echo(json.dumps(told, ensure_ascii=False))
        return
    if experiment.found is None:
        click.echo(experiment.left_out or f"Run {run.key} was stopped before the experiment was done.")
        return
    card = experiment.found
    asked_of = "each other" if card["square"] else f"{card['probes']:,} test examples"
    head = f"{card['samples']:,} training examples of run {run.key}, each taught alone and asked about {asked_of}"
    click.echo("\n".join([f"{head}: {card['words']}.", *in_words(card), f"The matrix: {experiment.folder}"]))


@click.command("world")
@click.argument("file", required=False, metavar="[FILE]", type=click.Path(dir_okay=False))
@click.option(
    "--model", default="tiny", metavar="FOLDER", help="A causal model that transformers reads [default: tiny]."
)
@click.option(
    "--write-default", type=click.Path(dir_okay=False), metavar="FILE", help="Write a world to edit, and stop."
)
@teaching_options
@compare_option
@click.option("--cancel", metavar="KEY", help="Ask the worker of this experiment to stop.")
@background_option
@json_option
@runs_option
def world_command(
    file: str | None,
    folder: str | None,
    model: str,
    write_default: str | None,
    compare: bool,
    cancel: str | None,
    background: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Teach a language model the new facts of a world of invented things, in its weights and in its prompt, and ask what follows."""
    from explorer.jobs import worlds
    from explorer.laboratory.world import read, rendered
    from explorer.store import runs_root, write_bytes

    root = runs_root(folder)
    if write_default is not None:
        path = Path(write_default).absolute()
        if path.exists():
            raise SettingsError(f"Expected a new file to write a world to; found one at {path}. Choose another name.")
        write_bytes(path, worlds.default(options["seed"]).encode())
        click.echo(f"Wrote {path}. Edit it, then: explorer world {write_default}")
        return
    if cancel is not None:
        worlds.cancel(root, cancel)
        click.echo(f"Asked world {cancel} to stop. What it computed stays.")
        return
    if compare:
        click.echo(_compared([(e.key, e.found or {"left_out": _standing(e)}) for e in worlds.listed(root)], as_json))
        return
    text = rendered(read(file)) if file is not None else worlds.default(options["seed"])
    key = worlds.ask(root, worlds.Asked(text, model, **_settings(options)))
    worlds.start(root, key)
    if background:
        told = {"world": key, "folder": str(root / worlds.FOLDER / key)}
        click.echo(
            json.dumps(told) if as_json else f"World {key} goes on in the background; the same command shows it."
        )
        return
    state = draw_until(root / worlds.FOLDER / key, lambda _: False, "The same command shows it.")
    if state.state in ("failed", "interrupted"):
        raise Fault(f"{state.reason}\nThe same command goes on where it stopped.")
    click.echo(_world_told(worlds.find(root, key), as_json))


def in_words(card: Mapping[str, Any]) -> list[str]:
    """A scorecard as lines: how the teaching went, what was measured, and what is missing."""
    lines = []
    if card["linear"] is not None:
        lines.append(card["linear"]["sentence"])
    before, after = card["own_loss"]
    if before is not None:
        lines.append(f"A sample's own loss went from {before:.4g} to {after:.4g} on average.")
    lines += [f"Not taught: {why}" for why in card["failed"].values()]
    told: Sequence[Mapping[str, Any]] = card["desiderata"]
    for one in told:
        by = {"weights": " in the weights", "prompt": " in the prompt"}.get(one.get("by", ""), "")
        lines += ["", f"{one['name'].capitalize()}{by}", f"  {one['sentence']}"]
    if card["missing"]:
        lines.append("")
    return [*lines, *(f"No {name}: {why}" for name, why in card["missing"].items())]


def _world_told(experiment: worlds.Experiment, as_json: bool) -> str:
    if as_json:
        told = {"world": experiment.key, "state": experiment.state.state, "folder": str(experiment.folder)}
        return json.dumps(told | {"scorecard": experiment.found}, ensure_ascii=False)
    card = experiment.found
    if card is None:
        return _standing(experiment)
    knows = [
        f"{part['share']:.0%} of {part['count']:,} {name} sentences"
        for name, part in card["knows"].items()
        if part["share"] is not None
    ]
    lines = [
        f"World {experiment.key}, {len(card['statements']):,} new facts and rules: {card['words']}.",
        f"Before any lesson the model finds {' and '.join(knows)} likelier than their negation.",
    ]
    return "\n".join([*lines, *in_words(card), f"The matrix: {experiment.folder}"])


def _standing(experiment: worlds.Experiment) -> str:
    return f"World {experiment.key} is {experiment.state.state}. {experiment.state.reason}".strip()


def _compared(cards: Sequence[tuple[str, Mapping[str, Any]]], as_json: bool) -> str:
    """Desiderata of all experiments, one block each, or as JSON records; why some have none."""
    from explorer.jobs.scorecards import compare

    whole = [(key, card) for key, card in cards if "desiderata" in card]
    table = compare([card for _, card in whole])
    if as_json:
        table = table.assign(key=[whole[at][0] for at in table["experiment"]])
        return table.to_json(orient="records", force_ascii=False)
    lines = []
    for (name, by), rows in table.groupby(["name", "by"], sort=False):
        lines.append(f"{str(name).capitalize()}{f', {by}' if by else ''}")
        lines += [
            f"  {one.value:>8.3f} ({one.low:.3f} to {one.high:.3f}); {one.control} {one.control_value:.3f}  {one.settings}"
            for one in rows.itertuples()
        ]
    lines += [f"{key}: {card.get('left_out') or 'not done yet'}" for key, card in cards if "desiderata" not in card]
    return "\n".join(lines or ["No experiment so far."])


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    layers = options.pop("layers")
    named = None if layers is None else tuple(name.strip() for name in layers.split(",") if name.strip())
    return {**options, "layers": named}


def _find(folder: str | None, name: str) -> Run:
    from explorer.store import find, runs_root

    return find(runs_root(folder), name)


def _experiment(run: Run, key: str) -> laboratory.Experiment:
    from explorer.jobs import laboratory

    return next(one for one in laboratory.listed(run) if one.key == key)


@click.command("work-world", hidden=True)
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
def work_world_command(path: Path) -> None:
    """The worker process of one world; started by `world` and the page."""
    from explorer.jobs.world_stage import run_as_worker

    run_as_worker(path)
