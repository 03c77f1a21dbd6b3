"""Example values of the OpenAPI document; a test checks them against their schemas."""

from __future__ import annotations

import json
from typing import Any

TRACE_ID = "6f1c2f0e-5f5b-4a3e-9d59-0c6a1f0f9b11"
OTHER_TRACE_ID = "0b0a5d3c-8d1f-4c55-8f0e-2a7e6a2c4d10"
BUILD_ID = "0d1f6a80-9b7c-5b0e-8a2e-6a0f4b6f2c11"
PREVIEW_ID = "3c5e7a90-1b2d-4f6e-8a7c-9d0e1f2a3b4c"
DATASET_KEY = "sums-v1"
SHARD_NAME = "traces-00000-of-00001.jsonl"
TIME = "2026-11-22T11:22:10.546379Z"

TRACE: dict[str, Any] = {
    "trace_version": "1.0",
    "prompt": "What is 2 + 3?",
    "final_answer": "5",
    "steps": [{"i": 0, "type": "reason", "content": "2 plus 3 is 5"}],
    "meta": {"source": "example"},
}
CURSOR = "dDE3OTUzNDY1MzA1NDYzNzk"
LABEL: dict[str, Any] = {
    "name": "review",
    "value": "accept",
    "reason": "the sum is right",
    "who": "ada",
}
TRACE_LABEL: dict[str, Any] = {"trace_id": TRACE_ID, **LABEL}
SCORE: dict[str, Any] = {
    "trace_id": TRACE_ID,
    "criteria": "numeric",
    "score": 1.0,
    "details": {"state": "correct", "answer": "5"},
}
BUILD: dict[str, Any] = {
    "dataset_name": "sums",
    "dataset_version": "v1",
    "filters": {"source": "example"},
    "limit": 10_000,
    "seed": 7,
}
ACCOUNT: dict[str, Any] = {
    "considered": 3,
    "rules": [
        {"rule": "evaluation", "removed": 2, "missing": 0, "left": 1, "facts": {}},
        {"rule": "limit", "removed": 0, "missing": 0, "left": 1, "facts": {}},
    ],
    "selected": 1,
}
# FastAPI drops nulls from examples, so optional fields have values here.
MANIFEST: dict[str, Any] = {
    **BUILD,
    "schema_version": "1",
    "dataset_key": DATASET_KEY,
    "build_id": BUILD_ID,
    "created_at": TIME,
    "recipe": "trace_sft_v1",
    "instruction": "Show your work as steps",
    "selection_strategy": "latest",
    "session_id": "session-1",
    "parent_dataset_id": "sums-v0",
    "training_run_id": "sums-7c1aa298",
    "trace_count": 1,
    "stats": {
        "trace_count": 1,
        "avg_step_count": 1.0,
        "min_step_count": 1,
        "max_step_count": 1,
        "avg_total_chars": 28.0,
    },
    "content_sha256": "9f" * 32,
    "shards": [
        {
            "name": SHARD_NAME,
            "path": f"attempts/{'0a' * 16}/{SHARD_NAME}",
            "rows": 1,
            "size_bytes": 263,
            "sha256": "5c" * 32,
        }
    ],
}


def to_line(value: object) -> str:
    """Encode a value as one line of NDJSON."""
    return json.dumps(value) + "\n"


EXPORTED = to_line(
    {
        "id": TRACE_ID,
        "prompts": TRACE["prompt"],
        "trace_steps": ["2 plus 3 is 5"],
        "final_answer": "5",
        "metadata": {"source": "example", "created_at": TIME, "trace_version": "1.0"},
    }
)
SHARD_ROW = to_line({"created_at": TIME, "id": TRACE_ID, **TRACE})
EXPORTED_TRACE = to_line(
    {
        "id": TRACE_ID,
        "created_at": TIME,
        "trace_version": "1.0",
        "cursor": CURSOR,
        "payload": TRACE,
    }
)
METRIC = 'tuneloop_http_requests_total{method="GET",route="/healthz",status="200"} 3.0\n'
