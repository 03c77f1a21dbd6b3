from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from tuneloop.training.models.publish.card import (
    EvaluationFigure,
    ModelCard,
    render_card,
    with_evaluation,
)

CARD = ModelCard(
    name="sft-1a2b3c4d",
    family="llama3",
    parameters=134_515_008,
    dtype="bfloat16",
    base="HuggingFaceTB/SmolLM2-135M-Instruct",
    licence="Apache-2.0",
    random_weights=False,
    lineage={"dataset": "ab|cd", "build": "b1", "run": "sft-1a2b3c4d", "seed": 7, "code": "9f"},
    data={"examples": 1234, "tokens": 98765, "excluded_duplicate": 3, "excluded_invalid": 0},
    training={"method": "lora", "steps": 92, "learning_rate": 1.5e-3, "loss_last": 0.123456},
)


def front_matter(card: bytes) -> dict[str, object]:
    _, front, _ = card.decode().split("---\n", 2)
    found: dict[str, object] = yaml.safe_load(front)
    return found


def test_the_front_matter_has_what_the_hub_reads() -> None:
    assert front_matter(render_card(CARD)) == {
        "license": "apache-2.0",
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["tuneloop", "sft", "lora"],
    }
    adapter = front_matter(render_card(replace(CARD, adapter_only=True)))
    assert (adapter["library_name"], adapter["base_model_relation"]) == ("peft", "adapter")


def test_lineage_data_and_training_are_tables() -> None:
    text = render_card(CARD).decode()
    for line in (
        "| dataset | ab\\|cd |",
        "| seed | 7 |",
        "| examples | 1,234 |",
        "| excluded duplicate | 3 |",
        "| learning rate | 0.0015 |",
        "| loss last | 0.1235 |",
        "| architecture | llama3, 134,515,008 parameters, bfloat16 |",
    ):
        assert line in text.splitlines()
    assert "excluded invalid" not in text
    assert "licence `Apache-2.0`; its terms apply" in text
    assert "Not evaluated yet" in text


def test_random_weights_are_named_as_such() -> None:
    text = render_card(replace(CARD, base=None, licence=None, random_weights=True))
    assert front_matter(text)["license"] == "unknown"
    assert "base_model" not in front_matter(text)
    assert "**This model was trained from random weights" in text.decode()
    assert "| base | random weights |" in text.decode()


@pytest.mark.parametrize("name", ["x\n---\nlicense: mit", "a: b # c", '"', "[1]"])
def test_a_name_cannot_add_to_the_front_matter(name: str) -> None:
    card = render_card(replace(CARD, base=name, name=name))
    assert front_matter(card)["base_model"] == name
    assert front_matter(card)["license"] == "apache-2.0"


def test_evaluation_is_filled_in_and_replaced() -> None:
    first = with_evaluation(render_card(CARD), [EvaluationFigure("v1", 300, 0.04, 0.717)], "One.")
    assert "| v1 | 300 | 4.0% | 71.7% |" in first.decode()
    assert "Not evaluated yet" not in first.decode()
    second = with_evaluation(first, [EvaluationFigure("v2", 10, 0.5, 1.0)], "Two.")
    assert "| v2 | 10 | 50.0% | 100.0% |" in second.decode()
    assert "v1" not in second.decode().split("## Evaluation")[1]
    assert "## Licence" in second.decode()


def test_the_same_facts_give_the_same_bytes() -> None:
    assert render_card(CARD) == render_card(replace(CARD))
