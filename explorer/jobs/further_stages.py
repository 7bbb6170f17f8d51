"""Who does what is asked of a run after its scores? One stage after the other until no request is left.

Joins the requests of `explorer.jobs.further` to the modules that train; decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from explorer.contracts import Dataset, Progress, Recipe, Subject
from explorer.jobs import checks, cleaning, further, laboratory, remedies, signs, subsets
from explorer.jobs.cleaning_stage import write_rounds
from explorer.jobs.laboratory_stage import write_experiment
from explorer.jobs.predictability import write_predictability
from explorer.jobs.remedy_stage import write_remedy
from explorer.jobs.signs_stage import write_signs
from explorer.jobs.subset_stage import write_subsets
from explorer.jobs.threads import threads, training_threads
from explorer.store import Run

if TYPE_CHECKING:
    from explorer.jobs.state import StateWriter
    from explorer.jobs.subject import Ingredients

WORK: dict[str, Callable[[Run, Ingredients, Dataset, Subject, Progress], None]] = {
    checks.STAGE: write_predictability,
    signs.STAGE: write_signs,
    laboratory.STAGE: write_experiment,
    subsets.STAGE: write_subsets,
    remedies.STAGE: write_remedy,
    cleaning.STAGE: write_rounds,
}
"""What does each stage; each call answers a request, or says in its files why it cannot be answered."""


def do(
    run: Run, ingredients: Ingredients, dataset: Dataset, subject: Subject, writer: StateWriter, before: int = 0
) -> None:
    """Answer every request, those too that come in meanwhile; `before` stages came before these.

    Small networks get one thread, many of them at once too: on a busy machine three took four times as long.
    """
    begun: list[str] = []
    while names := further.pending(run):
        if begun[-1:] != [names[0]]:
            writer.expect(before + len(begun) + len(names))
            writer.stage(names[0])
            begun.append(names[0])
        with threads(training_threads(subject.model, Recipe(**run.spec["recipe"]).batch_size)):
            WORK[names[0]](run, ingredients, dataset, subject, writer)
