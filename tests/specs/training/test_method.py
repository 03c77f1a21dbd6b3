from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from tuneloop.specs.training.method import FullMethod, LoraMethod, MethodSpec, QloraMethod
from tuneloop.validation import first_error

METHOD: TypeAdapter[Any] = TypeAdapter(MethodSpec)


def test_defaults_of_each_method() -> None:
    assert METHOD.validate_python({"kind": "full"}) == FullMethod()
    lora = METHOD.validate_python({"kind": "lora"})
    assert (lora.rank, lora.alpha, lora.targets, lora.dropout) == (16, 32, "all-linear", 0)
    qlora = METHOD.validate_python({"kind": "qlora", "targets": ["q_proj"]})
    assert isinstance(qlora, QloraMethod)
    assert isinstance(qlora, LoraMethod)
    assert (qlora.quantization, qlora.targets) == ("nf4", ("q_proj",))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rank": 0}, "lora.rank is 0, expected a value greater than or equal to 1"),
        ({"alpha": 0}, "lora.alpha is 0, expected a value greater than 0"),
        ({"dropout": 1}, "lora.dropout is 1, expected a value less than 1"),
        ({"targets": []}, "lora.targets.list is [], expected at least 1 item"),
        ({"targets": ["lm_head"]}, "lora.targets.list.0 is 'lm_head', expected 'q_proj'"),
        ({"targets": "all"}, "lora.targets.name is 'all', expected 'all-linear'"),
        ({"quantization": "nf4"}, "lora.quantization is an unknown key"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        METHOD.validate_python({"kind": "lora", **options})
    assert sentence in first_error(caught.value)
