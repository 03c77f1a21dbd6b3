"""`tuneloop plan --compile` from the command line to the compiler and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.builders import Invoke, TinyRun
from tests.training.compile.cells import need_libtpu

pytestmark = pytest.mark.slow


def on(run: TinyRun, accelerator: str, **changes: Any) -> TinyRun:
    return run.change(
        execution__cluster={"namespace": "n", "train": {"accelerator": accelerator}}, **changes
    )


def test_the_step_is_compiled_and_the_report_is_json(tuneloop: Invoke, tiny_run: TinyRun) -> None:
    need_libtpu()
    spec = on(tiny_run, "v5e-2x2").spec_path
    options = (spec, "--compile", "--price-per-chip-hour", 2)
    code, out, err = tuneloop("plan", *options, "--json")
    assert code == 0, err
    (train,) = (row for row in json.loads(out)["stages"] if row["name"] == "train")
    found = train["compile"]
    assert (found["platform"], found["devices"], found["fits"]) == ("tpu", 4, True)
    assert 0 < found["argument_bytes"] < found["peak_bytes"] < found["limit_bytes"]
    assert found["flops"] > 0
    assert found["cost"] == pytest.approx(2 * found["chip_hours"])
    assert found["collectives"]
    code, out, _ = tuneloop("plan", *options)  # from the artifacts
    assert code == 0
    assert "compiled for v5e-2x2" in out


def test_without_compiling_one_line_estimates(tuneloop: Invoke, tiny_run: TinyRun) -> None:
    code, out, _ = tuneloop("plan", tiny_run.spec_path)
    assert code == 0
    assert "memory about 1 MiB per device: weights 0 MiB" in out
    code, out, _ = tuneloop("plan", tiny_run.spec_path, "--json")
    assert json.loads(out)["stages"][1]["estimate"]["compiled"] is False


@pytest.mark.parametrize(
    ("accelerator", "options", "message"),
    [
        ("v5e-4x4", (), "8 rows do not divide evenly among 16 devices"),
        ("v5e-9x9", ("--compile",), "accelerator 'v5e-9x9' is not offered"),
        ("cpu", ("--compile",), "the train stage runs on a CPU, expected an accelerator"),
    ],
)
def test_what_cannot_be_planned_is_a_sentence(
    tuneloop: Invoke, tiny_run: TinyRun, accelerator: str, options: tuple[str, ...], message: str
) -> None:
    code, _, err = tuneloop("plan", on(tiny_run, accelerator).spec_path, *options)
    assert code == 3
    assert message in err


@pytest.mark.parametrize("verb", ["check", "submit", "render"])
def test_an_uneven_batch_is_refused_before_anything_runs(
    tuneloop: Invoke, tiny_run: TinyRun, verb: str
) -> None:
    image = f"registry.example/train@sha256:{'a' * 64}"
    options = ("-o", tiny_run.folder / "yaml") if verb == "render" else ()
    run = on(tiny_run, "v5e-4x4")
    code, _, err = tuneloop(verb, run.spec_path, "--image", image, *options)
    assert code == 3
    assert "8 rows do not divide evenly among 16 devices; choose a multiple of 16" in err
    assert not (run.folder / "artifacts" / "training_runs").exists()
