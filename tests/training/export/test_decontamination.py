from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuneloop.datasets.text.normalize import normalize_example, normalize_words
from tuneloop.training.export.decontamination import NGRAM_WORDS, ContaminationIndex, _runs

WORDS = st.sampled_from(["a", "b", "Ç", "d,", "e"])
TEXT = st.lists(WORDS, max_size=40).map(" ".join)


def test_a_short_eval_prompt_is_compared_whole_alone() -> None:
    index = ContaminationIndex({"q": "What is 2 + 2?"})
    assert index.find("what is 2 + 2", b"") == "its prompt is that of eval item q"
    assert (
        index.find("What is 2 + 2? Or 3?", normalize_example("What is 2 + 2? Or 3?", "y")) is None
    )


@settings(max_examples=300)
@given(eval_prompts=st.lists(TEXT, max_size=3), prompt=TEXT, data=st.data())
def test_finds_what_comparing_all_runs_finds(
    eval_prompts: list[str], prompt: str, data: st.DataObject
) -> None:
    """The anchors make the search faster and do not change its result."""
    response = data.draw(TEXT)
    plant: bool = data.draw(st.booleans())
    if eval_prompts and plant:  # plant a piece of one
        words = eval_prompts[0].split()
        at = data.draw(st.integers(0, max(0, len(words) - NGRAM_WORDS)))
        response = f"{response} {' '.join(words[at : at + NGRAM_WORDS])} {prompt}"
    index = ContaminationIndex({str(n): text for n, text in enumerate(eval_prompts)})
    grams = {run for text in eval_prompts for run in _runs(normalize_words(text), NGRAM_WORDS)}
    said = set(_runs(normalize_words(f"{prompt}\n{response}"), NGRAM_WORDS))
    assert (index.find("no such prompt", normalize_example(prompt, response)) is not None) is bool(
        grams & said
    )


@pytest.mark.parametrize(
    ("prompt", "is_equal"),
    [
        ("13 + 4 =", True),
        ("13+4=", True),
        ("13 +4", True),
        ("134 =", False),
        ("1 3 + 4 =", False),
        ("13+-4", False),
        ("Is 13 + 4 = ?", False),
        ("**13** + 4", True),
        ("- 13 + 4", True),
        (" 13  \uff0b 4?", True),
        ("13 - 4 =", False),
        ("13 \u2212 4 =", False),
        ("13 * 4 =", False),
        ("13 \u00d7 4 =", False),
        ("13 / 4 =", False),
        ("13 % 4", False),
        ("1.3 + 4 =", False),
        ("-13 + 4 =", False),
        ("13 + -4 =", False),
        ("13 > 4 ?", False),
        ("x^2 for x=3?", False),
    ],
)
def test_operators_and_signs_beside_digits_count(prompt: str, is_equal: bool) -> None:
    index = ContaminationIndex({"a": "13 + 4 ="})
    found = index.find(prompt, normalize_example(prompt, "think"))
    assert found == ("its prompt is that of eval item a" if is_equal else None)
