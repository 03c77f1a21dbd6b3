"""Correct answers of the model of `make loop-real` when mlx-lm generates; compared with tuneloop.

Run `make loop-real` first. mlx-lm reads the model folder that the run published, applies the chat
template of that folder and generates greedily; tuneloop's answers are those of the eval stage. The
number of equal answers is printed too. mlx-lm is slow on a CPU, so every eleventh question is
asked: ten of each task. A smoke run asks both the untuned model one question.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from figure import SMOKE, print_figure, sized

from tuneloop.artifacts import records
from tuneloop.artifacts.model_manifest import load_model_manifest, model_prefix
from tuneloop.demo.real import MODEL, add_real_model
from tuneloop.evaluation.scorers.rows.exact import ExactOptions, judge_exact
from tuneloop.evaluation.sets.schema import EvalItem, parse_eval_set
from tuneloop.models.answering import Answerer, Settings, open_model
from tuneloop.training.prompt_templates import recipe_named

REPOSITORY = Path(__file__).resolve().parents[1]
REAL = REPOSITORY / ".tuneloop" / "real" / "artifacts"
EVAL_SET = REPOSITORY / "eval" / "real_v1.jsonl"
MAX_NEW_TOKENS = sized(48, 8)
BATCH = 16

Parsed = tuple[str | None, tuple[str, ...]]
"""The answer and the steps that are read from a generated text."""


def ask_mlx(folder: Path, prompts: list[str]) -> list[str]:
    """Generate greedily with mlx-lm, in float32.

    Args:
        folder: model in Hugging Face layout.
        prompts: user texts.
    """
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm import batch_generate, load

    model, tokenizer = load(str(folder))
    model.update(tree_map(lambda each: each.astype(mx.float32), model.parameters()))
    ids = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": each}], add_generation_prompt=True
        )
        for each in prompts
    ]
    found: list[str] = []
    for start in range(0, len(ids), BATCH):
        batch = ids[start : start + BATCH]
        found += batch_generate(model, tokenizer, batch, max_tokens=MAX_NEW_TOKENS).texts
    return found


def parse(text: str) -> Parsed:
    """Read the answer and the steps as the recipe of the real demo does."""
    parsed = recipe_named("trace_or_chat_v1").parse_response(text)
    return parsed.answer, tuple(parsed.steps)


def tuned(items: list[EvalItem]) -> tuple[Path, list[Parsed]]:
    """Return the model folder of the newest real run, and what the eval stage read from it."""
    run = max((REAL / "training_runs").iterdir(), key=lambda each: each.stat().st_mtime).name
    found: dict[str, dict[str, Path]] = {}
    for stage in ("train", "eval"):
        record = records.find(str(REAL), run, stage)
        assert record is not None, f"{run}: {stage} has not finished; run make loop-real"
        found[stage] = {each.name: REAL / each.path for each in record.outputs}
    traces: dict[str, Any] = {}
    with found["eval"]["eval_after.jsonl"].open("rb") as lines:
        for each in map(json.loads, lines):
            traces[each["meta"]["eval_id"]] = each
    answers = [traces[item.id] for item in items]
    steps = [tuple(step["content"] for step in each["steps"]) for each in answers]
    folder = found["train"]["model/manifest.json"].parent
    return folder, list(zip([each["final_answer"] for each in answers], steps, strict=True))


def untuned(artifacts: str, items: list[EvalItem]) -> tuple[Path, list[Parsed]]:
    """Store the untuned model and ask it."""
    add_real_model(artifacts, print)
    folder = model_prefix(artifacts, MODEL)
    opened = open_model(folder, load_model_manifest(folder))
    answerer = Answerer(opened, Settings(max_new_tokens=MAX_NEW_TOKENS))
    return Path(folder), [parse(answerer.ask(item.prompt).text) for item in items]


def main() -> None:
    """Score the same model with both."""
    items = list(parse_eval_set(EVAL_SET.read_bytes(), str(EVAL_SET)))[:: 330 if SMOKE else 11]
    with tempfile.TemporaryDirectory() as artifacts:
        folder, ours = untuned(artifacts, items) if SMOKE else tuned(items)
        theirs = [parse(text) for text in ask_mlx(folder, [item.prompt for item in items])]

    def correct(found: list[Parsed]) -> int:
        return sum(
            answer is not None
            and judge_exact(answer, item.to_item("real"), ExactOptions()).state == "correct"
            for item, (answer, _) in zip(items, found, strict=True)
        )

    same = sum(mine == other for mine, other in zip(ours, theirs, strict=True))
    print(f"{same} of {len(items)} answers are equal, step by step")
    if SMOKE:
        print_figure("real_mlx", "answers", [(same, len(items))])
    else:
        print_figure("real_mlx", "correct answers", [(correct(ours), correct(theirs))])


if __name__ == "__main__":
    main()
