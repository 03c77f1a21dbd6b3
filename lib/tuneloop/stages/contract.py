"""The stage contract: what every stage does besides its work.

Own record there: exit 0. The same fingerprint made by another run: take its record over. Else do
the work under `attempts/<attempt>/`, and publish the record last. Logs go to stderr and log.txt,
progress to progress.json, the last sentence to the termination log; SIGTERM asks the stage to stop
where it can continue later. Exit codes are those of `tuneloop.errors`. Where several processes
share a stage, each publishes the record of its part, and whichever finds all parts there merges
them into the stage's.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn, Union

from pydantic import Field, TypeAdapter, ValidationError

from tuneloop.artifacts import layout, records
from tuneloop.artifacts.records import Record
from tuneloop.errors import EXIT_OK, InputMissing, SpecError, UsageError
from tuneloop.specs.stages import StageSpec
from tuneloop.stages import reuse
from tuneloop.stages.context import Stage
from tuneloop.stages.failures import explain, report_failure
from tuneloop.stages.heartbeat import Heartbeat
from tuneloop.stages.table import STAGES
from tuneloop.storage import files
from tuneloop.validation import first_error

log = logging.getLogger("tuneloop.stage")


Run = Callable[[Any, Stage], None]
"""The work of a stage, or of one process's part of it: called with (stage spec, stage)."""
Merge = Callable[[Any, Stage, list[Record]], None]
"""Puts parts together: called with (stage spec, stage, records of the parts in order)."""


def run_stage(
    name: str,
    spec_url: str,
    run: Run | None = None,
    *,
    index: int = 0,
    count: int = 1,
    merge: Merge | None = None,
) -> int:
    """Run one stage, or one process's part of it, under the contract.

    Args:
        name: the stage that the command line asked for.
        spec_url: where its spec lies.
        run: the work; None: `run` of the stage's module in `stages/table.py`.
        index: which of the processes that share it this is.
        count: how many share it.
        merge: makes the stage's record of the parts' records; called by whichever process finds
            that all parts are there; None: `merge` of the stage's module, if `run` is None too.

    Returns:
        The exit code; 0 means that the record, or the part's record, is published.
    """
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("tuneloop").setLevel(logging.INFO)
    stage: Stage | None = None
    with contextlib.ExitStack() as stack:
        try:
            stage = _open_stage(name, spec_url, index, count)
            if run is None:
                run, merge = _work_of(name)
            _ensure_record(stage, run, merge, stack)
        except Exception as e:  # the contract: a bug is 70 with a traceback, not Python's bare 1
            place = stage.prefix if stage else spec_url
            # Under the heartbeat, so that log.txt has it too.
            code = report_failure(explain(e, name, place))
        else:
            code = EXIT_OK
    if stage is not None and stage.ranks > 1:
        _leave(code)
    return code


def _work_of(name: str) -> tuple[Run, Merge]:
    """The work of a stage; its module is imported when the work begins, under the contract."""

    def module() -> Any:
        return importlib.import_module(STAGES[name].module)

    return (
        lambda spec, stage: module().run(spec, stage),
        lambda spec, stage, parts: module().merge(spec, stage, parts),
    )


def _leave(code: int) -> NoReturn:
    """End this process of a gang at once: an ordinary exit would wait for peers that are gone."""
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
        return adapter.validate_json(files.read(url))
    except FileNotFoundError as e:
        raise InputMissing(f"{url}: missing; plan the run first") from e
    except ValidationError as e:
        raise SpecError(f"{url}: {first_error(e)}; plan the run again") from e


def _open_stage(name: str, url: str, index: int, count: int) -> Stage:
    spec = load_stage_spec(url)
    if spec.stage != name:
        raise UsageError(f"{url}: is the spec of stage {spec.stage}, expected one of stage {name}")
    started_at = datetime.datetime.now(datetime.UTC)
    # Sorted by time, and unique where two attempts start in one second.
    attempt = f"{started_at:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    return Stage(spec, started_at=started_at, attempt=attempt, index=index, count=count)


def _ensure_record(
    stage: Stage, run: Run, merge: Merge | None, stack: contextlib.ExitStack
) -> None:
    """Do the work unless its record stands; lock and heartbeat last as long as the stack."""
    if stage.standing_record() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stage.request_stop())
    if stage.ranks == 1:
        # A second run, or one whose first was killed, waits for the process still at work.
        stack.enter_context(files.exclusive(stage.own_url("lock"), stage.should_stop))
        if stage.standing_record() is not None:
            return
    stack.enter_context(Heartbeat(stage))
    if merge is None or stage.part is None:
        _publish(stage, run)
        return
    spec = stage.spec
    if records.find(stage.artifacts, spec.run_id, spec.stage, stage.part) is None:
        _publish(stage, run)
    # Killed between the two, the part stands and the next try has only this left to do.
    parts = _all_parts(stage)
    if parts is not None:
        _publish(stage.merging(), lambda spec, merged: merge(spec, merged, parts))


def _publish(stage: Stage, run: Run) -> None:
    """Work, then the record, then what people open."""
    spec = stage.spec
    part = f", part {stage.part}" if stage.part else ""
    log.info("stage %s of %s%s, attempt %s", spec.stage, spec.run_id, part, stage.attempt)
    run(spec, stage)
    if stage.rank == 0:
        record = records.publish(stage.build_record(), stage.artifacts)
        if record.part is None:
            reuse.copy_for_people(record, stage.artifacts)
        log.info("published after %.1f s", record.seconds)
    stage.at_end()


def _all_parts(stage: Stage) -> list[Record] | None:
    """The records of all parts, in order; None as long as one is missing."""
    found = []
    for index in range(stage.count):
        spec, part = stage.spec, layout.part_name(index, stage.count)
        record = records.find(stage.artifacts, spec.run_id, spec.stage, part)
        if record is None:
            return None
        found.append(record)
    return found
