from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from tuneloop.errors import SpecError, UsageError
from tuneloop.runs.planning.spec_file import load_any_spec, load_run_spec
from tuneloop.specs.base import Spec
from tuneloop.specs.renamed_keys import RENAMED_KEYS
from tuneloop.specs.run import RunSpec
from tuneloop.specs.sampling import SampleRunSpec
from tuneloop.specs.scoring import ScoreRunSpec
from tuneloop.specs.training.train import TrainSpec

GOOD = """\
name: demo
dataset: demo-v1
train:
  steps: 50
  batch_size: 64
  max_length_tokens: 64
  optimizer:
    learning_rate: 5e-3
eval:
  eval_set: eval/demo_v1.jsonl
import:
  batch_traces: 10
"""


def load(tmp_path: Path, text: str | bytes) -> RunSpec:
    path = tmp_path / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_run_spec(str(path))


def test_a_good_spec(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(GOOD)
    spec = load_run_spec(str(path))
    assert spec.train.optimizer.learning_rate == 0.005  # YAML 1.1 reads 5e-3 as text
    assert spec.import_.batch_traces == 10
    assert spec.seed is None


@pytest.mark.parametrize("config", ["demo.yaml", "sft_tiny.yaml"])
def test_the_shipped_configs_load(config: str, repository: Path) -> None:
    assert load_run_spec(str(repository / "jobs" / "configs" / config)).train.steps


def test_the_shipped_scoring_spec_loads(repository: Path) -> None:
    spec = load_any_spec(str(repository / "jobs" / "configs" / "score_tiny.yaml"))
    assert isinstance(spec, ScoreRunSpec)
    with pytest.raises(UsageError, match="has the key score, expected a training run"):
        load_run_spec(str(repository / "jobs" / "configs" / "score_tiny.yaml"))


def test_the_shipped_sampling_spec_loads(repository: Path) -> None:
    spec = load_any_spec(str(repository / "jobs" / "configs" / "sample_tiny.yaml"))
    assert isinstance(spec, SampleRunSpec)
    tuned = load_run_spec(str(repository / "jobs" / "configs" / "sft_tiny.yaml"))
    assert spec.system_instruction == tuned.system_instruction


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        (
            "import:\n",
            "execution:\n  artifacts: hf://a/b\nimport:\n",
            12,
            "execution.artifacts is 'hf://a/b', expected a local folder, gs:// or s3://, because",
        ),
        ("steps: 50", "steps: 0", 4, "train.steps is 0, expected a value greater than or equal"),
        ("  steps: 50\n", "", 3, "train: expected one of the two keys `steps` and `epochs`"),
        ("steps: 50", "epochs: 0", 4, "train.epochs is 0, expected a value greater than 0"),
        ("learning_rate: 5e-3", "beta3: 1", 8, "train.optimizer.beta3 is an unknown key"),
        ("learning_rate: 5e-3", "kind: sgd", 8, "train.optimizer.kind is 'sgd', expected"),
        ("learning_rate", "lerning_rate", 8, "lerning_rate is an unknown key"),
        ("name: demo", "name: Demo", 1, "name is 'Demo', expected a value that matches"),
        ("batch_size: 64", "batch_size: [1]", 5, "train.batch_size is [1]"),
        ("batch_size: 64", "steps: 3", 5, "key 'steps' is given twice"),
        ("steps: 50", "steps: '50", 4, "broken YAML"),
        ("steps: 50", "steps: {{", 4, "broken YAML"),
        ("steps: 50", "steps: true", 4, "train.steps is True, expected a valid integer"),
        ("steps: 50", "steps: '50'", 4, "train.steps is '50', expected a valid integer"),
        ("steps: 50", "steps: 2147483648", 4, "expected a value less than or equal to 2147483647"),
        ("5e-3", "true", 8, "train.optimizer.learning_rate is True, expected a number"),
        ("5e-3", "1e999", 8, "expected a finite number"),
        ("steps: 50", "setps: 50", 4, "expected only keys of train: model, tokenizer, method"),
        ("steps: 50", "setps: 50", 4, "; the nearest is steps; fix the line"),
        ("import:", "imports:", 11, "imports is an unknown key"),
        ("5e-3", ".nan", 8, "found .nan, expected a finite decimal number"),
    ],
)
def test_errors_name_the_line(old: str, new: str, line: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert f"run.yaml:{line}: " in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


MODEL_ERRORS = [  # keys of train.model, key with the error or -1 for model, message
    (
        "{kind: gemma3, num_heads: 2}",
        0,
        "train.model.kind is 'gemma3', an old value, expected kind: random with family: gemma3, or"
        " kind: pretrained; change the key",
    ),
    (
        "{num_heads: 2}",
        -1,
        "train.model.kind is missing, expected 'random' or 'pretrained'; add the key",
    ),
    (
        "{kind: big}",
        0,
        "train.model.kind is 'big', expected 'random' or 'pretrained'; fix the line",
    ),
    (
        "{kind: random, num_heads: 0}",
        1,
        "train.model.num_heads is 0, expected a value greater than or equal to 1; fix the line",
    ),
    (
        "{kind: random, model: gemma}",
        1,
        "train.model.model is an unknown key, expected only keys of train.model: kind, family,"
        " num_layers, embed_dim, hidden_dim, num_heads, num_kv_heads, head_dim,"
        " sliding_window_tokens; fix the line",
    ),
    (
        "{kind: pretrained}",
        -1,
        "train.model: expected one of the two keys `model` (a stored model's name) and `run`"
        " (a run id); fix the line",
    ),
    (
        "{kind: pretrained, model: a, run: b}",
        -1,
        "train.model: expected one of the two keys `model` (a stored model's name) and `run`"
        " (a run id); fix the line",
    ),
]


@pytest.mark.parametrize(("model", "at", "message"), MODEL_ERRORS)
def test_errors_of_a_model_name_the_line_and_no_class(
    model: str, at: int, message: str, tmp_path: Path
) -> None:
    block = "\n".join(f"    {part}" for part in model.strip("{}").split(", "))
    with pytest.raises(SpecError) as caught:
        load(tmp_path, GOOD.replace("  steps: 50", f"  model:\n{block}\n  steps: 50"))
    line, _, found = str(caught.value).partition("run.yaml:")[2].partition(": ")
    assert found == message
    assert int(line) == 5 + at


@pytest.mark.parametrize("old_key", RENAMED_KEYS)
def test_an_old_key_names_the_new_one(old_key: str, tmp_path: Path) -> None:
    value: object = 0.5
    for part in reversed(old_key.split(".")):
        value = {part: value}
    text = yaml.safe_dump(_merged(yaml.safe_load(GOOD), value))
    key = old_key.rpartition(".")[2]
    (line,) = (n for n, row in enumerate(text.splitlines(), 1) if row.strip().startswith(f"{key}:"))
    with pytest.raises(SpecError) as caught:
        load(tmp_path, text)
    assert str(caught.value).endswith(
        f"run.yaml:{line}: {old_key} is an old key, expected {RENAMED_KEYS[old_key]};"
        " rename the key"
    )


@pytest.mark.parametrize("old_key", RENAMED_KEYS)
def test_the_new_key_exists(old_key: str) -> None:
    new_key = RENAMED_KEYS[old_key].split(",")[0]
    *parents, key = (new_key if "." in new_key else f"{old_key}.{new_key}").split(".")
    if "." not in new_key:
        del parents[-1]
    model: Any = RunSpec
    for parent in parents:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        kinds = (fields[parent].annotation, *get_args(fields[parent].annotation))
        model = next(kind for kind in kinds if hasattr(kind, "model_fields"))
    assert key in model.model_fields


def _merged(first: Any, second: Any) -> Any:
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return second if second is not None else first
    return {key: _merged(first.get(key), second.get(key)) for key in {**first, **second}}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("over_length: drop", "export.over_length is drop, expected export.max_length_ch"),
        ("max_length_tokens: 64", "export.max_length_tokens is 64, expected export.tokenizer"),
    ],
)
def test_export_limits_are_complete(limits: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message):
        load(tmp_path, f"{GOOD}export:\n  {limits}\n")


PRETRAINED = yaml.safe_dump(
    _merged(yaml.safe_load(GOOD), {"train": {"model": {"kind": "pretrained", "model": "small"}}})
)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("tokenizer: t.model", "export.tokenizer is t.model, expected none"),
        ("max_length_tokens: 65", r"is 65, expected at most train.max_length_tokens \(64\)"),
    ],
)
def test_a_pretrained_model_counts_by_itself(limits: str, message: str, tmp_path: Path) -> None:
    spec = load(tmp_path, f"{PRETRAINED}export:\n  over_length: drop\n")
    assert spec.export.max_length_tokens is None
    with pytest.raises(SpecError, match=message):
        load(tmp_path, f"{PRETRAINED}export:\n  {limits}\n")


def test_random_weights_do_not_think(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="thinking is steps, expected plain"):
        load(tmp_path, GOOD.replace("  steps: 50", "  thinking: steps\n  steps: 50"))
    load(tmp_path, PRETRAINED.replace("train:", "train:\n  thinking: steps"))


def test_crlf_and_bom_are_read(tmp_path: Path) -> None:
    load(tmp_path, b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n"])
def test_a_file_that_is_no_mapping(text: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="expected keys of a run spec"):
        load(tmp_path, text)


def test_invalid_utf8(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="broken YAML"):
        load(tmp_path, b"name: \xff\n")


def test_heads_that_do_not_divide(tmp_path: Path) -> None:
    text = GOOD.replace(
        "  steps: 50", "  model: {kind: random, num_heads: 3, num_kv_heads: 2}\n  steps: 50"
    )
    with pytest.raises(
        SpecError, match=r"run.yaml:4: .*num_kv_heads is 2, expected a divisor of num_heads"
    ):
        load(tmp_path, text)
    text = GOOD.replace("  steps: 50", "  model: {kind: random, head_dim: 3}\n  steps: 50")
    with pytest.raises(SpecError, match="head_dim is 3, expected an even number"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("keys", "rate"),
    [
        ("{kind: random}", 0.005),
        ("{kind: pretrained, model: small}", 2e-5),
        ("{kind: pretrained, model: small}\n  method: {kind: lora}", 2e-4),
        ("{kind: pretrained, run: a-1}\n  method: {kind: qlora}\n  optimizer: {beta1: 0.5}", 2e-4),
        ("{kind: pretrained, model: small}\n  optimizer: {learning_rate: 0.1}", 0.1),
    ],
)
def test_the_default_learning_rate_depends_on_what_is_trained(
    keys: str, rate: float, tmp_path: Path
) -> None:
    text = GOOD.replace("  optimizer:\n    learning_rate: 5e-3\n", f"  model: {keys}\n")
    spec = load(tmp_path, text)
    assert spec.train.optimizer.learning_rate == rate
    again = TrainSpec.model_validate_json(spec.train.model_dump_json())
    assert again == spec.train


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_run_spec(str(tmp_path / "nothing.yaml"))


def test_every_field_of_every_spec_is_described() -> None:
    pending: list[type[Spec]] = [Spec]
    while pending:
        spec = pending.pop()
        pending += [
            each for each in spec.__subclasses__() if each.__module__.startswith("tuneloop.")
        ]
        for name, field in spec.model_fields.items():
            if name in ("kind", "stage"):
                continue  # the tag of a union, fixed by each class
            words = (field.description or "").split()
            assert len(words) > 1, f"{spec.__name__}.{name} has no docstring"
            assert words[0] not in ("Of", "Whose", "Who", "How"), f"{spec.__name__}.{name}"
