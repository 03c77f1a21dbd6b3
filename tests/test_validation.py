"""Error messages made from pydantic's errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tuneloop.validation import all_errors, decode_error, first_error, shorten


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    low: int = 0
    high: int = 9

    @model_validator(mode="after")
    def _ordered(self) -> Inner:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: Annotated[int, Field(ge=1, multiple_of=2)] = 2
    level: Literal["easy", "hard"] = "easy"
    name: Annotated[str, Field(pattern="^[a-z]+$", max_length=100)]
    inner: Inner = Inner()
    seeds: Annotated[list[int], Field(max_length=3)] = []


def sentences(value: Any, model: type[BaseModel] = Outer) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(value)
    assert first_error(caught.value) == all_errors(caught.value)[0]
    return all_errors(caught.value)


CASES = {
    "level is 'impossible', expected 'easy' or 'hard'": {"level": "impossible"},
    "size is 0, expected a value greater than or equal to 1": {"size": 0},
    "size is 3, expected a multiple of 2": {"size": 3},
    "size is None, expected a valid integer": {"size": None},
    "name is 'A\\n', expected a value that matches '^[a-z]+$'": {"name": "A\n"},
    f"name is 'a{'a' * 55}..., expected at most 100 characters": {"name": "a" * 101},
    "seeds.1 is 'x', expected a valid integer, unable to parse string as an integer": {
        "seeds": [1, "x"]
    },
    "seeds is [1, 2, 3, 4], expected at most 3 items after validation, not 4": {
        "seeds": [1, 2, 3, 4]
    },
    "inner.low is 'x', expected a valid integer, unable to parse string as an integer": {
        "inner": {"low": "x"}
    },
    "inner.mid is an unknown key, expected only keys of Outer": {"inner": {"mid": 1}},
    "inner: low 3 is above high 2": {"inner": {"low": 3, "high": 2}},
    "'a\\nb' is an unknown key, expected only keys of Outer": {"a\nb": 1},
}


@pytest.mark.parametrize(("sentence", "value"), CASES.items(), ids=range(len(CASES)))
def test_sentence(sentence: str, value: dict[str, Any]) -> None:
    assert sentences({"name": "a"} | value) == [sentence]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1)] = 9
    cat: int = 0

    @model_validator(mode="after")
    def _never_eight(self) -> Cat:
        if self.lives == 8:
            raise ValueError("lives is 8, expected another number")
        return self


class Dog(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["dog"]
    friend: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    name: str


class Home(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]


@pytest.mark.parametrize(
    ("pet", "sentence"),
    [
        ({"kind": "cat", "lives": 0}, "pets.0.lives is 0, expected a value greater than"),
        ({"kind": "cat", "cat": "x"}, "pets.0.cat is 'x', expected a valid integer"),
        ({"kind": "cat", "lives": 8}, "pets.0: lives is 8, expected another number"),
        ({"kind": "dog"}, "pets.0.name is missing, expected every required key of Home"),
        ({"kind": "dog", "name": "x", "cat": 1}, "pets.0.cat is an unknown key"),
        ({"kind": "cow"}, "pets.0.kind is 'cow', expected 'cat' or 'dog'"),
        ({}, "pets.0.kind is missing, expected every required key of Home"),
        (3, "pets.0 is 3, expected a valid dictionary or object to extract fields from"),
        (
            {"kind": "dog", "name": "x", "friend": {"kind": "cat", "lives": "y"}},
            "pets.0.friend.lives is 'y', expected a valid integer",
        ),
    ],
)
def test_the_tag_of_a_union_is_not_in_the_location(pet: object, sentence: str) -> None:
    value = {"pets": [pet]}
    with pytest.raises(ValidationError) as caught:
        Home.model_validate(value)
    (found,) = all_errors(caught.value, value)
    assert found.startswith(sentence)


def a_dog_by_default(value: Any) -> Any:
    return {"kind": "dog", **value} if isinstance(value, dict) else value


class Kennel(BaseModel):
    pet: Annotated[
        Annotated[Cat | Dog, Field(discriminator="kind")], BeforeValidator(a_dog_by_default)
    ]


@pytest.mark.parametrize(
    ("pet", "sentence"),
    [
        ({}, "pet.name is missing, expected every required key of Kennel"),
        ({"name": 1}, "pet.name is 1, expected a valid string"),
        ({"name": "x", "cat": 1}, "pet.cat is an unknown key"),
        ({"kind": "cat", "lives": 8}, "pet: lives is 8, expected another number"),
        ({"kind": "cow"}, "pet.kind is 'cow', expected 'cat' or 'dog'"),
    ],
)
def test_nor_is_the_tag_that_a_value_has_by_default(pet: object, sentence: str) -> None:
    value = {"pet": pet}
    with pytest.raises(ValidationError) as caught:
        Kennel.model_validate(value)
    (found,) = all_errors(caught.value, value)
    assert found.startswith(sentence)


def test_missing_key() -> None:
    assert sentences({}) == ["name is missing, expected every required key of Outer"]


def test_rule_of_the_whole_model_has_no_place() -> None:
    assert sentences({"low": 3, "high": 2}, Inner) == ["low 3 is above high 2"]


def test_every_error_in_order() -> None:
    found = sentences({"size": 0, "level": "x", "name": "a", "more": 1})
    assert [sentence.split()[0] for sentence in found] == ["size", "level", "more"]


@pytest.mark.parametrize("value", ["x" * 59, "x" * 58, list(range(1000)), "\n" * 50, 3])
def test_shown_values_are_short_and_on_one_line(value: object) -> None:
    shown = shorten(value)
    assert len(shown) <= 60
    assert "\n" not in shown
    assert shown == repr(value) or shown.endswith("...")


class Item(msgspec.Struct, forbid_unknown_fields=True):
    n: int


class Holder(msgspec.Struct, forbid_unknown_fields=True):
    items: list[Item]
    name: str = ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"items": [{"n": 1}, {"n": "x"}]}', "items.1.n: expected int, got str"),
        (b"{}", "items is missing, expected every required key"),
        (b'{"items": [], "x": 1}', "x is an unknown key, expected only known keys"),
        (b'{"items": [{"n": 1, "x": 1}]}', "items.0.x is an unknown key, expected only known keys"),
        (b"[1]", "expected object, got array, expected one JSON object"),
        (b"{", "input data was truncated, expected one JSON object"),
        (b'{"name": "\xff"}', "byte 0xff is not UTF-8, expected UTF-8 text"),
    ],
)
def test_what_msgspec_found(text: bytes, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        msgspec.json.decode(text, type=Holder)
    assert decode_error(caught.value) == said
