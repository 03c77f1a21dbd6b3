"""One run for people: its spec, stages, sizes, results and files, and the runs it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.run_manifest import RunManifest, read_run_manifest
from tuneloop.errors import InputMissing, TuneloopError
from tuneloop.history.cost import account
from tuneloop.history.cost.account import StageTaken
from tuneloop.history.cost.prices import PriceList, PricesOf
from tuneloop.history.grouping.membership import memberships_of, read_groups
from tuneloop.history.stored import StoredRun, StoredStage, parse_time, read_run
from tuneloop.stages.table import STAGES
from tuneloop.storage import files, paths
from tuneloop.storage.objects import StoredObject, in_parallel, list_objects


@dataclass(frozen=True)
class StageDetail:
    """One stage of a run."""

    name: str
    state: str
    started_at: datetime | None
    seconds: float | None
    """Seconds from the start of the process to the record; None without a record."""
    size_bytes: int
    """Bytes of the objects in the folder of the stage."""
    summary: str
    """One line about the result, or about the state of an unfinished stage."""
    record: str | None
    """URL of the record; None without one."""


@dataclass(frozen=True)
class RunDetail:
    """One run."""

    run_id: str
    state: str
    spec: dict[str, Any]
    seed: int | None
    facts: tuple[tuple[str, str], ...]
    """Title -> text, in order of display."""
    stages: tuple[StageDetail, ...]
    size_bytes: int
    taken: tuple[StageTaken, ...]
    """What the stages have taken on a cluster."""
    prices: PriceList | None
    """The prices that `taken` is calculated with."""
    relations: tuple[str, ...]
    """The sweeps and rounds that this run belongs to, the runs that it continues or starts from,
    and those that continue it, as sentences."""
    files: tuple[str, ...]
    """URLs of the files that people open."""

    def as_json(self) -> dict[str, Any]:
        """Return the run for `--json`."""
        value = asdict(self)
        del value["taken"], value["prices"]
        value["usage"] = account.as_json(self.taken, self.prices)
        value["facts"] = dict(self.facts)
        for stage in value["stages"]:
            started = stage["started_at"]
            stage["started_at"] = started.isoformat() if started else None
        return value


def read_detail(
    artifacts: str, run_id: str, *, now: datetime, prices_of: PricesOf = lambda manifest: None
) -> RunDetail:
    """Read a run.

    Args:
        artifacts: URL of the artifacts prefix.
        run_id: id of the run.
        now: the current time, which tells a running stage from a stopped one.
        prices_of: returns the prices for a run.

    Raises:
        InputMissing: there is no such run.
    """
    prefix = layout.run_prefix(artifacts, run_id)
    run = read_run(artifacts, run_id, now=now)
    if run is None:
        raise InputMissing(f"{prefix}: missing, expected a run; check the run id and --artifacts")
    objects = list_objects(prefix)
    prices = prices_of(run.manifest)
    copies = {name for row in STAGES.values() for name in row.copies}
    return RunDetail(
        run_id,
        run.state,
        run.manifest.spec if run.manifest else {},
        run.manifest.seed if run.manifest else None,
        tuple(_facts(run)),
        tuple(_stage(artifacts, run_id, stage, objects) for stage in run.stages),
        sum(each.size_bytes for each in objects),
        tuple(account.taken_by(run, artifacts, prices)),
        prices,
        tuple(_relations(artifacts, run)),
        tuple(paths.join(prefix, each.name) for each in objects if each.name in copies),
    )


def _facts(run: StoredRun) -> list[tuple[str, str]]:
    facts = [("run", run.run_id), ("state", run.state)]
    manifest = run.manifest
    if run.problem:
        facts.append(("problem", run.problem))
    if manifest is None:
        return facts
    dataset, train = manifest.dataset, manifest.spec.get("train")
    if dataset is not None:
        facts.append(("dataset", f"{dataset.key} ({dataset.trace_count:,} traces)"))
    if manifest.model is not None:
        facts.append(("model", manifest.model.words))
    if isinstance(train, dict):
        facts.append(("training", _words(train)))
    facts += _sampling(run)
    facts += _scoring(run)
    facts.append(("seed", str(manifest.seed)))
    code = manifest.image or manifest.provenance.get("git_commit")
    if code:
        facts.append(("code", str(code)))
    base, tuned = run.number("eval", "accuracy_base"), run.number("eval", "accuracy_tuned")
    if base is not None and tuned is not None:
        said = run.result("eval", "verdict")
        text = f"{100 * base:.1f} % -> {100 * tuned:.1f} %"
        facts.append(("accuracy", f"{text}, {said}" if isinstance(said, str) else text))
    return facts


def _scoring(run: StoredRun) -> list[tuple[str, str]]:
    """Describe the scores of a run; nothing for a run without any."""
    mean = run.number("score", "mean")
    return [] if mean is None else [("scores", f"mean score {mean:.3f}")]


def _sampling(run: StoredRun) -> list[tuple[str, str]]:
    """Describe the samples of a run; nothing for a run without any."""
    reward = run.number("sample", "mean_reward")
    if reward is None:
        return []
    shares = [run.number("sample", name) or 0.0 for name in ("all_correct", "none_correct")]
    text = f"mean reward {reward:.3f}"
    text += f"; prompts with correct completions alone {100 * shares[0]:.1f} %"
    return [("samples", f"{text}, without any {100 * shares[1]:.1f} %")]


def _words(train: Mapping[str, Any]) -> str:
    """Describe the training in one line."""
    found = [f"{train[name]} {name}" for name in ("steps", "epochs") if train.get(name)]
    found += [f"batch size {train['batch_size']}"] if train.get("batch_size") else []
    for name, key, title in (("method", "kind", ""), ("optimizer", "learning_rate", "rate ")):
        part = train.get(name)
        if isinstance(part, dict) and part.get(key) is not None:
            found.append(f"{title}{part[key]}")
    return ", ".join(found) or "not in the spec"


def _stage(
    artifacts: str, run_id: str, stage: StoredStage, objects: list[StoredObject]
) -> StageDetail:
    record = stage.record
    summary = stage.note
    if record is not None and stage.name in STAGES:
        summary = _summary(STAGES[stage.name].summary, stage) or stage.note
    return StageDetail(
        stage.name,
        stage.state,
        parse_time(record.started_at) if record else None,
        record.seconds if record else None,
        sum(each.size_bytes for each in objects if each.name.startswith(f"{stage.name}/")),
        summary,
        layout.record_url(artifacts, run_id, stage.name) if record else None,
    )


def _summary(of: Callable[[Any], str], stage: StoredStage) -> str:
    try:
        return of(stage.record)
    except TuneloopError as e:  # a record of an older version may lack a count
        return str(e)


def _relations(artifacts: str, run: StoredRun) -> list[str]:
    """Describe the relations to other runs, from the manifests of all runs, sweeps and rounds."""
    groups = memberships_of(read_groups(artifacts))
    found = [each.sentence for each in groups.get(run.run_id, ())]
    if run.manifest is not None:
        found += [f"{verb} run {other}" for verb, other in _names(run.manifest)]
    for stage in run.stages:
        owners = {
            file.path.split("/")[1] for file in (stage.record.outputs if stage.record else ())
        }
        found += [f"reuses stage {stage.name} of run {o}" for o in sorted(owners - {run.run_id})]
    ids = files.list_folders(layout.runs_prefix(artifacts))
    for other in in_parallel(lambda each: _manifest(artifacts, each), ids):
        if other is not None and other.run_id != run.run_id:
            verbs = [verb for verb, name in _names(other) if name == run.run_id]
            found += [f"run {other.run_id} {verb} it" for verb in verbs]
    return found


def _manifest(artifacts: str, run_id: str) -> RunManifest | None:
    try:
        return read_run_manifest(artifacts, run_id)
    except TuneloopError:
        return None


def _names(manifest: RunManifest) -> list[tuple[str, str]]:
    """Return (verb, run id) for the runs that a manifest names."""
    train = manifest.spec.get("train")
    train = train if isinstance(train, dict) else {}
    model = train.get("model")
    pairs = [("continues", train.get("continue_from"))]
    pairs.append(("starts from", model.get("run") if isinstance(model, dict) else None))
    sample = manifest.spec.get("sample")
    model = sample.get("model") if isinstance(sample, dict) else None
    pairs.append(("samples from", model.get("run") if isinstance(model, dict) else None))
    return [(verb, name) for verb, name in pairs if isinstance(name, str)]
