"""The generated reference holds every key of a run spec, every verb and option, every exit code."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from tests.builders import REPOSITORY
from tuneloop import errors
from tuneloop.artifacts.evaluation.delta_report import DeltaReport
from tuneloop.settings.environment import OTHERS, Settings
from tuneloop.settings.limits import Limits
from tuneloop.specs.run import RunSpec
from tuneloop.specs.sampling import SampleSpec
from tuneloop.specs.scoring import ScoreSpec
from tuneloop.traces.schema import (
    AssistantMessage,
    ReasoningTrace,
    ToolCall,
    ToolMessage,
    TraceStep,
)


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "generate_reference", REPOSITORY / "docs" / "generate_reference.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(REPOSITORY / "docs"))  # as mkdocs does
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


reference = load()
CELL = re.compile(r"(?<!\\)\|")


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """The table below a heading: first cell -> the other cells."""
    section = re.split(r"^## ", page.partition(f"\n## {heading}")[2], flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    cells = ([cell.strip() for cell in CELL.split(line)[1:-1]] for line in lines)
    return {first.strip("`"): rest for first, *rest in cells}


def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model and all that its fields hold."""
    yield model
    for field in model.model_fields.values():
        yield from models_in(field.annotation)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from models(annotation)
    for inner in get_args(annotation):
        yield from models_in(inner)


@pytest.mark.parametrize("model", list(dict.fromkeys(models(RunSpec))))
def test_every_key_of_a_spec_has_its_type_default_and_effect(model: type[BaseModel]) -> None:
    page = reference.spec_page()
    heading = "Top level"
    if model is not RunSpec:
        found = re.search(rf"^## (.* \{{ #{model.__name__} \}})$", page, re.MULTILINE)
        assert found, f"no section for {model.__name__}"
        heading = found[1]
    table = rows(page, heading)
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    assert list(table) == list(fields)
    for key, (kind, default, meaning) in table.items():
        assert kind and default, key
        assert (default == "required") == fields[key].is_required(), key
        assert meaning or key == "kind", f"{key} of {model.__name__} has no docstring"


@pytest.mark.parametrize(("write", "model"), [("limits_page", Limits), ("settings_page", Settings)])
def test_every_variable_has_its_default_and_effect(write: str, model: type[BaseModel]) -> None:
    page = getattr(reference, write)()
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    for line, field in zip(lines, model.model_fields.values(), strict=False):
        key, kind, default, meaning = (cell.strip() for cell in CELL.split(line)[1:-1])
        assert (key, bool(kind), bool(meaning)) == (f"`{field.alias}`", True, True)
        assert default == ("null" if field.default is None else f"`{field.default}`")
    shown = {line.split("`")[1] for line in lines}
    assert shown == {field.alias for field in model.model_fields.values()} | (
        set(OTHERS) if model is Settings else set()
    )


def test_angle_brackets_are_escaped_once() -> None:
    pages = {name: write() for name, write in reference.PAGES.items()}
    assert "`<artifacts>/datasets/`" in pages["reference/spec"]
    for page in pages.values():
        prose = re.sub(r"`[^`]*`", "", page)
        assert not re.search(r"<[a-z]", prose)


def test_every_place_of_a_spec_has_its_section() -> None:
    headings = "\n".join(re.findall(r"^## .*", reference.spec_page(), re.MULTILINE))
    for path in ("train.model", "execution.cluster.train", "execution.cluster.import"):
        assert f"`{path}`" in headings


def test_every_verb_has_its_options_defaults_and_help() -> None:
    page = reference.cli_page()
    verbs = dict(reference.commands())
    assert {"tuneloop run", "tuneloop traces import", "tuneloop tokens new"} <= set(verbs)
    for words, verb in verbs.items():
        table = rows(page, f"{words}\n")
        shown = {name for first in table for name in re.findall(r"(?<!\w)--?[a-z][a-z-]*", first)}
        options = [each for each in verb.params if each.param_type_name == "option"]
        assert shown == {name for each in options for name in (*each.opts, *each.secondary_opts)}
        assert len(table) == len(verb.params), words
        assert all(help_text for _, help_text in table.values()), words
        assert verb.help, words


def test_every_exit_code_is_on_the_page() -> None:
    page = reference.errors_page()
    for error in reference.error_classes():
        assert f"| `{error.__name__}` |" in page
    for stage, verb in errors.VERB_EXIT_CODES.items():
        assert f"| {stage} | {verb} |" in page


@pytest.mark.parametrize(
    "name",
    sorted(
        path.relative_to(REPOSITORY).as_posix()
        for folder in (".", "bench", "eval", "jobs", "requirements", ".github")
        for path in (REPOSITORY / folder).glob("*.md")
    ),
)
def test_links_outside_the_site_lead_somewhere(name: str) -> None:
    """`mkdocs build --strict` checks the links of docs/."""
    page = REPOSITORY / name
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not target.startswith(("http://", "https://", "#", "mailto:")):
            path, _, anchor = target.partition("#")
            assert (page.parent / path).exists(), f"{name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", (page.parent / path).read_text(), re.MULTILINE)
                assert anchor in {
                    re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings
                }


@pytest.mark.parametrize(
    ("model", "page"),
    [
        *((model, "report_page") for model in dict.fromkeys(models(DeltaReport))),
        *(
            (model, "traces_page")
            for model in (ReasoningTrace, TraceStep, AssistantMessage, ToolMessage, ToolCall)
        ),
        *((model, "sampling_page") for model in dict.fromkeys(models(SampleSpec))),
        *((model, "scoring_page") for model in dict.fromkeys(models(ScoreSpec))),
    ],
)
def test_every_key_is_in_its_page(model: type[BaseModel], page: str) -> None:
    text = getattr(reference, page)()
    for name in model.model_fields:
        assert f"| `{name}` |" in text, f"{model.__name__}.{name}"
