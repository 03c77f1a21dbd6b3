from __future__ import annotations

import json

import pytest

from tuneloop.errors import DataError
from tuneloop.training.schema import parse_example


def test_broken_examples_name_their_line() -> None:
    value = {"id": "x", "prompt": "p", "response": ""}
    expected = r"f\.jsonl:7: response: expected str of length >= 1; export the dataset again"
    with pytest.raises(DataError, match=expected):
        parse_example(json.dumps(value).encode(), "f.jsonl:7")
    value["response"] = "r"
    assert parse_example(json.dumps(value).encode(), "f.jsonl:7").metadata == {}
