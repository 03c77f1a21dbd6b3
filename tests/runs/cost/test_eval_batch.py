"""The batch of an evaluation against the memory of its device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.builders import TinyRun
from tests.runs.cost.test_needs import GEMMA_1B
from tuneloop.k8s.backend import stage_devices
from tuneloop.runs.cost.eval_batch import warn_of_batch
from tuneloop.specs.cluster import ClusterSpec


def warning(run: TinyRun, shape: str | None, **changes: Any) -> str | None:
    plan = run.change(
        **{"train__model": GEMMA_1B, "train__max_length_tokens": 1024, **changes}
    ).plan()
    # As many pieces as the vocabulary of Gemma has.
    architecture = plan.architecture.model_copy(update={"vocab_size": 262_144})
    cluster = ClusterSpec.model_validate(
        {"namespace": "n", "eval": {"accelerator": shape or "cpu"}}
    )
    return warn_of_batch(replace(plan, architecture=architecture), stage_devices(cluster, "eval"))


def test_a_batch_that_does_not_fit_is_named_with_one_that_does(tiny_run: TinyRun) -> None:
    found = warning(tiny_run, "l4-1", eval__batch_size=512)
    assert found is not None
    assert found.startswith("eval.batch_size: is 512, but weights and batch need about ")
    rows = int(found.rsplit("set it to ", 1)[1].partition(",")[0])
    assert 1 < rows < 512
    assert warning(tiny_run, "l4-1", eval__batch_size=rows) is None
    assert warning(tiny_run, "l4-1", eval__batch_size="auto") is None
    assert warning(tiny_run, None, eval__batch_size=512) is None
    backend = {"kind": "openai", "url": "http://h", "models": {"base": "b", "tuned": "t"}}
    assert warning(tiny_run, "l4-1", eval__batch_size=512, eval__backend=backend) is None


def test_weights_that_do_not_fit_need_another_machine(tiny_run: TinyRun) -> None:
    wide = {**GEMMA_1B, "embed_dim": 4096, "hidden_dim": 32_768}
    found = warning(tiny_run, "l4-1", train__model=wide)
    assert found is not None and found.endswith("use a larger machine, or eval.backend")
