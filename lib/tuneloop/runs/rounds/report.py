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
from tuneloop.runs.rounds.comparisons import Answer, answer_questions, points
from tuneloop.runs.rounds.members import START
from tuneloop.runs.rounds.rows import Row, SelectionRow, build_rows, percent, read_selections
from tuneloop.runs.rounds.scores import read_scores
from tuneloop.storage import files, paths

REPORT, REPORT_TEXT, REPORT_PAGE = "report.json", "report.md", "report.html"
FOLDER = "runs/rounds"
_STYLE = "evaluation/report/page/report.css.j2"
_PICTURE_STYLE = ".scroll svg { min-width: 34rem; }\n"
"""On a narrow screen the picture scrolls, because its text would be too small."""


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
    selections: tuple[SelectionRow, ...] = ()
    """What became of the samples of each round."""

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
            "selections": [each.as_json() for each in self.selections],
        }


def build_report(manifest: RoundsManifest, artifacts: str) -> RoundsReport:
    """Read the results of all runs, and judge the arms. Runs with broken files are not judged."""
    rows = build_rows(manifest, artifacts)
    selections = read_selections(manifest, artifacts)
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
            *_about_results(manifest, rows),
            *_about_selections(selections, manifest.arms),
            *_about_ends(manifest, artifacts),
            *_about_broken(rows),
            *_about_seeds(manifest.seeds),
        ),
        rows=tuple(rows),
        selections=tuple(selections),
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
    style = templating.render(_STYLE) + _PICTURE_STYLE
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return _render(f"{FOLDER}/report.html.j2", report, style=Markup(style), policy=policy)


def _render(name: str, report: RoundsReport, **values: Any) -> str:
    environment = templating.environment(percent=percent, points=points, cell=_cell, scale=_scale)
    return environment.get_template(name).render(report=report, **values)


def _scale(answers: Sequence[Answer]) -> float:
    """Return the largest difference that the picture has to show, 0 to 1."""
    found = [each.comparison for each in answers if each.comparison]
    most = max((abs(v) for c in found for v in (c.low, c.high, *c.by_seed)), default=1.0)
    return next(each for each in (0.05, 0.1, 0.2, 0.5, 1.0) if most <= each)


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
        return [f"{text}."]
    places = [f"seed {row.seed}, round {row.round}: {'; '.join(row.problems)}" for row in failed]
    return [f"{text}. No round starts from a model that failed ({_first(places)})."]


def _about_results(manifest: RoundsManifest, rows: Sequence[Row]) -> list[str]:
    """Name the model that each finished chain has led to."""
    found = []
    for seed in manifest.seeds:
        of_seed = [row for row in rows if row.seed == seed]
        passed = [row for row in of_seed if row.gate == "passed"]
        if any(row.state not in ("done", "nothing selected") for row in of_seed):
            continue
        first = of_seed[0].run_id if of_seed[0].role == START else of_seed[0].base
        result = passed[-1].run_id if passed else first
        none = "" if passed else ", where no round has passed"
        found.append(f"{result} (seed {seed}{none})")
    if not found:
        return []
    runs = "model is that of" if len(found) == 1 else "models are those of"
    return [f"Result: after the last round, the {runs} {_first(found)}."]


def _about_selections(selections: Sequence[SelectionRow], arms: Sequence[str]) -> list[str]:
    """Name the rounds in which the selection could not make a difference."""
    count, found = len(selections), []
    empty = [each for each in selections if not each.counts.selected]
    if empty:
        found.append(
            f"In {len(empty)} of {count} rounds no sample was selected, so nothing was trained and"
            f" the base model stays ({_first([each.sentence for each in empty])})."
        )
    taken = [each for each in selections if 0 < each.counts.selected == each.counts.usable]
    if taken and "random" in arms:
        places = [f"seed {each.seed}, round {each.round}" for each in taken]
        found.append(
            f"In {len(taken)} of {count} rounds every usable sample was selected, so the arms"
            f" selected and random have the same data and are equal ({_first(places)})."
        )
    return found


def _first(places: Sequence[str], most: int = 5) -> str:
    more = f"; and {len(places) - most} more" if len(places) > most else ""
    return "; ".join(places[:most]) + more


def _about_broken(rows: Sequence[Row]) -> list[str]:
    broken = [row for row in rows if row.error]
    return [f"Run {row.run_id} is not in the comparisons: {row.error}" for row in broken]


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
