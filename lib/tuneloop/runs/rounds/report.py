"""The report of rounds: sentences, statistics, a picture and the table of all runs.

It is made of records and of the files of the rounds alone, and holds no time, so the same rounds
always have the same report.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tuneloop import templating
from tuneloop.artifacts import layout
from tuneloop.artifacts.rounds import store
from tuneloop.artifacts.rounds.store import RoundsManifest
from tuneloop.runs.rounds.comparisons import Answer, answer_questions
from tuneloop.runs.rounds.rows import Row, build_rows, percent
from tuneloop.runs.rounds.scores import read_scores
from tuneloop.storage import files, paths

REPORT, REPORT_TEXT, REPORT_PAGE = "report.json", "report.md", "report.html"
FOLDER = "runs/rounds"
_STYLE = "evaluation/report/page/report.css.j2"


@dataclass(frozen=True)
class RoundsReport:
    """Everything that the report says."""

    rounds_id: str
    seeds: tuple[int, ...]
    count: int
    arms: tuple[str, ...]
    answers: tuple[Answer, ...]
    sentences: tuple[str, ...]
    """The answers and the gates in sentences, the most important one first."""
    rows: tuple[Row, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the report for report.json."""
        return {
            "schema_version": "1",
            "rounds_id": self.rounds_id,
            "seeds": list(self.seeds),
            "rounds": self.count,
            "arms": list(self.arms),
            "sentences": list(self.sentences),
            "answers": [answer.as_json() for answer in self.answers],
            "runs": [row.as_json() for row in self.rows],
        }


def build_report(manifest: RoundsManifest, artifacts: str) -> RoundsReport:
    """Read the results of all runs, and judge the arms.

    Raises:
        DataError: a record or a file of answers is broken.
    """
    rows = build_rows(manifest, artifacts)
    answers = answer_questions(read_scores(manifest, artifacts), manifest.arms)
    return RoundsReport(
        rounds_id=manifest.rounds_id,
        seeds=manifest.seeds,
        count=manifest.count,
        arms=manifest.arms,
        answers=tuple(answers),
        sentences=(
            *(answer.sentence for answer in answers),
            *_about_gates(rows),
            *_about_ends(manifest, artifacts),
            *_about_seeds(manifest.seeds),
        ),
        rows=tuple(rows),
    )


def write_report(manifest: RoundsManifest, artifacts: str) -> tuple[RoundsReport, str]:
    """Write report.json, report.md and report.html beside rounds.json.

    Returns:
        The report, and the URL of report.html.
    """
    report = build_report(manifest, artifacts)
    prefix = layout.rounds_prefix(artifacts, manifest.rounds_id)
    write_files(report, prefix)
    return report, paths.join(prefix, REPORT_PAGE)


def write_files(report: RoundsReport, folder: str) -> None:
    """Write report.json, report.md and report.html to a folder."""
    text = json.dumps(report.as_json(), ensure_ascii=False, indent=1)
    files.write(paths.join(folder, REPORT), text.encode() + b"\n")
    files.write(paths.join(folder, REPORT_TEXT), render_markdown(report).encode())
    files.write(paths.join(folder, REPORT_PAGE), render_html(report).encode())


def render_markdown(report: RoundsReport) -> str:
    """Render the report as Markdown."""
    return _render(f"{FOLDER}/report.md.j2", report)


def render_html(report: RoundsReport) -> str:
    """Render the report as one HTML file that loads nothing and has no script."""
    style = templating.render(_STYLE)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return _render(f"{FOLDER}/report.html.j2", report, style=Markup(style), policy=policy)


def _render(name: str, report: RoundsReport, **values: Any) -> str:
    environment = templating.environment(
        percent=percent, points=lambda gain: f"{100 * gain:+.1f}", cell=_cell
    )
    return environment.get_template(name).render(report=report, **values)


def _cell(text: str) -> str:
    """Format text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("`", "'")


def _about_gates(rows: Sequence[Row]) -> list[str]:
    judged = [row for row in rows if row.gate]
    if not judged:
        return []
    failed = [row for row in judged if row.gate == "failed"]
    text = f"Gates: {len(judged) - len(failed)} of {len(judged)} rounds passed"
    if not failed:
        return [f"{text}, and each was the base of the next round."]
    places = [
        f"seed {row.seed}, round {row.round}: {'; '.join(row.problems)}" for row in failed[:5]
    ]
    more = f", and {len(failed) - 5} more" if len(failed) > 5 else ""
    return [f"{text}. The others were not the base of the next round ({'; '.join(places)}{more})."]


def _about_ends(manifest: RoundsManifest, artifacts: str) -> list[str]:
    found = []
    for seed in manifest.seeds:
        end = store.read_end(artifacts, manifest.rounds_id, seed)
        if end is not None and end.state == "failed":
            found.append(f"Seed {seed} has failed, so its rounds are incomplete: {end.cause}")
    return found


def _about_seeds(seeds: Sequence[int]) -> list[str]:
    if len(seeds) > 1:
        return []
    return [
        "With one seed, the intervals reflect the questions alone and not the luck of sampling and"
        " training: set rounds.seeds to several seeds."
    ]
