"""Options of training, each on the tiny model: accumulation, validation, continuing, dtype."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from tests.training.tiny import EXAMPLES, SPEC, architecture, build_table, dump_params, train
from tuneloop.errors import DataError, SpecError
from tuneloop.specs.training.method import LoraMethod
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.data.batches import Rows, total_steps
from tuneloop.training.data.table import TokenTable
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.schema import TrainingExample
from tuneloop.training.sft.earlier import EarlierRun
from tuneloop.training.sft.loop import Progress
from tuneloop.training.sft.metrics import read_history
from tuneloop.training.sft.validation import chosen_examples
from tuneloop.training.text.chat_format import ChatFormat

UNSEEN = [
    TrainingExample(id=f"v{n}", prompt=f"Say {'abcd'[n % 4]}", response="Answer: " + "b a " * n)
    for n in range(1, 12)
]
"""Other answers than those of training, of different lengths."""
CONSTANT = {"kind": "adamw", "learning_rate": 0.02, "schedule": "constant", "warmup_steps": 2}

Train = Callable[..., tuple[Progress, bytes]]


@pytest.fixture(scope="module")
def held_out(chat_format: ChatFormat) -> TokenTable:
    return build_table(chat_format, UNSEEN)


@pytest.fixture(scope="module")
def mixed(chat_format: ChatFormat) -> TokenTable:
    """Examples whose responses have different lengths."""
    return build_table(chat_format, [*EXAMPLES[:5], *UNSEEN])


@pytest.fixture
def fit(table: TokenTable, chat_format: ChatFormat, tmp_path: Path) -> Train:
    """Train the tiny model in a folder of this test."""

    def run(
        folder: str = "a", stop_after: int | None = None, **keys: Any
    ) -> tuple[Progress, bytes]:
        examples = keys.pop("examples", table)
        return train(
            examples, chat_format.tokenizer.vocab_size, tmp_path / folder, stop_after, **keys
        )

    return run


def losses(progress: Progress) -> list[float]:
    return [row.loss for row in progress.metrics]


def arrays(weights: bytes) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = safetensors_numpy.load(weights)
    return found


def initial(chat_format: ChatFormat) -> dict[str, np.ndarray]:
    model = build_random_model(architecture(chat_format.tokenizer.vocab_size), 0)
    return arrays(dump_params(model))


@pytest.mark.parametrize(
    ("length", "examples", "steps"),
    [
        ({"steps": 7}, 1000, 7),
        ({"epochs": 1}, 64, 8),
        ({"epochs": 1}, 65, 9),
        ({"epochs": 0.1}, 80, 1),
        ({"epochs": 2.5}, 16, 5),
    ],
)
def test_steps_or_epochs(length: dict[str, Any], examples: int, steps: int) -> None:
    spec = TrainSpec.model_validate({**SPEC.model_dump(), "steps": None, **length})
    assert total_steps(spec, examples) == steps


def test_accumulated_parts_equal_the_whole_batch(fit: Train, mixed: TokenTable) -> None:
    """The parts have different numbers of response tokens, so a mean of means would differ."""
    whole, expected = fit("whole", examples=mixed, steps=3, optimizer=CONSTANT)
    parts, weights = fit("parts", examples=mixed, steps=3, optimizer=CONSTANT, accumulation_steps=4)
    np.testing.assert_allclose(losses(parts), losses(whole), rtol=1e-6)
    norms = [[row.grad_norm for row in one.metrics] for one in (parts, whole)]
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-5)
    for name, array in arrays(weights).items():
        np.testing.assert_allclose(array, arrays(expected)[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_packed_examples_train_as_they_do_in_rows_of_their_own(
    accumulation_steps: int, fit: Train, mixed: TokenTable, held_out: TokenTable
) -> None:
    """Both trainings read all examples in every step: in 16 rows, or in a few packed ones."""
    keys: dict[str, Any] = {"examples": mixed, "steps": 3, "optimizer": CONSTANT}
    keys |= {"held_out": held_out, "validation": {"every_steps": 1, "keep": "last"}}
    apart, expected = fit("apart", batch_size=16, **keys)
    spec = SPEC.model_copy(update={"packing": True, "max_length_tokens": 96})
    rows = len(Rows(mixed, spec, batch_size=1))
    assert rows == 4
    packed, weights = fit(
        "packed",
        batch_size=rows,
        accumulation_steps=accumulation_steps,
        packing=True,
        max_length_tokens=96,
        **keys,
    )
    np.testing.assert_allclose(losses(packed), losses(apart), rtol=1e-5)
    norms = [[row.grad_norm for row in one.metrics] for one in (packed, apart)]
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-4)
    found = [list(one.history.validation_losses.values()) for one in (packed, apart)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    for name, array in arrays(weights).items():
        np.testing.assert_allclose(array, arrays(expected)[name], atol=1e-4, err_msg=name)
    shares = [one.metrics[0].padding_share for one in (packed, apart)]
    assert shares[0] < shares[1] / 3
    assert packed.metrics[0].tokens == apart.metrics[0].tokens == len(mixed.ids)


def test_packed_training_resumes_with_the_same_bits(fit: Train, mixed: TokenTable) -> None:
    keys: dict[str, Any] = {"examples": mixed, "steps": 6, "batch_size": 2, "packing": True}
    whole, expected = fit("whole", **keys)
    fit("stopped", 3, **keys)
    resumed, weights = fit("stopped", **keys)
    assert losses(resumed) == losses(whole)
    assert weights == expected


def test_validation_is_weighted_by_tokens_and_does_not_change_training(
    fit: Train, undisturbed: tuple[Progress, bytes], held_out: TokenTable
) -> None:
    progress, weights = fit(held_out=held_out, validation={"every_steps": 5, "keep": "last"})
    assert losses(progress) == losses(undisturbed[0])
    assert weights == undisturbed[1]
    found = progress.history.validation_losses
    assert list(found) == [0, 5, 10, 12]
    reported = {row.step: row.validation_loss for row in progress.metrics}
    assert {step: loss for step, loss in reported.items() if loss} | {0: found[0]} == found
    # The same examples in one batch, where the mean over all tokens is a plain mean.
    alone, _ = fit("b", held_out=held_out, steps=1, batch_size=16, validation={"every_steps": 1})
    assert alone.history.validation_losses[0] == pytest.approx(found[0], rel=1e-6)


EARLY: dict[str, Any] = {
    "steps": 40,
    "optimizer": {**CONSTANT, "learning_rate": 0.05},
    "validation": {"every_steps": 2, "patience": 2},
}


def test_training_stops_early_with_the_best_weights_and_so_does_a_resumed_one(
    fit: Train, held_out: TokenTable
) -> None:
    progress, weights = fit(held_out=held_out, **EARLY)
    assert progress.finished
    assert progress.stopped_early
    best = progress.kept_step
    found = progress.history.validation_losses
    assert len(progress.metrics) == best + 4
    assert min(found[step] for step in found if step) == found[best]
    assert found[best + 2] >= found[best] <= found[best + 4]
    # With a constant schedule, a training of so many steps ends with the same weights.
    direct, expected = fit("direct", **{**EARLY, "steps": best, "validation": None})
    assert losses(direct) == losses(progress)[:best]
    assert weights == expected
    # Stopped by a signal after the best step, and continued by another process.
    stopped, _ = fit("stopped", best + 1, held_out=held_out, **EARLY)
    assert not stopped.finished
    resumed, again = fit("stopped", held_out=held_out, **EARLY)
    assert resumed.resumed_from > best
    assert losses(resumed) == losses(progress)
    assert resumed.history.validation_losses == found
    assert (resumed.kept_step, again) == (best, weights)


def test_validation_without_examples_is_refused(fit: Train) -> None:
    with pytest.raises(SpecError, match=r"no validation examples.*raise export.validation_fractio"):
        fit(validation={"every_steps": 5})


def test_the_validation_examples_do_not_depend_on_the_others(
    chat_format: ChatFormat, held_out: TokenTable
) -> None:
    ids = held_out.example_ids
    for count in (None, 11, 100):
        assert chosen_examples(ids, count).tolist() == list(range(11))
    chosen = {ids[number] for number in chosen_examples(ids, 5)}
    assert chosen == {"v2", "v4", "v7", "v9", "v11"}
    fewer = build_table(chat_format, [each for each in UNSEEN if each.id != min(chosen)])
    others = {fewer.example_ids[number] for number in chosen_examples(fewer.example_ids, 5)}
    assert chosen - others == {min(chosen)}


def test_more_steps_on_a_finished_run_equal_one_longer_run(
    fit: Train, held_out: TokenTable, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"held_out": held_out, "optimizer": CONSTANT}
    keys["validation"] = {"every_steps": 3}
    longer, expected = fit("longer", steps=12, **keys)
    fit("first", steps=6, **keys)
    earlier = EarlierRun(str(tmp_path / "first"), step=6)
    stopped, _ = fit("second", 2, steps=12, earlier=earlier, **keys)
    assert not stopped.finished
    continued, weights = fit("second", steps=12, earlier=earlier, **keys)
    assert continued.resumed_from == len(stopped.metrics) > 6
    assert losses(continued) == losses(longer)
    assert continued.history.validation_losses == longer.history.validation_losses
    assert (continued.kept_step, weights) == (longer.kept_step, expected)
    assert len(read_history(str(tmp_path / "first")).steps) == 6  # it stays as it was


def test_a_run_that_stopped_early_is_continued_with_more_patience_only(
    fit: Train, held_out: TokenTable, tmp_path: Path
) -> None:
    first, _ = fit("first", held_out=held_out, **EARLY)
    earlier = EarlierRun(str(tmp_path / "first"), step=len(first.metrics))
    with pytest.raises(SpecError, match=r"stopped at step .* raise the patience"):
        fit("second", held_out=held_out, earlier=earlier, **EARLY)
    keys = {**EARLY, "steps": earlier.step + 1, "validation": {"every_steps": 2, "patience": 9}}
    more, _ = fit("third", held_out=held_out, earlier=earlier, **keys)
    assert len(more.metrics) == earlier.step + 1
    assert more.kept_step == first.kept_step  # whose checkpoint is in the folder of the first run
    third = EarlierRun(str(tmp_path / "third"), earlier.step + 1, earlier)
    keys["steps"] = third.step + 1
    last, _ = fit("fourth", held_out=held_out, earlier=third, **keys)
    assert (last.kept_step, len(last.metrics)) == (first.kept_step, third.step + 1)


AT_ONCE: dict[str, Any] = {"kind": "adamw", "schedule": "constant", "warmup_steps": 0}


@pytest.mark.parametrize("every", [None, 1])
def test_a_loss_or_gradient_that_is_not_a_number_ends_training_and_names_the_examples(
    every: int | None, fit: Train, table: TokenTable, held_out: TokenTable, tmp_path: Path
) -> None:
    """The weight decay multiplies the weights by about 30 in each step."""
    keys: dict[str, Any] = {
        "optimizer": {**AT_ONCE, "learning_rate": 1, "weight_decay": 30},
        "held_out": held_out,
    }
    if every:
        keys["validation"] = {"every_steps": every, "keep": "last"}
    with pytest.raises(DataError) as caught:
        fit(**keys)
    found = re.search(r"the loss of step (\d+) is .*nan.* the batch: ([\d, ]+)$", str(caught.value))
    assert found, caught.value
    step = int(found[1])
    assert step > 4
    batch = Rows(table, SPEC, batch_size=8).batch_at(step - 1, seed=0)
    assert found[2] == ", ".join(batch.example_ids)
    assert len(read_history(str(tmp_path / "a")).steps) == step - 1
    assert (tmp_path / "a" / "checkpoints" / "4" / "manifest.json").exists()
    with pytest.raises(DataError, match=rf"the loss of step {step} is"):  # once more, from there
        fit(**keys)


def test_a_validation_loss_that_is_not_a_number_ends_training(
    fit: Train, held_out: TokenTable
) -> None:
    """The weights become too large in one update, whose own loss was still finite."""
    optimizer = {**AT_ONCE, "learning_rate": 1, "weight_decay": 1e3}
    with pytest.raises(DataError, match=r"validation loss after step 3 is nan.* batch: [\d, ]+$"):
        fit(optimizer=optimizer, held_out=held_out, validation={"every_steps": 1})


def test_bfloat16_computes_with_copies_and_keeps_float32_weights(
    fit: Train, undisturbed: tuple[Progress, bytes], chat_format: ChatFormat
) -> None:
    progress, _ = fit(dtype="bfloat16")
    assert losses(progress) != losses(undisturbed[0])
    np.testing.assert_allclose(losses(progress)[:4], losses(undisturbed[0])[:4], rtol=0.02)
    assert losses(progress)[-1] < losses(progress)[0] / 2
    # bfloat16 has 8 bits, so a weight of 0.25 would not change by 1e-4.
    _, weights = fit(
        "small", dtype="bfloat16", steps=1, optimizer={**AT_ONCE, "learning_rate": 1e-4}
    )
    before, after = initial(chat_format), arrays(weights)
    changes = after["layers.0.mlp.gate_proj.kernel"] - before["layers.0.mlp.gate_proj.kernel"]
    assert changes.dtype == np.float32
    assert np.median(np.abs(changes)) == pytest.approx(1e-4, rel=0.01)


def test_the_state_of_an_optimizer_of_two_parts_survives_an_interruption(fit: Train) -> None:
    keys: dict[str, Any] = {"steps": 6, "optimizer": {"kind": "muon", "learning_rate": 0.02}}
    whole, expected = fit("whole", **keys)
    stopped, _ = fit("parts", 3, **keys)
    assert not stopped.finished
    resumed, weights = fit("parts", **keys)
    assert losses(resumed) == losses(whole)
    assert weights == expected


def test_adapters_with_dropout_resume_and_leave_the_model_as_it_is(
    fit: Train, held_out: TokenTable, chat_format: ChatFormat
) -> None:
    """Dropout is a function of seed, step and part of the batch; validation has none."""
    keys: dict[str, Any] = {
        "lora": LoraMethod(kind="lora", rank=2, dropout=0.4),
        "held_out": held_out,
        "validation": {"every_steps": 3, "keep": "last"},
        "steps": 6,
        "accumulation_steps": 2,
        "optimizer": CONSTANT,
    }
    whole, expected = fit("whole", **keys)
    stopped, _ = fit("parts", 3, **keys)
    assert not stopped.finished
    resumed, weights = fit("parts", **keys)
    assert losses(resumed) == losses(whole)
    assert resumed.history.validation_losses == whole.history.validation_losses
    assert weights == expected
    plain, _ = fit("plain", **{**keys, "lora": LoraMethod(kind="lora", rank=2)})
    # B is zero in the beginning, so dropout does nothing in the first two steps (lr 0 in one).
    assert losses(plain)[:2] == pytest.approx(losses(whole)[:2], rel=1e-5)
    assert losses(plain)[4] != pytest.approx(losses(whole)[4], rel=1e-5)
    tuned = arrays(weights)
    for name, array in initial(chat_format).items():
        np.testing.assert_array_equal(tuned.pop(name), array, err_msg=name)
    assert tuned
    assert all("lora" in name for name in tuned)
