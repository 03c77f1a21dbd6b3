"""A stored model, prompts and a sampling spec, which tests of several rooms share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.builders import letter_trace, publish_dataset
from tuneloop.runs.planning.any_plan import load_any_plan
from tuneloop.runs.planning.spec_file import load_any_spec
from tuneloop.runs.sampling.plan import SamplePlan

SCORER = """
READS = "text"

def score(completion, item):
    if len(completion) % 5 == 0:
        raise ValueError("the length is a multiple of five")
    return {"value": (len(completion) % 3) / 2}
"""
"""A scorer that gives text of a model with random weights every state and several values."""


@dataclass(frozen=True)
class Sampling:
    """A sampling spec in its own folder."""

    folder: Path
    spec_path: Path

    @property
    def artifacts(self) -> str:
        """URL of the artifacts."""
        return str(self.folder / "artifacts")

    def change(self, **changes: Any) -> Sampling:
        """Rewrite the spec with values for keys like `sample__completions=3`."""
        value = yaml.safe_load(self.spec_path.read_text())
        for dotted, new in changes.items():
            *path, last = dotted.split("__")
            inner = value
            for part in path:
                inner = inner.setdefault(part, {})
            inner[last] = new
        self.spec_path.write_text(yaml.safe_dump(value))
        return self

    def plan(self) -> SamplePlan:
        """Plan the run with the code of this checkout."""
        found = load_any_plan(load_any_spec(str(self.spec_path)))
        assert isinstance(found, SamplePlan)
        return found


def make_sampling(folder: Path, model: str = "tiny", prompts: int = 6) -> Sampling:
    """Write a dataset and a spec that samples from a stored model, which the caller writes."""
    made = Sampling(folder, folder / "sample.yaml")
    publish_dataset(made.artifacts, [letter_trace(number) for number in range(prompts)])
    (folder / "scorer.py").write_text(SCORER)
    spec = {
        "name": "letters",
        "seed": 5,
        "sample": {
            "model": {"kind": "pretrained", "model": model},
            "prompts": {"kind": "dataset", "dataset": "letters-v1"},
            "completions": 4,
            "max_new_tokens": 8,
            "batch_size": 8,
            "scorer": str(folder / "scorer.py"),
        },
        "execution": {"artifacts": made.artifacts},
    }
    made.spec_path.write_text(yaml.safe_dump(spec))
    return made
