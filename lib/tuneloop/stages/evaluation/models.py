"""The models of the stage, and what each of them is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuneloop.artifacts.evaluation.eval_samples import Model
from tuneloop.artifacts.results import TrainCounts, TrainResults
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.specs.stages import EvalStage
from tuneloop.stages.answering.question import Question, Shots
from tuneloop.stages.eval_passes import Pass
from tuneloop.stages.evaluation.sets import LoadedSet
from tuneloop.stages.evaluation.shots import choose_shots
from tuneloop.stages.exported import iter_examples
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.stages.models.steps import checkpoint_name, checkpoint_steps
from tuneloop.training.generation.decoding import GREEDY, Sampling
from tuneloop.training.prompt_templates import recipe_named

SPARE_TOKENS = 4
"""Tokens beyond the longest training response, which reveal a model that does not stop."""
BASE, TUNED = "base", "tuned"
"""Names of the two models that every evaluation has."""


@dataclass(frozen=True)
class AskedModel:
    """One model, asked with one kind of prompt."""

    row: Model
    """Its row in the file of samples."""
    source: str
    """Name of the model that answers: `base`, `tuned` or a baseline."""
    weights_digest: str
    """Digest of its weights alone, which traces name."""

    @property
    def name(self) -> str:
        """Name in the evaluation."""
        return self.row.name


@dataclass(frozen=True)
class Asked:
    """All answers that one model gives to one set."""

    model: AskedModel
    set: LoadedSet
    file: str
    """Part of the name of the file that each shard leaves for the merge."""


def list_models(spec: EvalStage, trained: TrainResults) -> tuple[AskedModel, ...]:
    """List the models in the order of the report, the base first and the tuned model last.

    No run is named: runs that share the result share its bytes.
    """
    examples = spec.options.base_examples
    weights = trained.base_digest
    digest = trained.base_model_digest or weights
    found = [AskedModel(Model(name=BASE, digest=digest), BASE, weights)]
    if examples:
        name = f"{BASE} ({examples} example{'s' if examples > 1 else ''})"
        found.append(AskedModel(Model(name=name, digest=digest, examples=examples), BASE, weights))
    for name, ref in spec.baselines.items():
        found.append(AskedModel(Model(name=name, digest=ref.digest), name, ref.digest))
    for step in checkpoint_steps(spec, trained):
        name, step_digest = checkpoint_name(step), trained.checkpoints[step]
        row = Model(name=name, digest=step_digest, step=step)
        found.append(AskedModel(row, name, step_digest))
    weights = trained.tuned_digest
    digest = trained.tuned_model_digest or weights
    return (*found, AskedModel(Model(name=TUNED, digest=digest), TUNED, weights))


def list_asked(models: Sequence[AskedModel], sets: Sequence[LoadedSet]) -> list[Asked]:
    """List which model is asked which set, all sets of one model together.

    Examples go with the dataset's instruction: sets without it are asked without examples.
    """
    return [
        Asked(model, each, f"{number}_{at}")
        for number, model in enumerate(models)
        for at, each in enumerate(sets)
        if each.options.instruction or not model.row.examples
    ]


def list_passes(spec: EvalStage, stage: Stage, asked: Sequence[Asked]) -> list[Pass]:
    """List the questions to generate answers to; the name of a pass is the file of its `Asked`."""
    longest = stage.upstream("train").counts_as(TrainCounts).longest_response_tokens
    default = spec.options.max_new_tokens or longest + SPARE_TOKENS
    return [
        Pass(
            one.file,
            one.model.source,
            _questions(spec, stage, one),
            one.set.options.max_new_tokens or default,
            samples=one.set.options.samples,
            sampling=_sampling(one.set.options.temperature, spec.seed),
        )
        for one in asked
    ]


def _sampling(temperature: float, seed: int) -> Sampling:
    """Return how tokens are chosen; without draws, the seed does not matter."""
    return Sampling(temperature=temperature, seed=seed) if temperature else GREEDY


def _questions(spec: EvalStage, stage: Stage, asked: Asked) -> tuple[Question, ...]:
    items, recipe = asked.set.items, recipe_named(spec.dataset.recipe)

    def question(item: EvalItem, text: str, shots: Shots = ()) -> Question:
        context = item.to_item("").context
        return Question(text, shots, id=item.id, context=context, think_block=recipe.is_chat)

    if not asked.set.options.instruction:
        return tuple(question(item, item.prompt) for item in items)
    texts = [recipe.render_prompt(item.prompt, spec.dataset.instruction) for item in items]
    count = asked.model.row.examples
    if not count:
        return tuple(map(question, items, texts))
    examples = (example for _, example in iter_examples(stage))
    shots = choose_shots(examples, items, set(texts), count)
    return tuple(
        question(item, text, shots[item.category]) for item, text in zip(items, texts, strict=True)
    )
