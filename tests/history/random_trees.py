"""Random trees of runs: some adopt results, some continue, some are unfinished."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from hypothesis import strategies as st

from tests.history.trees import put, set_age, snapshot, write_run
from tuneloop.stages.pipelines import TRAINING_STAGES

OLD = 30.0
"""Days after which everything is old."""
RANDOM_RUNS = st.lists(
    st.fixed_dictionaries(
        {
            "stages": st.integers(0, len(TRAINING_STAGES)),
            "like": st.dictionaries(
                st.sampled_from(list(TRAINING_STAGES)), st.integers(0, 4), max_size=3
            ),
            "continues": st.none() | st.integers(0, 4),
            "starts": st.none() | st.integers(0, 4),
            "ages": st.lists(st.sampled_from([0.0, 10.0, OLD, -5.0]), min_size=3, max_size=3),
        }
    ),
    min_size=1,
    max_size=5,
)


def grow(root: str, runs: list[dict[str, Any]], now: datetime) -> None:
    """Write a random tree; run numbers wrap around."""
    for number, run in enumerate(runs):
        like = {
            stage: f"run-{other % max(number, 1)}" for stage, other in run["like"].items() if number
        }
        train: dict[str, Any] = {}
        for key, value in (("continues", "continue_from"), ("starts", "model")):
            if isinstance(run[key], int) and number:
                other = f"run-{run[key] % number}"
                train[value] = other if value == "continue_from" else {"run": other}
        stages = TRAINING_STAGES[: run["stages"]]
        run_id = f"run-{number}"
        write_run(root, run_id, stages, like=like, train=train)
        for stage in ("export", "train"):
            put(root, f"training_runs/{run_id}/{stage}/attempts/killed/half.jsonl")
        put(root, f"training_runs/{run_id}/train/resume/checkpoints/5/manifest.json")
    for number, run in enumerate(runs):
        prefix = f"training_runs/run-{number}/"
        names = {name for name in snapshot(root) if name.startswith(prefix)}
        for place, age in zip(("", "export/", "train/"), run["ages"], strict=True):
            chosen = [name for name in names if name.startswith(prefix + place)]
            set_age(root, now, age, chosen)
