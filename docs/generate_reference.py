"""Writes pages from the code: specs, verbs, variables, limits, exit codes, and the runbook.

mkdocs calls `on_files` when it builds the site, so the pages are never out of date.
`python docs/generate_reference.py spec|cli|settings|limits|errors|operations` prints one of them.
"""

from __future__ import annotations

import inspect
import json
import os
import re
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

from tuneloop import errors
from tuneloop.artifacts.delta_report import DeltaReport
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

LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "minimum length {}",
    "maxLength": "maximum length {}",
    "pattern": "pattern `{}`",
}
"""Keyword of a JSON schema -> how the page says it."""
ANY_VALUE = "JsonValue"
"""Name of pydantic's model for any JSON value."""

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
report. This page is generated from `lib/tuneloop/artifacts/delta_report.py`.
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
    return TRACE_HEAD + "".join(_sections(schema, schema["$defs"], "Top level"))


def report_page() -> str:
    """Return the page with every key of a delta report."""
    schema = DeltaReport.model_json_schema(mode="serialization")
    return REPORT_HEAD + "".join(_sections(schema, schema["$defs"], "Top level"))


def spec_page() -> str:
    """Return the page with every key of a run spec."""
    schema = RunSpec.model_json_schema(by_alias=True)
    sweep = SweepSpec.model_json_schema(by_alias=True)
    rounds = RoundsSpec.model_json_schema(by_alias=True)
    sections = [
        *_sections(schema, schema["$defs"], "Top level"),
        *_sections(sweep, sweep["$defs"], "`sweep`", "sweep"),
        *_sections(rounds, rounds["$defs"], "`rounds`", "rounds"),
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
    places = {options.__name__: [key]}
    lines = [line for line in _table(run, places).splitlines() if "| `execution` |" not in line]
    lines = [line.replace("(#ImportSpec)", "(spec.md#ImportSpec)") for line in lines]
    top = "\n".join(lines) + "\n"
    title = f"`{key}` {{ #{options.__name__} }}"
    return top + "".join(_sections(schema, schema.get("$defs", {}), title, key))


def _sections(
    schema: dict[str, Any], definitions: dict[str, Any], head: str, place: str = ""
) -> Iterator[str]:
    """The spec's own section, then one for each spec that is nested in it."""
    places: dict[str, list[str]] = {}
    order: list[tuple[str, dict[str, Any]]] = []

    def visit(path: str, node: dict[str, Any]) -> None:
        for key, field in node["properties"].items():
            for name in _references(field):
                inner = f"{path}.{key}" if path else key
                if name not in places:
                    order.append((name, definitions[name]))
                    places[name] = []
                places[name].append(inner)
                visit(inner, definitions[name])

    visit(place, schema)
    yield f"\n## {head}\n\n{schema['description']}\n\n" + _table(schema, places)
    for name, node in order:
        title = ", ".join(f"`{path}`" for path in dict.fromkeys(places[name]))
        yield f"\n## {title} {{ #{name} }}\n\n{_line(node.get('description', ''))}\n\n"
        yield _table(node, places)


def _references(field: dict[str, Any]) -> list[str]:
    """Return the names of all models in a field, also in lists and choices."""
    if "$ref" in field:
        return [] if _name(field) == ANY_VALUE else [_name(field)]
    nested = [*field.get("anyOf", []), *field.get("oneOf", []), *field.get("allOf", [])]
    nested += [field[key] for key in ("items", "additionalProperties") if key in field]
    return [name for each in nested if isinstance(each, dict) for name in _references(each)]


def _name(field: dict[str, Any]) -> str:
    return str(field["$ref"]).rsplit("/", 1)[1]


def _table(node: dict[str, Any], places: dict[str, list[str]]) -> str:
    required = set(node.get("required", ()))
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in node["properties"].items():
        default = "required" if key in required else _default(field)
        cells = (f"`{key}`", _type(field), default, _line(field.get("description", "")))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _type(field: dict[str, Any]) -> str:
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}" if field.get("items") else "list"
    if "$ref" in field and _name(field) == ANY_VALUE:
        return "any value"
    if "$ref" in field:
        return f"[{_name(field)}](#{_name(field)})"
    if choices := field.get("anyOf") or field.get("oneOf") or field.get("allOf"):
        return " or ".join(_type(each) for each in choices)
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "object":
        inner = field.get("additionalProperties")
        return "mapping of text to " + (_type(inner) if isinstance(inner, dict) else "any value")
    name = {"string": "text", "boolean": "true or false"}.get(field["type"], field["type"])
    limits = [_escape(text.format(field[key])) for key, text in LIMITS.items() if key in field]
    return f"{name} ({', '.join(limits)})" if limits else str(name)


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if isinstance(value, dict):
        return "its own defaults" if value or _references(field) else "`{}`"
    return "null" if value is None else f"`{json.dumps(value).strip(chr(34))}`"


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
    text = f"\n## {words}\n\n{_paragraphs(verb.help)}\n\n```\n{called}\n```\n"
    rows = [f"| `{_argument(each)}` | | {_line(each.help or '')} |" for each in arguments]
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
    meaning = _line(option.help or "") + (f" Variable: `{option.envvar}`." if option.envvar else "")
    return f"| `{', '.join(names)}{_escape(value)}` | {shown} | {meaning} |"


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
        meaning = _line(inspect.getdoc(error) or "")
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


def _line(text: str) -> str:
    """Text as one cell of a table: its first paragraph."""
    return _escape(_without_tags(" ".join(text.split("\n\n")[0].split())))


def _paragraphs(text: str | None) -> str:
    return _without_tags(inspect.cleandoc(text or "").replace("\f", ""))


def _without_tags(text: str) -> str:
    """Text whose `<` is not read as HTML. In code spans Markdown escapes it by itself."""
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "&lt;", text)


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def limits_page() -> str:
    """Return the page with every limit of inputs and of the store."""
    of_inputs, of_store = InputLimits.model_json_schema(), Limits.model_json_schema()
    for key in of_inputs["properties"]:
        del of_store["properties"][key]
    tables = (_table(of_inputs, {}), _table(of_store, {}))
    return f"{LIMITS_HEAD}\n{tables[0]}{STORE_LIMITS_HEAD}\n{tables[1]}"


def settings_page() -> str:
    """Return the page with every environment variable."""
    others = "".join(f"| `{name}` | {_line(meaning)} |\n" for name, meaning in OTHERS.items())
    table = _table(Settings.model_json_schema(), {})
    return f"{SETTINGS_HEAD}\n{table}{OTHERS_HEAD}{others}"


def operations_page() -> str:
    """Return the page with every state of a verdict."""
    rows = ["| state | meaning | exit code |", "|---|---|---|"]
    for state, entry in RUNBOOK.items():
        codes = _codes(entry) or "-"
        rows.append(f"| [{state}](#{state.lower()}) | {_line(entry.meaning)} | {codes} |")
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
    return _without_tags("".join(parts))


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
