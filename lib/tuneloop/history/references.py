"""What refers to a run: runs that use its results or checkpoints, models, aliases, sweeps."""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.artifacts.aliases import AliasChange
from tuneloop.history.inventory import Inventory, KnownRun


@dataclass(frozen=True)
class Reference:
    """Something that refers to a run."""

    kind: str
    """`adopted`, `continues`, `starts from`, `baseline`, or a key of `SUBJECTS`."""
    name: str
    """Id or name of what refers to it."""
    text: str
    """What it needs, as a sentence without a subject."""

    @property
    def sentence(self) -> str:
        """The reference as a sentence."""
        return f"{SUBJECTS.get(self.kind, 'run')} {self.name} {self.text}"


SUBJECTS = {
    "alias": "alias",
    "gate": "baseline",
    "model": "model",
    "sweep": "sweep",
    "rounds": "rounds",
}
"""Kind of a reference that comes from something other than a run -> the noun before its name."""


def references_to(inventory: Inventory, run_id: str) -> list[Reference]:
    """Return what refers to a run, other than the run itself."""
    found: list[Reference] = []
    for run in inventory.runs.values():
        if run.run_id != run_id:
            found += _of_run(inventory, run, run_id)
    for name, manifest in inventory.models.items():
        place = inventory.within(manifest.place) if manifest.place else None
        if place is not None and place.startswith(f"training_runs/{run_id}/"):
            text = f"was added in place, so its files are those of run {run_id}"
            found.append(Reference("model", name, text))
    for sweep_id, sweep in inventory.sweeps.items():
        if any(member.run_id == run_id for member in sweep.members):
            found.append(Reference("sweep", sweep_id, "compares it with other runs"))
    for rounds_id, rounds in inventory.rounds.items():
        if any(member.run_id == run_id for member in rounds.members):
            found.append(Reference("rounds", rounds_id, "compare it with other runs"))
    return found + _of_aliases(inventory, run_id) + _of_baselines(inventory, run_id)


def _of_aliases(inventory: Inventory, run_id: str) -> list[Reference]:
    """Return the aliases that name a run, or that a rollback can let name it again."""
    found = []
    for name, history in inventory.aliases.items():
        numbers = [each.number for each in history if _is_run(each, run_id)]
        if _is_run(history[-1], run_id):
            text = f"names its tuned model (change {history[-1].number})"
            found.append(Reference("alias", name, text))
        elif numbers:
            text = f"has named its tuned model (change {numbers[-1]}), which a rollback needs"
            found.append(Reference("alias", name, text))
    return found


def _is_run(change: AliasChange, run_id: str) -> bool:
    return change.model.kind == "run" and change.model.name == run_id


def _of_baselines(inventory: Inventory, run_id: str) -> list[Reference]:
    """Return the baselines of the gate whose newest version is a run."""
    text = "is this run, with which the gate compares later ones"
    return [
        Reference("gate", name, text)
        for name, versions in inventory.baselines.items()
        if versions[-1].run_id == run_id
    ]


def _of_run(inventory: Inventory, run: KnownRun, run_id: str) -> list[Reference]:
    found = []
    prefix = f"training_runs/{run_id}/"
    stages = [
        record.stage
        for record in run.records
        if any(file.path.startswith(prefix) for file in record.outputs)
    ]
    if stages:
        text = f"has adopted its results of {', '.join(dict.fromkeys(stages))}"
        found.append(Reference("adopted", run.run_id, text))
    if run.continues == run_id:
        text = "continues its training, which needs its checkpoints"
        found.append(Reference("continues", run.run_id, text))
    elif run_id in resume_owners(inventory, run):
        text = f"continues run {run.continues}, which has adopted its training"
        found.append(Reference("continues", run.run_id, text))
    if run.starts_from == run_id or _starts_within(inventory, run, prefix):
        verb = "samples" if "sample" in (run.manifest.stages if run.manifest else ()) else "starts"
        text = f"{verb} from a model of it"
        found.append(Reference("starts from", run.run_id, text))
    if run_id in run.baselines:
        found.append(Reference("baseline", run.run_id, "asks its tuned model as a baseline"))
    return found


def _starts_within(inventory: Inventory, run: KnownRun, prefix: str) -> bool:
    model = run.manifest.model if run.manifest else None
    place = inventory.within(model.place) if model and model.place else None
    return place is not None and f"{place}/".startswith(prefix)


def resume_owners(inventory: Inventory, run: KnownRun) -> set[str]:
    """Return the runs that hold the checkpoints from which a run continues."""
    earlier = inventory.runs.get(run.continues or "")
    if earlier is None:
        return set()
    trained = earlier.stage("train")
    outputs = trained.outputs if trained else ()
    # A run that has adopted the training of another has no checkpoints of its own.
    owners = {file.path.split("/")[1] for file in outputs if file.path.count("/") > 1}
    return owners | {earlier.run_id}
