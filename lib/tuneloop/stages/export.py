"""Export: a dataset's trace shards -> training examples, with every trace accounted for.

The stage fails unless traces in = examples out + listed exclusions. Each process writes whole files
and a table with the outcome of every row. The last process finds duplicates over all tables,
rewrites the files that lose lines, and checks the balance. The files are therefore the same for any
number of processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tuneloop import resources
from tuneloop.artifacts import records
from tuneloop.artifacts.model_manifest import load_model_manifest
from tuneloop.artifacts.records import OutputFile, Record
from tuneloop.artifacts.results import Contamination, ExportCounts, ExportResults
from tuneloop.datasets.read import RowBlock, cut_blocks
from tuneloop.datasets.schema import DatasetManifest
from tuneloop.datasets.source import DatasetSource
from tuneloop.datasets.text.minhash import BANDS
from tuneloop.errors import DataError, InputMissing
from tuneloop.evaluation.sets.schema import EvalItem, parse_eval_set, prompts_sha256
from tuneloop.specs.stages import ExportStage
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.storage import files, lines, paths
from tuneloop.traces.response_text import render_response
from tuneloop.training.conversation import asked_conversation
from tuneloop.training.export import lengths, outcomes
from tuneloop.training.export.decontamination import ContaminationIndex, conversation_text
from tuneloop.training.export.examples import builder_of
from tuneloop.training.export.exclusions import SPLITS, Exclusion, Split, balance
from tuneloop.training.export.exporter import (
    CountConversation,
    CountTokens,
    ShardExporter,
    exclusion_line,
)
from tuneloop.training.export.files import SUFFIXES, text_blocks, text_writer
from tuneloop.training.export.index import IndexedFile, dump_offsets, index_url
from tuneloop.training.export.report import render_export_report

if TYPE_CHECKING:
    from tuneloop.training.conversation import Conversation
    from tuneloop.training.text.chat_format import ChatFormat

OUTCOMES, EXCLUSIONS = "outcomes/{}.parquet", "exclusions/{}.jsonl"
"""Intermediate files of a shard of output files."""
PREFIXES: dict[Split, str] = {"train": "examples", "validation": "validation"}
"""Split -> prefix of its file names."""


PROBES = (
    ("What is 2 + 2?", render_response(["2 + 2 is 4"], "4")),
    ("Name a colour.", render_response([], "blue")),
)
"""Conversations whose ids are checked before the first trace is read."""


def run(spec: ExportStage, stage: Stage) -> None:
    """Write this process's share of the files; a lone process also finishes the stage."""
    with DatasetSource(spec.execution.datasets) as source:
        manifest = _manifest(spec, source)
        stage.inputs["dataset"] = manifest.content_sha256
        _export_share(spec, stage, manifest, source)
    if stage.shard_count == 1:
        _finish(spec, stage, manifest)


def merge(spec: ExportStage, stage: Stage, shards: list[Record]) -> None:
    """Finish the stage from the files of all shards."""
    stage.take_over(shards)
    with DatasetSource(spec.execution.datasets) as source:
        manifest = _manifest(spec, source)
    _finish(spec, stage, manifest)


def _export_share(
    spec: ExportStage, stage: Stage, manifest: DatasetManifest, source: DatasetSource
) -> None:
    """Write this process's share of the files."""
    size = spec.options.shard_examples
    file_count = -(-manifest.trace_count // size)
    mine = stage.block(file_count)
    start, stop = mine.start * size, min(mine.stop * size, manifest.trace_count)
    blocks = cut_blocks(source.iter_row_range(manifest, start, stop), size)
    contamination = _contamination(spec, stage)
    count_tokens, count_conversation = _token_counters(spec, stage)
    done = 0
    for number in mine:
        exporter = ShardExporter(
            builder_of(manifest), spec.options, contamination, count_tokens, count_conversation
        )
        name = f"{number:05d}-of-{file_count:05d}"
        _write_shard(name, _numbered(blocks, start + done, size), exporter, spec, stage)
        done += len(exporter.entries)
        stage.progress(done, stop - start)
    # The reader checks counts and digests after the last row of each trace shard.
    if next(blocks, None) is not None or done != stop - start:
        raise DataError(
            f"dataset {manifest.dataset_key}: found {done} traces, expected {stop - start} from its"
            " manifest; rebuild the dataset"
        )
    stage.counts.update(traces=stop - start, shards=len(mine))


def _manifest(spec: ExportStage, source: DatasetSource) -> DatasetManifest:
    manifest = source.load_manifest(spec.dataset.key)
    if manifest.build_id != spec.dataset.build_id:
        raise DataError(
            f"dataset {spec.dataset.key}: build_id is {manifest.build_id}, expected"
            f" {spec.dataset.build_id} as planned; plan the run again"
        )
    return manifest


def _contamination(spec: ExportStage, stage: Stage) -> ContaminationIndex | None:
    if spec.options.contamination == "off":
        return None
    prompts: dict[str, str] = {}
    conversations: dict[str, str] = {}
    for number, each in enumerate(spec.eval_sets):
        ending = f" of the set {each.name}" if number else ""
        for item in _items(each.url, each.prompts_sha256):
            name, context = f"{item.id}{ending}", item.to_item("").context
            if context is None or not context.messages:
                prompts[name] = item.prompt
                continue
            *earlier, _ = asked_conversation(item.prompt, messages=context.messages).messages
            conversations[name] = conversation_text(earlier, item.prompt)
        stage.inputs[f"eval_prompts {each.name}"] = each.prompts_sha256
    return ContaminationIndex(prompts, conversations)


def _items(eval_set: str, expected_sha256: str) -> tuple[EvalItem, ...]:
    """Read the items of an eval set."""
    items = parse_eval_set(_read_input(eval_set), eval_set)
    if prompts_sha256(items) != expected_sha256:
        raise DataError(f"{eval_set}: changed after the run was planned; plan the run again")
    return items


def _token_counters(
    spec: ExportStage, stage: Stage
) -> tuple[CountTokens, CountConversation] | tuple[None, None]:
    """Count tokens exactly as training counts them; None if there is no tokenizer yet."""
    chat_format = _chat_format(spec, stage)
    if chat_format is None:
        return None, None
    from tuneloop.training.text.chat_format import check_prefix_property

    system = spec.system_instruction
    # The export comes first: a model whose template cannot be trained on fails here.
    check_prefix_property(chat_format, PROBES, system)

    def count(prompt: str, response: str) -> tuple[int, int]:
        before, after = chat_format.encode_example(prompt, response, system)
        return len(before), len(after)

    def count_conversation(conversation: Conversation) -> tuple[int, int]:
        longest = max(chat_format.turns.encode(conversation, system), key=lambda row: len(row.ids))
        return len(longest.ids) - longest.trained_count, longest.trained_count

    return count, count_conversation


def _chat_format(spec: ExportStage, stage: Stage) -> ChatFormat | None:
    if spec.model is None and spec.options.tokenizer is None:
        return None
    # Tokenizers come with the train extra; counting characters does not need it.
    from tuneloop.training.text.chat_format import load_chat_format
    from tuneloop.training.text.stored_format import read_chat_format
    from tuneloop.training.text.tokenizers import tokenizer_name

    if spec.model is not None:
        manifest = load_model_manifest(spec.model.folder)
        if manifest.digest != spec.model.digest:
            raise DataError(
                f"{spec.model.folder}: the model changed after the run was planned; plan the run"
                " again"
            )
        stage.inputs["model"] = manifest.digest
        return read_chat_format(manifest, spec.model.folder, thinking=spec.thinking)
    url = str(spec.options.tokenizer)
    data = _read_input(url)
    digest = hashlib.sha256(data).hexdigest()
    if digest != spec.tokenizer_sha256:
        raise DataError(f"{url}: changed after the run was planned; plan the run again")
    stage.inputs["tokenizer"] = digest
    return load_chat_format({tokenizer_name(data): data}, place=url)


def _read_input(url: str) -> bytes:
    try:
        return files.read(resources.input_url(url))
    except FileNotFoundError as e:
        raise InputMissing(f"{url}: missing; put it back, or plan the run again") from e


@contextlib.contextmanager
def _indexed_output(stage: Stage, name: str, folder: str | None = None) -> Iterator[IndexedFile]:
    """Write an examples file, then its index."""
    with stage.output(name, folder=folder) as output:
        with text_writer(name, output.write) as write:
            file = IndexedFile(write)
            yield file
        output.rows = file.rows
    with stage.output(index_url(name), folder=folder) as output:
        output.write(dump_offsets(file.offsets))


def _file_name(split: Split, name: str, spec: ExportStage) -> str:
    return f"{PREFIXES[split]}-{name}{SUFFIXES[spec.options.compression]}"


def _numbered(blocks: Iterator[RowBlock], start: int, size: int) -> Iterator[tuple[int, RowBlock]]:
    """Yield the next `size` rows, or the rest: each block with the number of its first row."""
    stop = start + size
    while start < stop and (block := next(blocks, None)) is not None:
        yield start, block
        start += len(block.rows)


def _write_shard(
    name: str,
    blocks: Iterator[tuple[int, RowBlock]],
    exporter: ShardExporter,
    spec: ExportStage,
    stage: Stage,
) -> None:
    """Write one shard's examples, then its outcome table and its exclusions."""
    splits = SPLITS if spec.options.validation_fraction else SPLITS[:1]
    with contextlib.ExitStack() as stack:
        outputs = {
            split: stack.enter_context(_indexed_output(stage, _file_name(split, name, spec)))
            for split in splits
        }
        for start, block in blocks:
            made = exporter.add(start, block)
            for split, file in outputs.items():
                file.add(made[split])
            stage.check_stop()
    stage.write_output(OUTCOMES.format(name), outcomes.dump_outcomes(exporter.entries))
    stage.write_output(EXCLUSIONS.format(name), b"".join(exporter.exclusions))


def _finish(spec: ExportStage, stage: Stage, manifest: DatasetManifest) -> None:
    """Find duplicates over all shards, write the final files, and check that no trace is lost."""
    written_files = {file.name: file for file in stage.withdraw()}
    prefix, suffix = OUTCOMES.split("{}")
    names = sorted(
        name.removeprefix(prefix).removesuffix(suffix)
        for name in written_files
        if name.startswith(prefix)
    )
    with tempfile.TemporaryDirectory() as folder:
        paths_of = {}
        for name in names:
            paths_of[name] = Path(folder) / f"{name}.parquet"
            file = written_files[OUTCOMES.format(name)]
            paths_of[name].write_bytes(records.read_output(file, stage.artifacts))
        tables = outcomes.OutcomeTables(list(paths_of.values()), Path(folder))
        try:
            if spec.options.duplicates == "drop":
                tables.remove_duplicates()
            if spec.options.near_duplicates == "drop":
                tables.remove_near_duplicates(BANDS)
            written = _write_final(written_files, paths_of, tables.removed(), spec, stage)
            _fill_record(spec, stage, manifest, tables, written)
        finally:
            tables.close()


def _write_final(
    written_files: dict[str, OutputFile],
    paths_of: dict[str, Path],
    removed: Iterator[outcomes.Removed],
    spec: ExportStage,
    stage: Stage,
) -> dict[str, int]:
    """Keep every file that loses no line, rewrite the others; return the lines by kind."""
    written = {"train": 0, "validation": 0, "excluded": 0}
    waiting = next(removed, None)
    with stage.output("exclusions.jsonl", folder="final") as exclusions:
        for name, path in paths_of.items():
            rows, ends = outcomes.read_outcomes(path)
            gone = {}
            while waiting is not None and waiting.row <= rows[-1]:
                gone[waiting.row] = waiting
                waiting = next(removed, None)
            for split in SPLITS:
                file = written_files.get(_file_name(split, name, spec))
                if file is None:
                    continue
                kept = [
                    row not in gone
                    for row, outcome in zip(rows, ends, strict=True)
                    if outcome == split
                ]
                written[split] += _finish_file(
                    file, written_files[index_url(file.name)], kept, stage
                )
            for line in _exclusion_lines(written_files[EXCLUSIONS.format(name)], gone, stage):
                exclusions.write_row(line)
            stage.check_stop()
        written["excluded"] = exclusions.rows
    return written


def _finish_file(file: OutputFile, index: OutputFile, kept: list[bool], stage: Stage) -> int:
    """Rewrite a file without its removed lines, or keep it; return the number of its lines."""
    if all(kept):
        stage.keep(file)
        stage.keep(index)
        return file.rows or 0  # null if the file has no lines
    url = paths.join(stage.artifacts, file.path)
    stays = iter(kept)
    with _indexed_output(stage, file.name, folder="final") as final:
        stored = files.iter_verified(url, file.size_bytes, file.sha256)
        blocks = text_blocks(file.name, stored)
        for block in lines.iter_line_blocks(blocks):
            block_lines = block.splitlines(keepends=True)
            pairs = zip(block_lines, islice(stays, len(block_lines)), strict=True)
            final.add_lines([line for line, kept_here in pairs if kept_here])
    return final.rows


def _exclusion_lines(
    file: OutputFile, gone: dict[int, outcomes.Removed], stage: Stage
) -> list[bytes]:
    """Return a shard's exclusions in dataset order: the exporter's and the duplicates in `gone`."""
    found = {
        msgspec.json.decode(line, type=Exclusion).row: line
        for line in records.read_output(file, stage.artifacts).splitlines(keepends=True)
    }
    for row, one in gone.items():
        like = "nearly like" if one.reason == "near_duplicate" else "like"
        detail = f"reads {like} the example of trace {one.kept_id}"
        found[row] = exclusion_line(row, one.trace_id, one.reason, detail)
    return [found[row] for row in sorted(found)]


def _fill_record(
    spec: ExportStage,
    stage: Stage,
    manifest: DatasetManifest,
    tables: outcomes.OutcomeTables,
    written: dict[str, int],
) -> None:
    """Check the balance, and write the record and the report."""
    place = f"dataset {manifest.dataset_key}"
    read = stage.counts
    traces = {"manifest": manifest.trace_count, "read": read["traces"]}
    counts = ExportCounts(
        **read,
        **balance(tables.outcomes(), written, traces, place),
        truncated=tables.flagged(outcomes.TRUNCATED),
        contaminated_kept=tables.flagged(outcomes.CONTAMINATED),
    )
    checked = spec.options.contamination != "off"
    contamination = Contamination(
        policy=spec.options.contamination,
        prompts_sha256=[each.prompts_sha256 for each in spec.eval_sets] if checked else [],
        excluded=counts.excluded_contaminated,
        kept=counts.contaminated_kept,
    )
    summaries = {
        name: lengths.summarise(found)
        for name in outcomes.LENGTHS
        if (found := tables.lengths(name))
    }
    stage.set_results(counts, ExportResults(contamination=contamination, lengths=summaries))
    stage.write_output("lengths.svg", lengths.render_picture(stage.results["lengths"]).encode())
    report = render_export_report(manifest, spec.options, stage.counts, stage.results["lengths"])
    stage.write_output("export_report.md", report.encode())
