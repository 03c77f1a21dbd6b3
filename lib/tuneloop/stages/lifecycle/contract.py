"""The stage contract: what every stage does besides its work.

A stage with a record exits 0. If another run has a record with the same fingerprint, the stage
adopts it. Otherwise the stage works under `attempts/<attempt>/` and publishes its record last. Logs
go to stderr and log.txt, progress to progress.json, the final error to the termination log. SIGTERM
asks the stage to stop at a point from which it can continue. Exit codes are those of
`tuneloop.errors`. If several processes share a stage, each publishes the record of its shard, and
the process that finds all shards merges them into the record of the stage.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import importlib
import json
import logging
import os
import secrets
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn, Union

from pydantic import Field, TypeAdapter, ValidationError

from tuneloop.artifacts import layout, records
from tuneloop.artifacts.progress import read_progress_at
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.stage_logs.own import LOG_FORMAT, started_line
from tuneloop.artifacts.stage_logs.redaction import RedactingFormatter
from tuneloop.errors import EXIT_OK, InputMissing, SpecError, Transient, UsageError
from tuneloop.settings.environment import check_environment
from tuneloop.specs.stages import StageSpec
from tuneloop.stages.lifecycle import reuse
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.stages.lifecycle.failures import explain, report_failure
from tuneloop.stages.lifecycle.heartbeat import Heartbeat
from tuneloop.stages.lifecycle.stopping import StopOnSignal
from tuneloop.stages.sink.mlflow_run import check_installed
from tuneloop.stages.sink.sink import Sink
from tuneloop.stages.table import STAGES
from tuneloop.storage import files
from tuneloop.validation import first_error

log = logging.getLogger("tuneloop.stage")


Run = Callable[[Any, Stage], None]
"""The work of a stage, or of one shard of it: called with (stage spec, stage)."""
Merge = Callable[[Any, Stage, list[Record]], None]
"""Merges shards: called with (stage spec, stage, records of the shards in order)."""


def run_stage(
    name: str,
    spec_url: str,
    run: Run | None = None,
    *,
    shard_index: int = 0,
    shard_count: int = 1,
    merge: Merge | None = None,
) -> int:
    """Run one stage, or one shard of it, under the contract.

    Args:
        name: name of the stage.
        spec_url: URL of the stage spec.
        run: the work; None means `run` of the stage's module in `stages/table.py`.
        shard_index: number of this process among those that share the stage, from 0.
        shard_count: number of processes that share the stage.
        merge: merges the records of all shards, in the process that finds all of them; None means
            `merge` of the stage's module, if `run` is None too.

    Returns:
        The exit code; 0 means that the record of the stage or shard is published.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter(LOG_FORMAT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("tuneloop").setLevel(logging.INFO)
    stage: Stage | None = None
    with contextlib.ExitStack() as stack:
        try:
            for warning in check_environment():
                log.warning("%s", warning)
            stage = _open_stage(name, spec_url, shard_index, shard_count)
            if run is None:
                run, merge = _work_of(name)
            _ensure_record(stage, run, merge, stack)
        except Exception as e:  # the contract: a bug is 70 with a traceback, not Python's bare 1
            place = stage.prefix if stage else spec_url
            # Inside the heartbeat, so that log.txt also receives the error.
            code = report_failure(explain(e, name, place))
        else:
            code = EXIT_OK
    if stage is not None and stage.process_count > 1:
        _leave(code)
    return code


def _work_of(name: str) -> tuple[Run, Merge]:
    """Return the work of a stage; its module is imported under the contract, when work begins."""

    def module() -> Any:
        return _imported(STAGES[name].module)

    return (
        lambda spec, stage: module().run(spec, stage),
        lambda spec, stage, shards: module().merge(spec, stage, shards),
    )


def _imported(module: str) -> Any:
    """Import a stage's module without garbage collection, which takes a fifth of the time.

    What imports create lives as long as the process, so later collections skip it, too.
    """
    if module in sys.modules:
        return sys.modules[module]
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def _abandon(stage: Stage) -> NoReturn:
    """End a stage that was asked to stop and does not; the next attempt starts where it did."""
    error = Transient(f"stage {stage.spec.stage}: stopped by a signal; run again to continue")
    _leave(report_failure(error))


def _leave(code: int) -> NoReturn:
    """End the process at once; a normal exit would wait for threads or processes that are busy."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def load_stage_spec(url: str) -> StageSpec:
    """Read and validate a stage spec with the class of its stage.

    Raises:
        InputMissing: there is no such file.
        SpecError: the stage is unknown, or a field is missing, unknown or wrong.
    """
    known: Any = Union[tuple(row.spec for row in STAGES.values())]  # noqa: UP007 - made at run time
    adapter = TypeAdapter[StageSpec](Annotated[known, Field(discriminator="stage")])
    try:
        data = files.read(url)
        return adapter.validate_json(data)
    except FileNotFoundError as e:
        raise InputMissing(f"{url}: missing; plan the run first") from e
    except ValidationError as e:
        raise SpecError(f"{url}: {_first_error(e, data)}; plan the run again") from e


def _first_error(error: ValidationError, data: bytes) -> str:
    try:
        return first_error(error, json.loads(data))
    except ValueError:  # not JSON, so that no part of it has a location
        return first_error(error)


def _open_stage(name: str, url: str, shard_index: int, shard_count: int) -> Stage:
    spec = load_stage_spec(url)
    if spec.stage != name:
        raise UsageError(
            f"{url}: found the spec of stage {spec.stage}, expected one of stage {name};"
            " check --spec"
        )
    started_at = datetime.datetime.now(datetime.UTC)
    # Sorts by time, and stays unique if two attempts start in the same second.
    attempt = f"{started_at:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    return Stage(
        spec,
        started_at=started_at,
        attempt=attempt,
        shard_index=shard_index,
        shard_count=shard_count,
    )


def _ensure_record(
    stage: Stage, run: Run, merge: Merge | None, stack: contextlib.ExitStack
) -> None:
    """Do the work unless a record exists; lock and heartbeat are held until the stack closes."""
    if stage.existing_record() is not None:
        return
    stack.enter_context(StopOnSignal(stage, lambda: _abandon(stage)))
    if stage.process_count == 1:
        # A second process waits for the first, which may outlive the run that started it.
        stack.enter_context(files.exclusive(stage.own_url("lock"), stage.should_stop))
        if stage.existing_record() is not None:
            return
    check_installed(stage.spec.execution.metrics_sink)
    stage.note_earlier(read_progress_at(stage.own_url("progress.json")))
    stack.enter_context(Heartbeat(stage))
    if merge is None or stage.shard is None:
        _publish(stage, run)
        return
    spec = stage.spec
    if records.find(stage.artifacts, spec.run_id, spec.stage, stage.shard) is None:
        _publish(stage, run)
    # After a kill between the two steps, the shard's record exists and only this step is left.
    shards = _find_all_shards(stage)
    if shards is not None:
        _publish(stage.merging(), lambda spec, merged: merge(spec, merged, shards))


def _publish(stage: Stage, run: Run) -> None:
    """Do the work, publish the record, then copy the files that users open."""
    spec = stage.spec
    log.info("%s", started_line(spec.stage, spec.run_id, stage.shard, stage.attempt))
    with Sink(stage) as sink:
        stage.on_metrics = sink.step
        run(spec, stage)
        if stage.process_index == 0:
            record = records.publish(stage.build_record(), stage.artifacts)
            if record.part is None:
                reuse.copy_to_run_folder(record, stage.artifacts)
            log.info("published after %.1f s", record.seconds)
            sink.published(record)
        stage.at_end()


def _find_all_shards(stage: Stage) -> list[Record] | None:
    """Return the records of all shards, in order; None while one is missing."""
    found = []
    for index in range(stage.shard_count):
        spec, shard = stage.spec, layout.shard_name(index, stage.shard_count)
        record = records.find(stage.artifacts, spec.run_id, spec.stage, shard)
        if record is None:
            return None
        found.append(record)
    return found
