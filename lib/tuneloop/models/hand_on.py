"""Export a run's tuned model, or its adapter, to a folder or to the Hugging Face hub."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tuneloop.artifacts import layout, records
from tuneloop.artifacts.evaluation.delta_report import DeltaReport, load_report
from tuneloop.artifacts.model_manifest import (
    MANIFEST,
    ModelFile,
    dump_model_manifest,
    parse_model_manifest,
)
from tuneloop.artifacts.records import OutputFile, Record
from tuneloop.errors import DataError, InputMissing, UsageError
from tuneloop.models.describe import CARD
from tuneloop.models.sources import HUB, refuse_credentials
from tuneloop.storage import files, paths
from tuneloop.training.models.publish.card import EvaluationFigure, with_evaluation

REPORT = "delta_report.json"

Progress = Callable[[int, int], None]
"""Called with the bytes that are written and the bytes of all files."""


@dataclass(frozen=True)
class Exported:
    """What an export has written."""

    place: str
    """URL of the folder, or of the hub's repository at the new commit."""
    files: tuple[ModelFile, ...]
    has_evaluation: bool
    """Whether the model card has figures of an evaluation."""


def export_model(
    run_id: str,
    target: str,
    artifacts: str,
    *,
    adapter: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Exported:
    """Copy the files of a tuned model, each verified by its digest, and complete its model card.

    Args:
        run_id: the run.
        target: a local folder, the URL of a folder, or `hf://ORGANIZATION/NAME`.
        artifacts: artifacts URL of the run.
        adapter: export the PEFT adapter in place of the whole model.
        overwrite: replace files of the target that have other content.
        progress: called while files are written.

    Raises:
        InputMissing: the run has no finished train stage.
        UsageError: the target has other files of these names, or the run has no adapter.
        DataError: a file was changed after it was recorded.
    """
    train = _record(artifacts, run_id, "train")
    if train is None:
        raise InputMissing(
            f"{layout.record_url(artifacts, run_id, 'train')}: missing, expected the record of a"
            f" finished train stage; finish the run, or give the --artifacts URL that holds it"
        )
    prefix = "adapter/" if adapter else "model/"
    outputs = {file.name.removeprefix(prefix): file for file in train.outputs_like(prefix)}
    if not outputs:
        raise UsageError(_nothing(run_id, adapter))
    report = _report(artifacts, run_id)
    written = _changed_files(outputs, report, artifacts, run_id)
    if not target.startswith(HUB):
        refuse_credentials(target)
        folder = paths.absolute(target)
        found = _write(folder, outputs, written, artifacts, overwrite, progress)
        return Exported(folder, found, report is not None)
    with tempfile.TemporaryDirectory(prefix="tuneloop-export-") as temporary:
        found = _write(temporary, outputs, written, artifacts, overwrite, progress)
        from tuneloop.models.hub import upload

        place = upload(Path(temporary), target, f"Model of tuneloop run {run_id}")
    return Exported(place, found, report is not None)


def _record(artifacts: str, run_id: str, stage: str) -> Record | None:
    return records.find(artifacts, run_id, stage)


def _nothing(run_id: str, adapter: bool) -> str:
    if adapter:
        return (
            f"run {run_id}: has no adapter, expected a run with train.method lora or qlora; export"
            " the whole model without --adapter"
        )
    return (
        f"run {run_id}: its train stage wrote no model/ files, expected a run of this version of"
        " tuneloop; run it again"
    )


def _report(artifacts: str, run_id: str) -> DeltaReport | None:
    evaluated = _record(artifacts, run_id, "eval")
    if evaluated is None:
        return None
    file = evaluated.output(REPORT)
    return load_report(records.read_output(file, artifacts), file.path)


def _changed_files(
    outputs: dict[str, OutputFile], report: DeltaReport | None, artifacts: str, run_id: str
) -> dict[str, bytes]:
    """Return the files that are not copied as they are: the card, and the manifest with it."""
    changed: dict[str, bytes] = {}
    if CARD in outputs:
        card = records.read_output(outputs[CARD], artifacts)
        changed[CARD] = card if report is None else _with_figures(card, report)
    if MANIFEST in outputs and CARD in changed:
        file = outputs[MANIFEST]
        manifest = parse_model_manifest(records.read_output(file, artifacts), file.path)
        described = tuple(
            _described(CARD, changed[CARD]) if each.name == CARD else each
            for each in manifest.files
        )
        # Where the base came from may be a path of this machine, which is nobody else's business.
        update = {"files": described, "source": f"tuneloop run {run_id}"}
        changed[MANIFEST] = dump_model_manifest(manifest.model_copy(update=update))
    return changed


def _with_figures(card: bytes, report: DeltaReport) -> bytes:
    groups = [report.overall, *(report.categories if len(report.categories) > 1 else ())]
    figures = [
        EvaluationFigure(each.name, each.tuned.total, each.base.share, each.tuned.share)
        for each in groups
    ]
    paired, header = report.overall.paired, report.header
    words = (
        f"Eval set {header.get('eval set', 'unknown')}, scorer {header.get('scorer', 'unknown')}:"
        f" {report.verdict}. {paired.improved} items improved and {paired.regressed} regressed"
        f" (exact McNemar test, p = {paired.p_value:.2g}). Contamination of the training data:"
        f" {header.get('contamination', 'unknown')}."
    )
    return with_evaluation(card, figures, words)


def _described(name: str, data: bytes) -> ModelFile:
    return ModelFile(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _write(
    folder: str,
    outputs: dict[str, OutputFile],
    changed: dict[str, bytes],
    artifacts: str,
    overwrite: bool,
    progress: Progress,
) -> tuple[ModelFile, ...]:
    """Write all files, the manifest last; files with the same content are kept."""
    wanted = {
        name: ModelFile(name=name, size_bytes=file.size_bytes, sha256=file.sha256)
        for name, file in outputs.items()
    }
    wanted |= {name: _described(name, data) for name, data in changed.items()}
    kept = {name for name, file in wanted.items() if _is_there(folder, file, overwrite)}
    total, done = sum(file.size_bytes for file in wanted.values()), 0
    for name in sorted(wanted, key=lambda each: (each == MANIFEST, each)):
        if name not in kept:
            _copy(_blocks(name, outputs, changed, artifacts), paths.join(folder, name))
        done += wanted[name].size_bytes
        progress(done, total)
    return tuple(sorted(wanted.values(), key=lambda each: each.name))


def _is_there(folder: str, file: ModelFile, overwrite: bool) -> bool:
    """Return whether the target has a file already; refuse another file of its name."""
    url = paths.join(folder, file.name)
    size = files.size_bytes(url)
    if size is None:
        return False
    if size == file.size_bytes:
        digest = hashlib.sha256()
        for block in files.iter_blocks(url):
            digest.update(block)
        if digest.hexdigest() == file.sha256:
            return True
    if overwrite:
        return False
    raise UsageError(
        f"{url}: is there already with other content, expected an empty folder; choose another"
        " folder, or pass --overwrite"
    )


def _blocks(
    name: str, outputs: dict[str, OutputFile], changed: dict[str, bytes], artifacts: str
) -> Iterator[bytes]:
    if name in changed:
        return iter((changed[name],))
    file = outputs[name]
    return files.iter_verified(paths.join(artifacts, file.path), file.size_bytes, file.sha256)


def _copy(blocks: Iterator[bytes], url: str) -> None:
    try:
        with files.Writer(url) as writer:
            for block in blocks:
                writer.write(block)
            writer.close()
    except DataError:
        files.delete_tree(url)  # nobody should load weights that are not as recorded
        raise
