"""Read the samples of a finished run."""

from __future__ import annotations

from tuneloop.artifacts import records
from tuneloop.artifacts.evaluation.eval_samples import EvalSamples, load_samples
from tuneloop.errors import InputMissing

SAMPLES = "samples.jsonl"


def read_samples(artifacts: str, run_id: str) -> EvalSamples:
    """Read and verify samples.jsonl of a run.

    Raises:
        InputMissing: the run has no finished evaluation, or an older one without samples.
        DataError: the file is broken.
    """
    record = records.find(artifacts, run_id, "eval")
    if record is None:
        raise InputMissing(
            f"run {run_id}: no samples: stage eval has no record yet; check the run id and"
            " --artifacts, or wait for the run"
        )
    file = next((each for each in record.outputs if each.name == SAMPLES), None)
    if file is None:
        raise InputMissing(
            f"run {run_id}: its evaluation wrote no {SAMPLES}, expected one of this version of"
            " tuneloop; run it again with a new seed"
        )
    return load_samples(records.read_output(file, artifacts).splitlines(), file.path)
