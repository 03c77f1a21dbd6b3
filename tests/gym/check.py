"""`make check-tasks`: tasks of reasoning-gym, whose packages are not in the tests' environment.

sympy is among them, and the tests prove that training runs without it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.model_manifests import publish_manifest
from tests.sampling import make_sampling
from tuneloop.artifacts.evaluation.eval_samples import Item
from tuneloop.errors import DataError, SpecError, UsageError
from tuneloop.evaluation.scorers.scoring import score_text
from tuneloop.evaluation.sets.generated import problem_to_item
from tuneloop.evaluation.sets.schema import parse_eval_set, read_eval_set
from tuneloop.traces.gym import ONE_ANSWER, draw_problems, problem_to_trace, problems_of_seeds
from tuneloop.traces.schema import parse_trace

# reasoning-gym and the packages that it imports warn when they are imported.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_problems_are_different_and_a_function_of_the_seed() -> None:
    problems = list(draw_problems("chain_sum", 30, 5))
    assert problems == list(draw_problems("chain_sum", 30, 5))
    assert problems != list(draw_problems("chain_sum", 30, 6))
    assert len({problem.question for problem in problems}) == 30
    for number, problem in enumerate(problems):
        trace = parse_trace(problem_to_trace(problem), "gym", number)
        assert trace.meta == {"source": "reasoning-gym", "category": "chain_sum"}
        expression = problem.question.split(":")[1].split("=")[0]
        assert eval(expression) == int(problem.answer)


def test_each_seed_has_its_problem_in_any_range() -> None:
    for task in ("chain_sum", "shortest_path", "gcd"):
        whole = {each.seed: each.question for each in problems_of_seeds(task, 100, 30)}
        parts = [*problems_of_seeds(task, 100, 12), *problems_of_seeds(task, 112, 18)]
        # A question that an earlier seed has drawn is in the first range alone.
        assert {each.seed: each.question for each in parts}.items() >= whole.items()
        drawn = list(draw_problems(task, 5, 100))
        assert [whole[each.seed] for each in drawn] == [each.question for each in drawn]


def test_a_generated_set_states_its_seeds_and_samples_stay_apart(tmp_path: Path) -> None:
    written = tuneloop("eval-sets", "generate", "chain_sum", "--count", "20", "--seed", "50")
    place = tmp_path / "eval.jsonl"
    place.write_text(written)
    header = read_eval_set(written.encode(), "chain_sum").header
    assert header is not None and header.generated is not None
    assert (header.name, header.generated.task) == ("chain_sum", "chain_sum")
    assert header.generated.first_seed == 50 and header.generated.seeds >= 20
    made = make_sampling(tmp_path, "small-llama")
    publish_manifest(made.artifacts)
    prompts = {"kind": "reasoning_gym", "task": "chain_sum", "first_seed": 1000, "seeds": 40}
    made.change(sample__prompts=prompts, sample__apart_from=[str(place)])
    plan = made.plan()
    assert 0 < plan.prompts <= 40
    assert made.plan().run_id == plan.run_id
    other = {**prompts, "first_seed": 60}
    with pytest.raises(SpecError, match="of chain_sum overlap the eval set"):
        made.change(sample__prompts=other).plan()


def test_an_unknown_task_and_too_few_questions_are_refused() -> None:
    with pytest.raises(UsageError, match="task juggle: unknown, expected a task of reasoning-gym"):
        list(draw_problems("juggle", 1, 0))
    with pytest.raises(DataError, match=r"coin_flip: found \d+ different questions, expected 2000"):
        list(draw_problems("coin_flip", 2000, 0))


def test_the_verbs_print_traces_and_an_eval_set() -> None:
    traces = tuneloop("traces", "generate", "gcd", "--count", "5")
    assert [json.loads(line)["meta"]["category"] for line in traces.splitlines()] == ["gcd"] * 5
    items = tuneloop("eval-sets", "generate", "gcd", "--count", "5", "--seed", "3")
    assert [item.category for item in parse_eval_set(items.encode(), "gcd")] == ["gcd"] * 5


def test_items_of_tasks_with_rules_of_their_own_name_their_scorer() -> None:
    written = tuneloop("eval-sets", "generate", "shortest_path", "--count", "4", "--seed", "3")
    for item in parse_eval_set(written.encode(), "paths"):
        assert item.scorer == {"kind": "reasoning_gym", "task": "shortest_path"}
        stored = item.to_item("gym")
        for answer, state in ((item.expected_answer, "correct"), ("I do not know", "wrong")):
            assert item.scorer is not None
            found, _ = score_text(answer, stored, item.scorer, parse=lambda text: text)
            assert found.state == state, (item.prompt, answer, found)
    for task in ("gcd", *ONE_ANSWER):
        (plain,) = draw_problems(task, 1, 3)
        made = problem_to_item(plain, "x")
        assert (made.scorer, made.meta) == (None, {})


def test_data_that_json_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneloop.traces.gym.ONE_ANSWER", frozenset())
    (path,) = draw_problems("shortest_path", 1, 3)
    (grid,) = draw_problems("arc_agi", 1, 3)
    for problem in (
        path._replace(metadata={"matrix": {1, 2}}),
        path._replace(metadata={"matrix": float("nan")}),
        grid,
    ):
        with pytest.raises(DataError, match="does not accept its answer once the problem is in a"):
            problem_to_item(problem, "x")


NUMBERS = (
    "chain_sum gcd lcm basic_arithmetic leg_counting decimal_chain_sum number_sequence"
    " simple_equations count_bits count_primes gsm_symbolic products letter_counting"
    " binary_alternation aiw self_reference rectangle_count simple_geometry largest_island"
    " rotten_oranges"
).split()
TEXTS = (
    "bitwise_arithmetic base_conversion caesar_cipher needle_haystack family_relationships"
    " syllogism letter_jumble word_sorting calendar_arithmetic"
).split()


@pytest.mark.parametrize(
    ("task", "kind"),
    [*((task, "numeric") for task in NUMBERS), *((task, "exact") for task in TEXTS)],
)
def test_our_scorers_agree_with_those_of_the_tasks(task: str, kind: str) -> None:
    import reasoning_gym

    rows = list(reasoning_gym.create_dataset(task, size=20, seed=3))
    theirs = reasoning_gym.get_score_answer_fn(task)
    for number, row in enumerate(rows):
        item = Item(
            set="gym",
            id=str(number),
            prompt=row["question"],
            expected_answer=row["answer"],
            category=task,
            meta={"metadata": row["metadata"]},
        )
        # The right answer, that of another problem, one with more, and none.
        other = rows[(number + 1) % len(rows)]["answer"]
        for answer in (row["answer"], other, f"{row['answer']}1", "I do not know"):
            right = float(theirs(answer, row)) >= 1
            for scorer in (kind, "reasoning_gym"):
                found, _ = score_text(answer, item, scorer, parse=lambda text: text)
                assert (found.state == "correct") == right, (scorer, row["answer"], answer, found)


def test_partial_credit_and_unknown_tasks() -> None:
    import reasoning_gym

    (row,) = reasoning_gym.create_dataset("chain_sum", size=1, seed=3)
    keys = {"set": "gym", "id": "x", "prompt": row["question"], "expected_answer": row["answer"]}
    item = Item(category="chain_sum", meta={"metadata": row["metadata"]}, **keys)
    found, _ = score_text(f"= {row['answer']}", item, "reasoning_gym", parse=lambda text: text)
    assert found.state == "wrong"
    assert 0 < found.value < 1
    unknown = Item(category="juggle", **keys)
    with pytest.raises(UsageError, match="task juggle: unknown, expected a task of reasoning-gym"):
        score_text("1", unknown, "reasoning_gym", parse=lambda text: text)


def tuneloop(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tuneloop.cli", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
