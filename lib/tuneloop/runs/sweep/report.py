"""The report of a sweep: a table and a picture of all members, from their records and states."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from tuneloop import templating
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.evaluation.accuracy import Accuracy
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.sweeps.store import Member, SweepManifest, read_state
from tuneloop.errors import DataError, InputMissing, StageFailed
from tuneloop.history.cost.account import StageTaken, taken, taken_lines, total_cost
from tuneloop.history.cost.prices import PriceList
from tuneloop.history.stored import read_unfinished
from tuneloop.runs.outcome import load_outcome
from tuneloop.runs.sweep.curves import Curve, read_curve
from tuneloop.stages.pipelines import TRAINING_STAGES
from tuneloop.storage import files, paths

COLORS = ("#3b6ea5", "#c8553d", "#588157", "#8e6c8a", "#d9a441", "#4f9d9d", "#7a5c3e", "#444444")
WIDTH, HEIGHT, ROW = 640, 260, 22
"""Pixels of the panel of losses, and of a row of the panel of accuracies."""


@dataclass(frozen=True)
class Row:
    """One member in the table."""

    number: int
    label: str
    run_id: str
    state: str
    """`done`, `failed`, `stopped early`, `out of budget`, or `to run`."""
    cause: str
    steps: int
    validation_loss: float | None
    """Lowest validation loss; None without validation."""
    training_loss: float | None
    """Training loss of the last step."""
    before: Accuracy | None
    """Accuracy of the base model; None until the eval has its record."""
    after: Accuracy | None
    gain: float | None
    seconds: float
    """Seconds of all stages that this member has run itself; shared stages count once."""
    chip_hours: float
    taken: tuple[StageTaken, ...] = ()
    """What the member's own stages have taken on a cluster, as `runs show` reports it."""
    now: str = ""
    """Stage that is at work, with its step; empty if the member has ended, or waits."""

    @property
    def has_ended(self) -> bool:
        """Whether the member has ended, until the sweep is run again."""
        return self.state != "to run"

    def as_json(self) -> dict[str, Any]:
        """Return the row for report.json."""
        value = {**asdict(self), "before": None, "after": None, "cost": total_cost(self.taken)}
        for key, found in (("before", self.before), ("after", self.after)):
            if found is not None:
                value[key] = {**found.model_dump(mode="json"), "share": found.share}
        return value


def build_rows(
    manifest: SweepManifest, artifacts: str, prices: PriceList | None = None
) -> list[Row]:
    """Read the results of all members, in the order of the sweep.

    Args:
        manifest: the sweep.
        artifacts: URL of the artifacts.
        prices: the prices; None shows none.
    """
    return [_row(each, artifacts, manifest.sweep_id, prices) for each in manifest.members]


def taken_lines_of(rows: Sequence[Row], prices: PriceList | None) -> list[str]:
    """Describe what all members have taken; empty for a sweep on this machine."""
    return taken_lines([stage for row in rows for stage in row.taken], prices)


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Order rows by accuracy, then by validation loss; members without a result come last."""

    def rank(row: Row) -> tuple[float, float, int]:
        loss = row.validation_loss
        return (
            -row.after.share if row.after else 1.0,
            loss if loss is not None and math.isfinite(loss) else math.inf,
            row.number,
        )

    return sorted(rows, key=rank)


def write_report(
    manifest: SweepManifest, artifacts: str, prices: PriceList | None = None
) -> tuple[list[Row], str]:
    """Write report.json, report.md and report.svg of a sweep.

    Args:
        manifest: the sweep.
        artifacts: URL of the artifacts.
        prices: the prices; None shows none.

    Returns:
        The rows, and the URL of report.md.
    """
    rows = build_rows(manifest, artifacts, prices)
    prefix = layout.sweep_prefix(artifacts, manifest.sweep_id)
    value = {
        "schema_version": "1",
        "sweep_id": manifest.sweep_id,
        "currency": prices.currency if prices else None,
        "cost": total_cost([stage for row in rows for stage in row.taken]),
        "members": [
            {**row.as_json(), "values": member.values}
            for row, member in zip(rows, manifest.members, strict=True)
        ],
    }
    text = json.dumps(value, ensure_ascii=False, indent=1)
    files.write(paths.join(prefix, "report.json"), text.encode() + b"\n")
    curves = [read_curve(artifacts, row.run_id) for row in rows]
    files.write(paths.join(prefix, "report.svg"), render_svg(rows, curves).encode())
    url = paths.join(prefix, "report.md")
    files.write(url, render_markdown(manifest.sweep_id, rows, prices).encode())
    return rows, url


def check_members(sweep_id: str, rows: Sequence[Row]) -> None:
    """Fail if a member has failed.

    Raises:
        StageFailed: a member has failed.
    """
    failed = [row for row in rows if row.state == "failed"]
    if failed:
        raise StageFailed(
            f"sweep {sweep_id}: {len(failed)} of {len(rows)} members have failed, the first is"
            f" {failed[0].run_id}: {failed[0].cause}",
            stage="sweep",
            exit_code=20,
        )


def render_markdown(sweep_id: str, rows: Sequence[Row], prices: PriceList | None = None) -> str:
    """Render the table, best member first."""
    environment = templating.environment(
        share=percent,
        number=_number,
        cell=_cell,
        total=_total,
        points=lambda gain: f"{100 * gain:+.1f}",
    )
    template = environment.get_template("runs/sweep/report.md.j2")
    return template.render(
        sweep_id=sweep_id,
        rows=ranked(rows),
        currency=prices.currency if prices else "",
        taken_lines=taken_lines_of(rows, prices),
    )


def render_svg(rows: Sequence[Row], curves: Sequence[Curve]) -> str:
    """Draw the losses by step, and the accuracies with their 95 % intervals.

    Args:
        rows: the members, in the order of the sweep.
        curves: their losses.
    """
    has_validation = any(curve.validation for curve in curves)
    series = [
        {at: loss for at, loss in found.items() if math.isfinite(loss)}
        for found in (curve.validation if has_validation else curve.training for curve in curves)
    ]
    points = [point for each in series for point in each.items()]
    most_steps = max([1, *(step for step, _ in points)])
    low = min((loss for _, loss in points), default=0.0)
    high = max((loss for _, loss in points), default=1.0)
    span = (high - low) or 1.0

    def line(values: dict[int, float]) -> str:
        return " ".join(
            f"{WIDTH * step / most_steps:.1f},{HEIGHT * (high - loss) / span:.1f}"
            for step, loss in sorted(values.items())
        )

    return templating.render(
        "runs/sweep/report.svg.j2",
        title="validation loss" if has_validation else "training loss",
        width=WIDTH,
        height=HEIGHT,
        row_height=ROW,
        most_steps=most_steps,
        low=f"{low:.4g}",
        high=f"{high:.4g}",
        members=[
            {"row": row, "line": line(values), "color": COLORS[at % len(COLORS)]}
            for at, (row, values) in enumerate(zip(rows, series, strict=True))
        ],
        points=bool(points),
    )


def percent(accuracy: Accuracy | None) -> str:
    """Return an accuracy with its interval, such as `40.0 % (24.6 to 57.7)`."""
    if accuracy is None:
        return ""
    interval = f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}"
    return f"{100 * accuracy.share:.1f} % ({interval})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _total(stages: Sequence[StageTaken]) -> str:
    cost = total_cost(stages)
    return "" if cost is None else f"{cost:,.2f}"


def _cell(text: str) -> str:
    """Format text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("`", "'")


def _row(member: Member, artifacts: str, sweep_id: str, prices: PriceList | None) -> Row:
    run_id = member.run_id
    known = read_state(artifacts, sweep_id, run_id)
    curve = read_curve(artifacts, run_id)
    report, problem = None, ""
    try:
        report = load_outcome(artifacts, run_id).report
    except InputMissing:  # the member has not started
        pass
    except DataError as e:  # one broken member must not cost the table of all
        problem = str(e)
    own = f"training_runs/{run_id}/"
    found = [records.find(artifacts, run_id, stage) for stage in TRAINING_STAGES]
    ran = [each for each in found if each and any(o.path.startswith(own) for o in each.outputs)]
    return Row(
        number=member.number,
        label=member.label,
        run_id=run_id,
        state=known.state if known else "to run",
        cause=problem or (known.cause if known else ""),
        steps=curve.steps,
        validation_loss=curve.best_until(curve.steps),
        training_loss=curve.training[max(curve.training)] if curve.training else None,
        before=report.overall.base if report else None,
        after=report.overall.tuned if report else None,
        gain=report.overall.gain if report else None,
        seconds=round(sum(each.seconds for each in ran), 1),
        chip_hours=round(known.chip_hours, 4) if known else 0.0,
        taken=tuple(
            taken(artifacts, run_id, dict(zip(TRAINING_STAGES, found, strict=True)), prices)
        ),
        now="" if known else _working(artifacts, run_id, found),
    )


def _working(artifacts: str, run_id: str, found: Sequence[Record | None]) -> str:
    """Return the stage that reports progress, and its step; empty if none does."""
    stage = next(
        (name for name, record in zip(TRAINING_STAGES, found, strict=True) if not record), None
    )
    if stage is None:
        return ""
    try:
        current = read_unfinished(artifacts, run_id, stage, datetime.now(UTC))
    except DataError:  # a heartbeat is for people
        return ""
    if current.state != "running":
        return ""
    return f"{stage} {current.note.removesuffix('.').lower()}".strip()
