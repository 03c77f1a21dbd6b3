"""Enter the tuned model of an evaluation in the ledgers of candidates.

A model has been tried on a set against a base once a report compares the two: from then on, people
can see the result and choose by it. So the stage enters the model before its record is published,
and not only those that somebody gates. An evaluation that is repeated, or whose result another run
adopts, tries the same model again and adds nothing.
"""

from __future__ import annotations

from tuneloop.artifacts.evaluation.delta_report import DeltaReport
from tuneloop.evaluation.gates.ledger import register
from tuneloop.stages.evaluation.models import TUNED
from tuneloop.stages.lifecycle.context import Stage


def enter_candidate(stage: Stage, report: DeltaReport) -> None:
    """Enter the tuned model for every set that counts and every model that it is compared with.

    Raises:
        DataError: an entry of a ledger is broken.
        Transient: the storage does not answer.
    """
    digests = {each.name: each.digest for each in report.models}
    steps = {each.name: each.digest for each in report.models if each.step is not None}
    for each in report.sets:
        if each.weight == "informative":
            continue
        compared = (each.base, *(one.model for one in each.comparisons if one.model not in steps))
        bases = dict.fromkeys(digests[name] for name in compared)
        # Checkpoints are candidates too: people can choose the best of them by the report.
        tried = [(base, digests[TUNED]) for base in bases]
        tried += [(digests[each.base], digest) for digest in steps.values()]
        for base, candidate in tried:
            register(
                stage.artifacts,
                base=base,
                eval_set=each.sha256,
                candidate=candidate,
                run_id=stage.spec.run_id,
            )
