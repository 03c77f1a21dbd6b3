"""The layout of the artifacts prefix: one function per path."""

from __future__ import annotations

from tuneloop.storage import paths


def runs_prefix(artifacts: str) -> str:
    """Return the prefix of all runs."""
    return paths.join(artifacts, "training_runs")


def run_prefix(artifacts: str, run_id: str) -> str:
    """Return the prefix of a run."""
    return paths.join(runs_prefix(artifacts), run_id)


def run_indexes_prefix(artifacts: str) -> str:
    """Return the prefix of the indexes of all runs, apart from the runs: one request lists them."""
    return paths.join(artifacts, "run_index")


def run_index_url(artifacts: str, run_id: str) -> str:
    """Return the URL of the index of a run, which lists read instead of its records."""
    return paths.join(run_indexes_prefix(artifacts), f"{run_id}.json")


def run_index_cache_url(artifacts: str) -> str:
    """Return the URL of the cache of all indexes."""
    return paths.join(artifacts, "run_index_cache.json")


def stage_prefix(artifacts: str, run_id: str, stage: str) -> str:
    """Return the prefix of a stage of a run."""
    return paths.join(run_prefix(artifacts, run_id), stage)


def shard_name(index: int, count: int) -> str | None:
    """Return the name of one of several processes that share a stage; None for a lone process."""
    return f"{index:05d}-of-{count:05d}" if count > 1 else None


def record_url(artifacts: str, run_id: str, stage: str, shard: str | None = None) -> str:
    """Return the URL of the record of a stage, or of one of its shards."""
    name = "record.json" if shard is None else f"record-{shard}.json"
    return paths.join(stage_prefix(artifacts, run_id, stage), name)


def pointer_url(artifacts: str, fingerprint: str) -> str:
    """Return the URL of the cache pointer, which names the first record with a fingerprint."""
    return paths.join(artifacts, "stages", f"{fingerprint}.json")


def run_manifest_url(artifacts: str, run_id: str) -> str:
    """Return the URL of the manifest of a run."""
    return paths.join(run_prefix(artifacts, run_id), "run_manifest.json")


def notification_url(artifacts: str, run_id: str, name: str) -> str:
    """Return the URL of the mark that a notification of a run was delivered."""
    return paths.join(run_prefix(artifacts, run_id), "notifications", f"{name}.json")


def token_folder(artifacts: str, digest: str) -> str:
    """Return the folder of a token file, which all runs with the same examples share."""
    return paths.join(artifacts, "tokens", digest)


def compiled_url(artifacts: str, fingerprint: str) -> str:
    """Return the URL of what the compiler reported about a training step."""
    return paths.join(artifacts, "compiled", f"{fingerprint}.json")


def compilation_cache(artifacts: str) -> str:
    """Return the URL of JAX's compilation cache, which all runs on accelerators share."""
    return paths.join(artifacts, "jax_cache")


def eval_set_url(artifacts: str, name: str, version: str) -> str:
    """Return the URL of the record of an eval set's digest, under the name that its file states."""
    return paths.join(artifacts, "eval_sets", name, f"{version}.json")


def eval_answers_url(artifacts: str, key: str) -> str:
    """Return the URL of a model's answers to one set, which later evaluations use again."""
    return paths.join(artifacts, "eval_answers", f"{key}.jsonl")


def sweeps_prefix(artifacts: str) -> str:
    """Return the prefix of all sweeps."""
    return paths.join(artifacts, "sweeps")


def sweep_prefix(artifacts: str, sweep_id: str) -> str:
    """Return the prefix of a sweep, which names its runs and holds its report."""
    return paths.join(sweeps_prefix(artifacts), sweep_id)


def all_rounds_prefix(artifacts: str) -> str:
    """Return the prefix of all rounds."""
    return paths.join(artifacts, "rounds")


def rounds_prefix(artifacts: str, rounds_id: str) -> str:
    """Return the prefix of rounds, which names their runs and holds their report."""
    return paths.join(all_rounds_prefix(artifacts), rounds_id)


def ledger_prefix(artifacts: str, key: str) -> str:
    """Return the prefix of the ledger of candidates tried against one base on one eval set."""
    return paths.join(artifacts, "candidates", key)


def baseline_prefix(artifacts: str, name: str) -> str:
    """Return the prefix of a named baseline, which holds one object for each of its versions."""
    return paths.join(artifacts, "baselines", name)


def alias_prefix(artifacts: str, name: str) -> str:
    """Return the prefix of the history of an alias, which holds one object for each change."""
    return paths.join(artifacts, "models", name, "history")


def trigger_prefix(artifacts: str, name: str) -> str:
    """Return the prefix of the history of a trigger, which starts a spec's run on new traces."""
    return paths.join(artifacts, "triggers", name)
