"""Writes pages from the code: specs, verbs, variables, limits, exit codes, and the runbook.

mkdocs calls `on_files` when it builds the site, so the pages are never out of date.
`python docs/generate_reference.py spec|cli|settings|limits|errors|operations` prints one of them.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from enum import Enum
from typing import Any, Literal, get_args, get_origin

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

# This must be set before anything imports the specs.
os.environ["TUNELOOP_DESCRIBE_FIELDS"] = "1"

from pydantic import BaseModel
from schema_tables import cell, escape, model_sections, model_table, paragraphs, without_tags

from tuneloop import errors
from tuneloop.artifacts.evaluation.delta_report import DeltaReport
from tuneloop.cli import app
from tuneloop.k8s.diagnosis.runbook import RUNBOOK, Runbook
from tuneloop.runs.rounds.spec import RoundsSpec
from tuneloop.settings.environment import OTHERS, Settings
from tuneloop.settings.limits import InputLimits, Limits, variable
from tuneloop.specs.run import RunSpec
from tuneloop.specs.sampling import SampleRunSpec, SampleSpec
from tuneloop.specs.scoring import ScoreRunSpec, ScoreSpec
from tuneloop.specs.sweep import SweepSpec
from tuneloop.traces.schema import ReasoningTrace

SPEC_HEAD = """# Run spec

Every key of a run spec, the YAML file that `tuneloop run`, `plan`, `check`, `render` and `submit`
read. Unknown keys are errors. The keys below `execution` say where a run is made. All other keys
define its result: changing one makes a new run, which reuses the stages that did not change. This
page is generated from the models in `lib/tuneloop/specs/`. With the key [`sweep`](#sweep), a spec
describes several runs ([Compare settings with a sweep](../how-to/sweeps.md)); with the key
[`rounds`](#rounds), it improves a model with its own samples
([Improve a model in rounds](../how-to/rounds.md)).
"""

SCORING_HEAD = """# Scoring spec

Every key of a scoring spec, the YAML file with the key `score`
([Score stored traces](../how-to/store.md#score-stored-traces)).
[`execution`](spec.md#ExecutionSpec) is the same as in a run spec. Unknown keys are errors. This
page is generated from `lib/tuneloop/specs/scoring.py`.

## Top level

"""

SAMPLING_HEAD = """# Sampling spec

Every key of a sampling spec, the YAML file with the key `sample`
([Sample from a model](../how-to/sampling.md)). [`execution`](spec.md#ExecutionSpec) is the same as
in a run spec. Unknown keys are errors. This page is generated from
`lib/tuneloop/specs/sampling.py`.

## Top level

"""

CLI_HEAD = """# Command line

Every verb of `tuneloop` with its arguments and options. Results go to stdout, logs and errors to
stderr. `--json` prints the result for programs. [Exit codes](errors.md) are the same for all verbs.
This page is generated from the commands in `lib/tuneloop/cli/`.
"""

ERRORS_HEAD = """# Exit codes

A stage (`python -m jobs STAGE`) that fails prints one sentence and exits with the code of its error
class. The verb that ran the stage exits with another code, so that scripts can tell the causes
apart. [Architecture](../explanation/architecture.md#exit-codes) lists when it helps to try again.
This page is generated from `lib/tuneloop/errors.py`.
"""

SETTINGS_HEAD = """# Environment variables

Each verb and each stage reads these variables. An option of the command line comes before the spec,
the spec before the variable, and the variable before the default. Line ends and blanks around a
value are removed, so that `$(cat FILE)` and Secrets can supply it, and an empty variable counts as
absent. A variable with an invalid value is refused with exit code 2, before a verb does anything;
the message names it and shows no credential. An unknown variable that begins with `TUNELOOP_` gets
a warning with the nearest name.

[Limits](limits.md) have variables too. Credentials of object stores, registries, proxies and the
Hugging Face hub come from the variables and files that their own tools read. A token or URL with
spaces, control characters or characters beyond ASCII, and a file that cannot hold one, is refused
before anything is sent; the message names the variable or the file. This page is generated from
`lib/tuneloop/settings/environment.py`.
"""

OTHERS_HEAD = """
## Tests, scripts and pipelines

No verb reads these variables.

| variable | meaning |
|---|---|
"""

LIMITS_HEAD = f"""# Limits

A variable changes each limit, for example `{variable("head_seconds")}=30`. A refusal names the
limit and its variable. This page is generated from `lib/tuneloop/settings/limits.py`.

## Inputs

What one input of a verb or a stage may hold.
"""

STORE_LIMITS_HEAD = """
## The trace store

What clients of one store process may use.
"""

OPERATIONS_HEAD = """# Runbook: every verdict

`tuneloop explain RUN_ID` prints the verdict on a stage: a state, its cause, the evidence and a fix
for the stage at hand. This page has an entry for each state, with the exit code of `run` and
`wait`. [Find out why a run failed](how-to/diagnose.md) shows the commands. This page is generated
from `lib/tuneloop/k8s/diagnosis/runbook.py`.
"""


REPORT_HEAD = """# The delta report

`delta_report.json` has these keys. Readers ignore keys that they do not know, and reports without
the newer keys stay readable. [Evaluate a model](../how-to/evaluation.md#read-the-report) shows the
report. This page is generated from `lib/tuneloop/artifacts/evaluation/delta_report.py` and
`lib/tuneloop/artifacts/evaluation/`.
"""


TRACE_HEAD = """# Traces

A trace is one JSON object: a line of a file that `tuneloop traces import` reads, the body of
`POST /api/traces`, and a row of a dataset. Version 1.1 adds conversations, tools, rewards and
labels to version 1.0. The store reads both versions, keeps each trace as it was sent, and ignores
other keys; put data of your own into `meta`.
[Exchange data with other tools](../how-to/exchange.md) lists the formats that are converted. This
page is generated from `lib/tuneloop/traces/schema.py`.

A trace of a conversation holds the last message of the user as `prompt`, all messages before it as
`messages`, and what the model did after it as `steps` and `final_answer`. Steps of type
`tool_call`, `tool_result` and `message` are calls of tools, their results, and text that is no
final answer. Steps of all other types are reasoning.
"""


def traces_page() -> str:
    """Return the page with every key of a trace."""
    schema = ReasoningTrace.model_json_schema(mode="serialization")
    return TRACE_HEAD + "".join(model_sections(schema, schema["$defs"], "Top level"))


def report_page() -> str:
    """Return the page with every key of a delta report."""
    schema = DeltaReport.model_json_schema(mode="serialization")
    return REPORT_HEAD + "".join(model_sections(schema, schema["$defs"], "Top level"))


def spec_page() -> str:
    """Return the page with every key of a run spec."""
    schema = RunSpec.model_json_schema(by_alias=True)
    sweep = SweepSpec.model_json_schema(by_alias=True)
    rounds = RoundsSpec.model_json_schema(by_alias=True)
    sections = [
        *model_sections(schema, schema["$defs"], "Top level"),
        *model_sections(sweep, sweep["$defs"], "`sweep`", "sweep"),
        *model_sections(rounds, rounds["$defs"], "`rounds`", "rounds"),
    ]
    return SPEC_HEAD + "".join(sections)


def sampling_page() -> str:
    """Return the page with every key of a sampling spec, without those of `execution`."""
    return SAMPLING_HEAD + _spec_page(SampleRunSpec, SampleSpec, "sample")


def scoring_page() -> str:
    """Return the page with every key of a scoring spec, without those of `execution`."""
    return SCORING_HEAD + _spec_page(ScoreRunSpec, ScoreSpec, "score")


def _spec_page(run_spec: type[BaseModel], options: type[BaseModel], key: str) -> str:
    run = run_spec.model_json_schema(by_alias=True)
    schema = options.model_json_schema(by_alias=True)
    lines = [line for line in model_table(run).splitlines() if "| `execution` |" not in line]
    lines = [line.replace("(#ImportSpec)", "(spec.md#ImportSpec)") for line in lines]
    top = "\n".join(lines) + "\n"
    title = f"`{key}` {{ #{options.__name__} }}"
    return top + "".join(model_sections(schema, schema.get("$defs", {}), title, key))


def cli_page() -> str:
    """Return the page with every verb and its options."""
    return CLI_HEAD + "".join(_verb(words, verb) for words, verb in commands())


def commands() -> Iterator[tuple[str, Any]]:
    """Yield each verb that does something, with the words that call it."""

    def walk(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield words, command
            return
        for name, inner in command.commands.items():
            yield from walk(f"{words} {name}", inner)

    return walk("tuneloop", typer.main.get_command(app))


def _verb(words: str, verb: Any) -> str:
    arguments = [each for each in verb.params if each.param_type_name == "argument"]
    options = [each for each in verb.params if each.param_type_name == "option"]
    called = " ".join([words, *(_argument(each) for each in arguments), "[OPTIONS]"])
    text = f"\n## {words}\n\n{paragraphs(verb.help)}\n\n```\n{called}\n```\n"
    rows = [f"| `{_argument(each)}` | | {cell(each.help or '')} |" for each in arguments]
    rows += [_option(each) for each in options]
    if rows:
        text += "\n| | default | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    return text


def _argument(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    name = name if argument.nargs == 1 else f"{name}..."
    return name if argument.required else f"[{name}]"


def _option(option: Any) -> str:
    names = [*option.opts, *option.secondary_opts]
    value = "" if option.is_flag else f" {option.metavar or _value_of(option)}"
    default = option.default() if callable(option.default) else option.default
    if option.required:
        shown = "required"
    elif option.is_flag:
        shown = "on" if default else "off"
    elif default in (None, (), []):
        shown = ""
    else:
        shown = f"`{getattr(default, 'value', default)}`"
    meaning = cell(option.help or "") + (f" Variable: `{option.envvar}`." if option.envvar else "")
    return f"| `{', '.join(names)}{escape(value)}` | {shown} | {meaning} |"


def _value_of(option: Any) -> str:
    annotation = option.type_descriptor.annotation
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    if issubclass(annotation, Enum):
        return "|".join(str(each.value) for each in annotation)
    names = {str: "TEXT", int: "INTEGER", float: "NUMBER"}
    return names.get(annotation, str(annotation.__name__).upper())


def errors_page() -> str:
    """Return the page with every exit code."""
    rows = ["| error | a stage exits | a verb exits | meaning |", "|---|---|---|---|"]
    for error in error_classes():
        code = error.exit_code
        verb = errors.VERB_EXIT_CODES.get(code, code)
        of_stage = str(code) if code in errors.VERB_EXIT_CODES else "-"
        meaning = cell(inspect.getdoc(error) or "")
        rows.append(f"| `{error.__name__}` | {of_stage} | {verb} | {meaning} |")
    rows.append(
        f"| any other exception | {errors.EXIT_BUG} | {errors.VERB_EXIT_CODES[errors.EXIT_BUG]} |"
        " A bug; the traceback is in the log. |"
    )
    return ERRORS_HEAD + "\n" + "\n".join(rows) + "\n"


def error_classes() -> list[type[errors.TuneloopError]]:
    """Return the error classes that carry an exit code of their own."""
    return [
        each
        for each in vars(errors).values()
        if isinstance(each, type)
        and issubclass(each, errors.TuneloopError)
        and "exit_code" in vars(each)
        and each is not errors.TuneloopError
    ]


def limits_page() -> str:
    """Return the page with every limit of inputs and of the store."""
    of_inputs, of_store = InputLimits.model_json_schema(), Limits.model_json_schema()
    for key in of_inputs["properties"]:
        del of_store["properties"][key]
    tables = (model_table(of_inputs), model_table(of_store))
    return f"{LIMITS_HEAD}\n{tables[0]}{STORE_LIMITS_HEAD}\n{tables[1]}"


def settings_page() -> str:
    """Return the page with every environment variable."""
    others = "".join(f"| `{name}` | {cell(meaning)} |\n" for name, meaning in OTHERS.items())
    table = model_table(Settings.model_json_schema())
    return f"{SETTINGS_HEAD}\n{table}{OTHERS_HEAD}{others}"


def operations_page() -> str:
    """Return the page with every state of a verdict."""
    rows = ["| state | meaning | exit code |", "|---|---|---|"]
    for state, entry in RUNBOOK.items():
        codes = _codes(entry) or "-"
        rows.append(f"| [{state}](#{state.lower()}) | {cell(entry.meaning)} | {codes} |")
    parts = [OPERATIONS_HEAD, "\n", "\n".join(rows), "\n"]
    for state, entry in RUNBOOK.items():
        parts.append(f"\n## {state}\n\n{entry.meaning}\n\n")
        parts.append(f"- **What shows it:** {entry.evidence}\n")
        parts.append(f"- **What happens by itself:** {entry.automatic}\n")
        if entry.exit_codes:
            parts.append(f"- **Exit code of `run` and `wait`:** {_codes(entry)}\n")
        if entry.steps:
            steps = "\n".join(f"{n}. {step}" for n, step in enumerate(entry.steps, 1))
            parts.append(f"\nWhat to do:\n\n{steps}\n")
    return without_tags("".join(parts))


def _codes(entry: Runbook) -> str:
    return " or ".join(map(str, entry.exit_codes))


PAGES = {
    "reference/spec": spec_page,
    "reference/sampling": sampling_page,
    "reference/scoring": scoring_page,
    "reference/cli": cli_page,
    "reference/settings": settings_page,
    "reference/limits": limits_page,
    "reference/errors": errors_page,
    "reference/traces": traces_page,
    "reference/delta_report": report_page,
    "operations": operations_page,
}
"""Path of a page without its suffix -> what writes it."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site: a hook of mkdocs."""
    for name, write in PAGES.items():
        files.append(File.generated(config, f"{name}.md", content=write()))
    return files


if __name__ == "__main__":
    pages = {name.rsplit("/", 1)[-1]: write for name, write in PAGES.items()}
    sys.stdout.write(pages[sys.argv[1]]())
