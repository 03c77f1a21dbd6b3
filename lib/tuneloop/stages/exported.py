"""Read what the export stage wrote."""

from __future__ import annotations

from collections.abc import Iterator

from tuneloop.stages.lifecycle.context import Stage
from tuneloop.storage import files, lines, paths
from tuneloop.training.export.files import text_blocks
from tuneloop.training.schema import TrainingExample, parse_example

TRAINING, VALIDATION = "examples-", "validation-"
"""First parts of the names of the export's files."""


def has_rows(stage: Stage, prefix: str) -> bool:
    """Return whether the export has an example in files of this name."""
    return any(file.rows for file in stage.upstream("export").outputs_like(prefix))


def iter_examples(stage: Stage, prefix: str = TRAINING) -> Iterator[tuple[str, TrainingExample]]:
    """Stream (place, example) from every file of examples, verified.

    Args:
        stage: a stage that has the export upstream.
        prefix: TRAINING or VALIDATION.
    """
    for file in stage.upstream("export").outputs_like(prefix):
        place = paths.join(stage.artifacts, file.path)
        stored = files.iter_verified(place, file.size_bytes, file.sha256)
        found = lines.iter_lines(text_blocks(file.name, stored), place)
        for number, line in enumerate(found, start=1):
            at = f"{place}:{number}"
            yield at, parse_example(line, at)
