"""The results of a run as logs of inspect_ai, one for each eval set and model.

inspect_ai itself writes them, so `inspect view` and its analysis functions read them.
Every id and time comes from the run, so that one run gives the same bytes each time.
"""

from __future__ import annotations

import io
import re
import tempfile
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tuneloop.artifacts import records
from tuneloop.artifacts.evaluation.eval_samples import (
    EvalSamples,
    EvalSet,
    Item,
    Judgement,
    Model,
    Sample,
)
from tuneloop.errors import InputMissing, UsageError
from tuneloop.evaluation.report.texts import texts_before
from tuneloop.runs.outcome import load_outcome, required_report
from tuneloop.runs.reports.samples import read_samples
from tuneloop.storage import files, paths

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample
    from inspect_ai.model import ChatMessage
    from inspect_ai.scorer import Score

STRICT, LENIENT = "strict", "lenient"
"""Names of the two scorers in a log; the first one is inspect_ai's headline."""
ENTRY_TIME = (1980, 1, 1, 0, 0, 0)
"""Time of the files in a log: the first one that a ZIP file can state."""


@dataclass(frozen=True)
class _Source:
    """What all logs of a run have in common."""

    run_id: str
    started: datetime
    ended: datetime
    facts: dict[str, str]
    """Header of the report: decoding, recipe, seed and others."""
    libraries: dict[str, str]
    """Versions of the packages that evaluated."""


def write_logs(artifacts: str, run_id: str, folder: str) -> Iterator[str]:
    """Write one log for each eval set and model; logs of the same names are replaced.

    Args:
        artifacts: artifacts URL of the run.
        run_id: the run.
        folder: path or URL of the folder.

    Yields:
        The place of each log after it was written.

    Raises:
        UsageError: inspect_ai is not installed.
        InputMissing: the run has no evaluation, or one without samples.
        DataError: a file of the run is broken.
    """
    try:
        import inspect_ai.log  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(
            "--format inspect: the package inspect-ai is not installed, expected it; install"
            " requirements/inspect.txt"
        ) from error
    report = required_report(load_outcome(artifacts, run_id))
    found = read_samples(artifacts, run_id)
    record = records.find(artifacts, run_id, "eval")
    if record is None:
        raise InputMissing(f"run {run_id}: stage eval has no record; wait for the run")
    started = datetime.fromisoformat(record.started_at)
    libraries = record.provenance.get("libraries")
    source = _Source(
        run_id,
        started,
        started + timedelta(seconds=record.seconds),
        dict(report.header),
        libraries if isinstance(libraries, dict) else {},
    )
    for model in found.models.values():
        for eval_set in found.sets.values():
            log = _log(source, found, eval_set, model)
            if log is not None:
                place = paths.join(folder, _file_name(source, eval_set, model))
                files.write(place, _serialised(log))
                yield place


def _log(source: _Source, found: EvalSamples, eval_set: EvalSet, model: Model) -> EvalLog | None:
    """Build a log; None if the model did not answer the set."""
    from inspect_ai.log import (
        EvalConfig,
        EvalDataset,
        EvalLog,
        EvalSpec,
        EvalStats,
        recompute_metrics,
    )

    name = f"tuneloop/{source.run_id}/{model.name}"
    samples = [
        _sample(source, found.items[one.set, one.item], one, name)
        for one in found.samples
        if (one.set, one.model) == (eval_set.name, model.name)
    ]
    if not samples:
        return None
    ids = list(dict.fromkeys(one.id for one in samples))
    spec = EvalSpec(
        eval_id=_identifier(source, "eval", eval_set.name, model.name),
        run_id=_identifier(source, "run"),
        created=source.started.isoformat(),
        task=eval_set.name,
        task_id=_identifier(source, "task", eval_set.name, model.name),
        task_version=eval_set.version or 0,
        dataset=EvalDataset(name=eval_set.name, samples=len(ids), sample_ids=ids, shuffled=False),
        model=name,
        model_args={"digest": model.digest, "run": model.run, "examples": model.examples},
        config=EvalConfig(epochs=eval_set.samples, epochs_reducer=["mean"]),
        packages=source.libraries,
        metadata={
            "tuneloop_run": source.run_id,
            "set": msgspec.to_builtins(eval_set),
            "report": source.facts,
        },
    )
    log = EvalLog(
        status="success",
        eval=spec,
        stats=EvalStats(
            started_at=source.started.isoformat(),
            completed_at=source.ended.isoformat(),
            model_usage={name: _usage(sum(one.output.usage.output_tokens for one in samples))},
        ),
        samples=samples,
    )
    recompute_metrics(log)  # without declared scorers: accuracy and standard error of each score
    return log


def _sample(source: _Source, item: Item, one: Sample, model: str) -> EvalSample:
    from inspect_ai.log import EvalError, EvalSample
    from inspect_ai.model import (
        ChatCompletionChoice,
        ChatMessageAssistant,
        ChatMessageUser,
        ModelOutput,
    )

    def identifier(what: str) -> str:
        return _identifier(source, what, one.set, one.model, one.item, str(one.sample))

    asked = ChatMessageUser(id=identifier("question"), content=item.prompt)
    before = _messages_before(item, identifier)
    answer = ChatMessageAssistant(
        id=identifier("answer"), content=one.text, model=model, source="generate"
    )
    metadata = msgspec.to_builtins(item)
    shown = ("kind", "set", "id", "prompt", "expected_answer", "accepted_answers")
    for key in (*shown, "system", "messages"):
        metadata.pop(key, None)
    usage = _usage(one.tokens)
    # A generation that failed has no text; with a text, it is the scorer that failed.
    failed = one.score.state == "error" and not one.text
    why = one.score.explanation or "the answer could not be generated"
    return EvalSample(
        id=one.item,
        epoch=one.sample + 1,
        input=[*before, asked] if before else item.prompt,
        target=[item.expected_answer, *item.accepted_answers]
        if item.accepted_answers
        else item.expected_answer,
        messages=[*before, asked, answer],
        output=ModelOutput(
            model=model,
            choices=[
                ChatCompletionChoice(
                    message=answer,
                    stop_reason="unknown" if failed else "max_tokens" if one.hit_limit else "stop",
                )
            ],
            usage=usage,
        ),
        scores={STRICT: _score(one.score), LENIENT: _score(one.lenient_score)},
        metadata=metadata,
        model_usage={model: usage},
        uuid=identifier("sample"),
        error=EvalError(message=why, traceback=why, traceback_ansi=why) if failed else None,
    )


def _messages_before(item: Item, identifier: Callable[[str], str]) -> list[ChatMessage]:
    """Return the system message and the earlier turns of an item; calls of tools as their text."""
    from inspect_ai.model import (
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageTool,
        ChatMessageUser,
    )

    kinds = {
        "system": ChatMessageSystem,
        "user": ChatMessageUser,
        "assistant": ChatMessageAssistant,
        "tool": ChatMessageTool,
    }
    turns = [(who, text) for who, text in texts_before(item) if who in kinds]
    return [
        kinds[who](id=identifier(f"before {number}"), content=text)
        for number, (who, text) in enumerate(turns)
    ]


def _score(judged: Judgement) -> Score:
    """Return a score with inspect_ai's letters; an answer of which nothing is known has none."""
    from inspect_ai.scorer import CORRECT, INCORRECT, NOANSWER, Score

    metadata = {"state": judged.state, "value": judged.value, "matched": judged.matched}
    common = {"answer": judged.answer, "explanation": judged.explanation, "metadata": metadata}
    if judged.state == "error":
        return Score.unscored(reason="scoring_failed", **common)
    letters = {"correct": CORRECT, "wrong": INCORRECT}
    return Score(value=letters.get(judged.state, NOANSWER), **common)


def _usage(tokens: int) -> Any:
    from inspect_ai.model import ModelUsage

    return ModelUsage(output_tokens=tokens, total_tokens=tokens)


def _identifier(source: _Source, *parts: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, "\0".join((source.run_id, *parts))).hex


def _file_name(source: _Source, eval_set: EvalSet, model: Model) -> str:
    """Return a name with the parts that inspect_ai looks for: time, task, model and id."""
    parts = source.started.isoformat(timespec="seconds"), eval_set.name, model.name
    plain = (re.sub(r"[^A-Za-z0-9.-]+", "-", part.replace(":", "-")).strip("-") for part in parts)
    identifier = _identifier(source, "task", eval_set.name, model.name)
    return "_".join((*(part or "-" for part in plain), identifier)) + ".eval"


def _serialised(log: EvalLog) -> bytes:
    """Let inspect_ai write the log; then give the entries of the ZIP file a fixed time."""
    from inspect_ai.log import write_eval_log

    made = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "log.eval")
        write_eval_log(log, written)
        with zipfile.ZipFile(written) as source, zipfile.ZipFile(made, "w") as target:
            for entry in source.infolist():
                content = source.read(entry)
                entry.date_time = ENTRY_TIME
                target.writestr(entry, content)
    return made.getvalue()
