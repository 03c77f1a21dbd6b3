"""Verify what a run was made from: its dataset, and the examples that its training encoded."""

from __future__ import annotations

from tuneloop.artifacts import layout
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.runs.run_manifest import DatasetOfRun, RunManifest
from tuneloop.artifacts.token_manifest import read_token_manifest
from tuneloop.datasets.croissant import dump_croissant
from tuneloop.datasets.schema import ContentHasher, DatasetManifest
from tuneloop.datasets.source import DatasetSource, is_store
from tuneloop.errors import DataError
from tuneloop.history.verification.findings import Findings
from tuneloop.storage import files
from tuneloop.storage.links import refuse_links_out
from tuneloop.storage.objects import list_objects
from tuneloop.storage.sealed import read_sealed_lines


def verify_dataset(findings: Findings, manifest: RunManifest, expected: DatasetOfRun) -> None:
    """Read all rows of the dataset of a run, and compare them with the digests of two manifests.

    Args:
        findings: receives what is found.
        manifest: manifest of the run.
        expected: the dataset as this manifest describes it.
    """
    key = expected.key
    execution = manifest.spec.get("execution")
    named = execution.get("datasets_url") if isinstance(execution, dict) else None
    place = named if isinstance(named, str) else findings.artifacts
    path = f"datasets/{key}/manifest.json"
    with findings.checking(path):
        if not is_store(place) and place == findings.artifacts:
            findings.read_json(path)
        with DatasetSource(place) as source:
            dataset = source.load_manifest(key)
            _compare(dataset, expected, findings.url(path))
            _rows(findings, source, dataset, is_local=place == findings.artifacts)
        if place == findings.artifacts:
            _description(findings, dataset)


def _compare(dataset: DatasetManifest, expected: DatasetOfRun, url: str) -> None:
    if dataset.build_id != expected.build_id:
        raise DataError(
            f"{url}: build_id is {dataset.build_id}, expected {expected.build_id} of the run; the"
            " dataset was built again with other traces"
        )


def _description(findings: Findings, dataset: DatasetManifest) -> None:
    """Compare the description for other tools with the one that the manifest gives."""
    path = f"datasets/{dataset.dataset_key}/croissant.json"
    url = findings.url(path)
    if findings.is_old:  # Older versions wrote no descriptions.
        return
    with findings.checking(path):
        refuse_links_out(findings.artifacts, [path])
        if files.read(url) != dump_croissant(dataset):
            raise DataError(
                f"{url}: is not the description of this dataset; delete the file, and build the"
                " dataset again, which writes it"
            )


def _rows(
    findings: Findings, source: DatasetSource, dataset: DatasetManifest, *, is_local: bool
) -> None:
    hasher, first = ContentHasher(), 0
    damaged = False
    for shard in dataset.shards:
        path = f"datasets/{dataset.dataset_key}/{shard.path}"
        before = len(findings.problems)
        with findings.checking(path):
            for block in source.iter_row_range(dataset, first, first + shard.rows):
                for row in block.rows:
                    hasher.add(row)
            findings.size_bytes += shard.size_bytes
        damaged = damaged or len(findings.problems) > before
        first += shard.rows
    if damaged:
        return
    content = hasher.content()
    if (content.sha256, content.stats) != (dataset.content_sha256, dataset.stats):
        raise DataError(
            f"{findings.url(f'datasets/{dataset.dataset_key}/manifest.json')}: its digest or its"
            " statistics are not those of its rows; rebuild the dataset"
        )


def verify_answers(findings: Findings, record: Record) -> None:
    """Verify the kept answers of base models that an evaluation names, as far as they are there.

    Args:
        findings: receives what is found.
        record: record of the eval stage.
    """
    for key in record.kept_answers:
        url = layout.eval_answers_url(findings.artifacts, key)
        path = f"eval_answers/{key}.jsonl"
        if not files.exists(url):
            continue  # a cache, which may be deleted
        with findings.checking(path):
            refuse_links_out(findings.artifacts, [path])
            data = files.read(url)
            findings.size_bytes += len(data)
            lines, damaged = read_sealed_lines(data)
            if damaged is not None or not lines or lines[0].get("key") != key:
                where = f"line {damaged}" if damaged is not None else "its first line"
                raise DataError(
                    f"{url}: {where} is not as it was written; delete the file, and later"
                    " evaluations ask the base model again"
                )


def verify_tokens(findings: Findings, attempts: set[str]) -> None:
    """Verify the token files that attempts of a training have written.

    Args:
        findings: receives what is found.
        attempts: names of the attempts of the train stage.
    """
    folders: dict[str, set[str]] = {}
    for each in list_objects(findings.url("tokens")):
        parts = each.name.split("/")
        if len(parts) == 4 and parts[1] == "attempts" and parts[2] in attempts:
            folders.setdefault(parts[0], set()).add(each.name)
    for digest in sorted(folders):
        path = f"tokens/{digest}/manifest.json"
        with findings.checking(path):
            manifest = read_token_manifest(findings.url(f"tokens/{digest}"))
            if manifest is None:
                raise FileNotFoundError(path)
            findings.read_json(path)
            before = len(findings.problems)
            with findings.checking(f"tokens/{digest}/lock"):
                url = findings.url(f"tokens/{digest}/lock")
                if files.local_path(url) is not None and files.size_bytes(url) != 0:
                    raise DataError(f"{url}: is missing or not empty, expected a lock file")
            for file in manifest.files:
                findings.compare(f"tokens/{digest}/{file.path}", file.size_bytes, file.sha256)
            if len(findings.problems) - before == len(manifest.files):
                url = findings.url(path)
                findings.add(path, f"{url}: none of its files is as recorded; delete the folder")
