"""The verb `gate`, and the options of a gate."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tuneloop.cli.shared.option_groups import OneRun, expand_groups
from tuneloop.cli.shared.options import MOST, Json, given_file, print_json
from tuneloop.errors import UsageError

if TYPE_CHECKING:
    from tuneloop.evaluation.gates.policy import Policy
    from tuneloop.runs.gating.judge import GateResult
    from tuneloop.runs.outcome import Outcome


def _baseline_or_file(context: typer.Context, value: str | None) -> str | None:
    return value if value == "baseline" else given_file(context, value)


@dataclass(frozen=True)
class GateOptions:
    """What the result of a run must show."""

    min_accuracy: Annotated[
        float | None,
        typer.Option(
            "--min-accuracy", min=0, max=1, help="Minimum accuracy of the tuned model, 0 to 1."
        ),
    ] = None
    min_gain: Annotated[
        float | None,
        typer.Option(
            "--min-gain",
            min=-1,
            max=1,
            help="Minimum accuracy gain (tuned - base); 0 allows no regression.",
        ),
    ] = None
    max_regressions: Annotated[
        int | None,
        typer.Option(
            "--max-regressions",
            min=0,
            max=MOST,
            help="Maximum number of items that only the base model answered correctly.",
        ),
    ] = None
    min_gain_low: Annotated[
        float | None,
        typer.Option(
            "--min-gain-low",
            min=-1,
            max=1,
            help="Minimum lower end of the gain's 95 % interval.",
        ),
    ] = None
    min_guard_kept: Annotated[
        float | None,
        typer.Option(
            "--min-guard-kept",
            min=0,
            max=1,
            help="Minimum share of the guarded questions the base answered correctly that must"
            " still be correct.",
        ),
    ] = None
    fail_if: Annotated[
        Literal["regressed", "not-improved"] | None,
        typer.Option(
            "--fail-if",
            help="regressed: fail if a required or guarded set has got worse. not-improved: fail"
            " also if a required set is not shown to be better. All evaluated models are in a"
            " ledger of candidates; later candidates need more evidence.",
        ),
    ] = None
    approved: Annotated[
        str | None,
        typer.Option(
            "--approved",
            metavar="baseline|FILE",
            callback=_baseline_or_file,
            help="Items that must be correct: those that the base or the baseline answers"
            " correctly, or those of a file with one item id per line.",
        ),
    ] = None
    max_set_loss: Annotated[
        float | None,
        typer.Option(
            "--max-set-loss",
            min=0,
            max=1,
            help="Maximum loss of accuracy on any required set; 0.02 is 2 points.",
        ),
    ] = None
    max_errors: Annotated[
        int | None,
        typer.Option(
            "--max-errors",
            min=0,
            max=MOST,
            help="Maximum number of answers that are missing or could not be scored; `gate` allows"
            " none by default.",
        ),
    ] = None
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            help="Named baseline that takes the place of the base model for --fail-if, --approved"
            " and --max-set-loss.",
        ),
    ] = None

    @property
    def is_given(self) -> bool:
        """Whether any option is given."""
        return bool(self.conditions)

    @property
    def conditions(self) -> dict[str, object]:
        """The options that are given, with their values."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def judge(self, artifacts: str, outcome: Outcome) -> GateResult:
        """Judge a run."""
        from tuneloop.evaluation.gates.limits import Gate
        from tuneloop.runs.gating.judge import judge_run

        gate = Gate(
            self.min_accuracy,
            self.min_gain,
            self.max_regressions,
            self.min_gain_low,
            self.min_guard_kept,
            self.max_errors or 0,
        )
        return judge_run(artifacts, outcome, gate, self._policy(), baseline=self.baseline)

    def _policy(self) -> Policy | None:
        conditions = (self.fail_if, self.approved, self.max_set_loss)
        if all(each is None for each in conditions):
            if self.baseline is not None:
                raise UsageError(
                    f"--baseline {self.baseline}: expected --fail-if, --approved or --max-set-loss"
                    " with it, which compare with the baseline; add one of them"
                )
            return None
        from tuneloop.evaluation.gates.policy import Policy

        return Policy(
            fail_if=self.fail_if,
            approved=_approved(self.approved),
            max_set_loss=self.max_set_loss,
            max_errors=self.max_errors or 0 if self.baseline is not None else None,
        )


def _approved(value: str | None) -> Literal["baseline"] | frozenset[str] | None:
    if value is None or value == "baseline":
        return value  # type: ignore[return-value]  # mypy does not narrow str by ==
    from tuneloop.storage import files

    try:
        lines = files.read(value).decode("utf-8").splitlines()
    except FileNotFoundError as e:
        raise UsageError(f"{value}: no such file, expected item ids; check --approved") from e
    except UnicodeDecodeError as e:
        raise UsageError(f"{value}: not UTF-8, expected one item id per line; convert it") from e
    found = frozenset(line.strip() for line in lines) - {""}
    if not found:
        raise UsageError(f"{value}: empty, expected one item id per line; add the ids")
    return found


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(expand_groups(gate))


def gate(
    run: OneRun,
    limits: GateOptions,
    promote: Annotated[
        str | None,
        typer.Option(help="Make a run that passes the newest version of this named baseline."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check the result of a run. Exit 13 if it fails the gate, 12 if there is none yet."""
    from tuneloop.cli.shared import github
    from tuneloop.errors import GateFailed
    from tuneloop.runs.gating.judge import promote_run, require_pass
    from tuneloop.runs.outcome import load_outcome, required_report

    outcome = load_outcome(run.artifacts_url, run.run_id)
    result = limits.judge(run.artifacts_url, outcome)
    if as_json:
        print_json(result.as_json())
    try:
        require_pass(outcome, result)
    except GateFailed as e:
        github.annotate("error", f"{run.run_id}: gate", str(e))
        raise
    if not as_json:
        found = required_report(outcome).overall
        for one in result.decisions:
            typer.echo(one.sentence)
        typer.echo(
            f"{run.run_id}: accuracy {100 * found.base.share:.1f} % ->"
            f" {100 * found.tuned.share:.1f} %, {found.paired.regressed} items regressed: the gate"
            " passes"
        )
    if promote is not None:
        typer.echo(promote_run(run.artifacts_url, result, promote), err=as_json)
