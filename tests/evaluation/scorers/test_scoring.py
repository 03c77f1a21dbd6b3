from __future__ import annotations

import pytest

from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.errors import SpecError
from tuneloop.evaluation.scorers.scoring import score_text, scorer_of
from tuneloop.traces.response_text import join_reasoning, parse_plain_response
from tuneloop.training.thinking_text import parse_chat_response


def item(expected: str, *accepted: str, **keys: object) -> Item:
    values = {"set": "s", "id": "x", "prompt": "?", "category": "c", **keys}
    return Item(expected_answer=expected, accepted_answers=accepted, **values)  # type: ignore[arg-type]


def parse(text: str) -> str | None:
    return parse_plain_response(text).answer


def states(
    text: str, asked: Item, scorer: str = "exact", *, hit_limit: bool = False
) -> tuple[str, str]:
    strict, lenient = score_text(text, asked, scorer, parse=parse, hit_limit=hit_limit)
    return strict.state, lenient.state


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        ("Answer: 5", "correct", "correct"),
        ("Reasoning:\n1. add\nAnswer: 5", "correct", "correct"),
        ("5", "no_answer", "correct"),
        ("So it is\n5", "no_answer", "correct"),
        ("I think the answer is 5, since 2 + 3 is.", "no_answer", "correct"),
        (r"Therefore \boxed{5}, not 6.", "no_answer", "correct"),
        ("Answer: 5, since 2 + 3 is", "wrong", "correct"),
        ("Answer: 4\nAnswer: 5", "correct", "correct"),
        ("Answer: 5\nAnswer: 4", "wrong", "wrong"),
        ("The answer is 5. No, the answer is 4.", "no_answer", "wrong"),
        ("", "no_answer", "no_answer"),
        ("Answer: \n", "no_answer", "wrong"),  # the last line is what lenient reads
        # Reasoning is not an answer.
        ("<think>Answer: 5</think>", "no_answer", "no_answer"),
        ("<think>\nThe answer is 5.", "no_answer", "no_answer"),
        (r"It is \boxed{5}.</think>", "no_answer", "no_answer"),
        ("<think>\n4?</think>\n5", "no_answer", "correct"),
        ("<think>Answer: 4</think>Answer: 5", "correct", "correct"),
        ("<think>Answer: 5</think>Answer: 4", "wrong", "wrong"),
        ("<|channel>thought\n5<channel|>Answer: 5", "correct", "correct"),
        ("Reasoning:\n1. the answer is 5\n", "no_answer", "no_answer"),
        ("Reasoning:\n1. add\n\nThe answer is 5", "no_answer", "correct"),
    ],
)
def test_strict_reads_the_place_and_lenient_searches(text: str, strict: str, lenient: str) -> None:
    assert states(text, item("5")) == (strict, lenient)


def test_an_opening_mark_inside_a_sentence_is_content() -> None:
    asked = item("<think>")
    assert states("Answer: <think>", asked) == ("correct", "correct")


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        ("Reasoning:\n1. add", "truncated", "truncated"),
        ("First I add 2 and 3, which is\n5", "truncated", "truncated"),  # perhaps 51
        ("The answer is 5. Let me check", "truncated", "correct"),
        ("Answer: 5", "correct", "correct"),
        ("Answer: 4", "wrong", "wrong"),
    ],
)
def test_a_cut_text_needs_a_marked_answer(text: str, strict: str, lenient: str) -> None:
    assert states(text, item("5"), hit_limit=True) == (strict, lenient)


def test_an_item_names_its_own_scorer() -> None:
    asked = item("Paris", scorer="contains")
    assert states("It is Paris, I think", asked) == ("correct", "correct")
    asked = item("M", scorer={"kind": "exact_match", "case_sensitive": True})
    assert states("Answer: m", asked) == ("wrong", "wrong")


def test_a_judgement_holds_answer_and_matched_spelling() -> None:
    strict, _ = score_text("Answer: 29 USD.", item("$29", "29 usd"), "exact_match", parse=parse)
    assert strict == Judgement("correct", 1.0, "29 USD.", "29 usd")


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        ("guess", r"item 3: scorer 'guess' is unknown, expected one of: .*contains, exact"),
        ({}, r"item 3: scorer\.kind is missing, expected one of: .*exact"),
        ({"kind": "exact", "case": True}, r"scorer\.case is an unknown key, expected only keys of"),
        ({"kind": "exact", "case_sensitive": 5}, r"scorer\.case_sensitive is 5, expected"),
    ],
)
def test_a_wrong_scorer_is_refused(scorer: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        scorer_of(scorer, "item 3: scorer")  # type: ignore[arg-type]


def test_older_names_of_scorers_are_known() -> None:
    assert scorer_of("exact_match").name == "exact"
    assert scorer_of("contains_answer").name == "contains"


@pytest.mark.parametrize(
    ("reasoning", "answer", "strict", "lenient"),
    [
        ("Answer: 5", "", "no_answer", "no_answer"),
        ("1. add\nAnswer: 5", "", "no_answer", "no_answer"),
        ("1. add\nAnswer: 4", "It is\n5", "no_answer", "correct"),
        ("1. add\nAnswer: 5", "Answer: 4", "wrong", "wrong"),
        ("1. add\n\nThe answer is 5", "", "no_answer", "no_answer"),
    ],
)
def test_an_answer_in_the_block_of_a_thinking_model_is_none(
    reasoning: str, answer: str, strict: str, lenient: str
) -> None:
    """The chat format joins the block and the rest of the text in this way."""
    assert states(join_reasoning(reasoning, answer), item("5")) == (strict, lenient)


BOTH = ("correct", "correct")


@pytest.mark.parametrize(
    ("text", "scorer", "strict", "lenient"),
    [
        ("<think>\n40 + 2\n</think>\n\nThere were 7, so the answer is 42.", "numeric", *BOTH),
        ("He ate 7 of 49.\n\\boxed{42}", "numeric", *BOTH),
        ("He ate 42 of 49", "numeric", "wrong", "wrong"),
        ("He ate 7 of 49, which leaves 42", "numeric", "wrong", "correct"),
        ("42", "numeric", *BOTH),
        ("**Answer:** 42 apples", "numeric", *BOTH),
        ("With 7 fewer, the answer is $\\boxed{42}$.", "math", *BOTH),
        ("With 7 fewer, so the answer is 42.", "math", *BOTH),
        ("So the answer is 42.", "exact", *BOTH),
        ("42 it is", "exact", "wrong", "wrong"),
        ("I count 42 apples", "contains", *BOTH),
        ("<think>\nThe answer is 42", "numeric", "no_answer", "no_answer"),
        ("<think>\n\n</think>\n\n42", "numeric", *BOTH),
        ("The answer is 42.</think>It is 41", "numeric", "wrong", "wrong"),
        ("Reasoning is 42", "contains", *BOTH),
    ],
)
def test_the_strict_score_of_a_chat_reads_what_its_text_states(
    text: str, scorer: str, strict: str, lenient: str
) -> None:
    found = score_text(
        text, item("42"), scorer, parse=lambda text: parse_chat_response(text).answer, is_chat=True
    )
    assert tuple(each.state for each in found) == (strict, lenient)


def test_a_cut_chat_has_no_strict_answer() -> None:
    def state(text: str) -> tuple[str, ...]:
        found = score_text(
            text,
            item("42"),
            "numeric",
            parse=lambda text: parse_chat_response(text).answer,
            is_chat=True,
            hit_limit=True,
        )
        return tuple(each.state for each in found)

    assert state("<think>\nThe answer is 42") == ("truncated", "truncated")
    assert state("There are 42") == ("truncated", "truncated")  # perhaps 425
    assert state("The answer is 42. Let me check") == ("truncated", "correct")
