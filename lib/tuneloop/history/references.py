"""What refers to a run: runs that use its results or checkpoints, stored models, and sweeps."""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.history.inventory import Inventory, KnownRun


@dataclass(frozen=True)
class Reference:
    """Something that refers to a run."""

    kind: str
    """`adopted`, `continues`, `starts from`, `baseline`, `model` or `sweep`."""
    name: str
    """Id of the run or sweep, or name of the model, that refers to it."""
    text: str
    """What it needs, as a sentence without a subject."""

    @property
    def sentence(self) -> str:
        """The reference as a sentence."""
        what = self.kind if self.kind in ("model", "sweep") else "run"
        return f"{what} {self.name} {self.text}"


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
    return found


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
        text = "starts from its tuned model"
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
