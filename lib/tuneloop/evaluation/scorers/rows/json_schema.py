"""JSON Schema: an answer is correct if it is JSON that a schema of the item accepts."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any, NoReturn

from pydantic import Field, JsonValue, field_validator

from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.evaluation.scorers.options import Options
from tuneloop.evaluation.scorers.row import correct, failed, wrong
from tuneloop.evaluation.scorers.text.places import fenced

_SHOWN = 200


class JsonSchemaOptions(Options):
    """Options of `json_schema`."""

    schema_: dict[str, JsonValue] = Field(alias="schema")
    """JSON Schema (draft 2020-12, or the draft that its `$schema` names). References to other files
    are refused."""
    equals: bool = False
    """Whether the value must also equal the item's expected answer, which is JSON then."""

    @field_validator("schema_")
    @classmethod
    def _valid(cls, schema: dict[str, JsonValue]) -> dict[str, JsonValue]:
        from jsonschema import SchemaError
        from jsonschema.validators import validator_for

        try:
            validator_for(schema).check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"expected a JSON Schema: {error.message[:_SHOWN]}") from error
        return schema


def judge_json_schema(answer: str, item: Item, options: JsonSchemaOptions) -> Judgement:
    """Validate an answer, which may be in a Markdown code block."""
    from referencing.exceptions import Unresolvable

    written = fenced(answer)
    try:
        value = _loads(written)
        problem = next(iter(_validator(json.dumps(options.schema_)).iter_errors(value)), None)
    except ValueError as error:
        return wrong(written, f"the answer is not JSON: {error}")
    except RecursionError:
        return wrong(written, "the answer is nested too deeply")
    except Unresolvable as error:
        return failed(written, f"the schema has a reference that is not in it: {error}"[:_SHOWN])
    if problem is not None:
        where = "/".join(map(str, problem.absolute_path)) or "the value"
        return wrong(written, f"{where}: {problem.message}"[:_SHOWN])
    if options.equals and _typed(value) != _typed(_loads(item.expected_answer)):
        return wrong(written, "the value is valid and not the expected one")
    return correct(written, item.expected_answer)


def check_json_schema(item: Item, options: JsonSchemaOptions) -> str | None:
    """Say why the expected answer is not JSON, if it must be equal; None if it is."""
    if not options.equals:
        return None
    try:
        _loads(item.expected_answer)
    except (ValueError, RecursionError) as error:
        return f"expected answer is not JSON: {error}"
    return None


def search_json(text: str, item: Item, options: JsonSchemaOptions) -> list[str]:
    """Try the last code block, else the text from the first bracket to the last."""
    block = fenced(text)
    if block != text:
        return [block]
    found = re.search(r"[\[{]", text)
    end = max(text.rfind("]"), text.rfind("}"))
    return [text[found.start() : end + 1]] if found and end > found.start() else []


@lru_cache(maxsize=1024)
def _validator(schema: str) -> Any:
    from jsonschema.validators import validator_for
    from referencing import Registry

    loaded = json.loads(schema)
    return validator_for(loaded)(loaded, registry=Registry())


def _loads(text: str) -> Any:
    """Parse strict JSON: no NaN, and no key twice."""
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"found {name}, expected a finite number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key is there twice")
    return value


def _typed(value: Any) -> Any:
    """Tell booleans from numbers, which are equal in Python: JSON's true is not 1."""
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, dict):
        return {key: _typed(each) for key, each in value.items()}
    return [_typed(each) for each in value] if isinstance(value, list) else value
