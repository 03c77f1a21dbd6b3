"""Models on GCS and S3, one request in twenty failing: copied there, left there, verified there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.checkpoints import copy_checkpoint
from tests.objectstore import STORES, ObjectStore

SCRIPT = """
import json, sys
from tuneloop.artifacts.model_manifest import model_prefix
from tuneloop.models.add import Request, add_model
from tuneloop.models.stored import list_models, verify_files

source, artifacts, local = sys.argv[1:]
stored = add_model(Request("tiny", source, artifacts))
again = add_model(Request("tiny", source, artifacts))
place = model_prefix(artifacts, "tiny")
left = add_model(Request("left", place, local, in_place=True))
back = add_model(Request("back", place, local))
problems = []
for manifest, folder in (
    (stored, place), (left, model_prefix(local, "left")), (back, model_prefix(local, "back"))
):
    problems += verify_files(manifest, folder, lambda done, total: None)
print(json.dumps({
    "problems": problems,
    "names": [each.name for each in list_models(artifacts)],
    "digests": len({each.digest for each in (stored, again, left, back)}),
    "place": left.place == place,
    "licence": back.licence,
}))
"""


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    with STORES[request.param]() as found:
        yield found


def test_a_model_lives_in_a_bucket(store: ObjectStore, tmp_path: Path) -> None:
    source = copy_checkpoint(tmp_path / "source", "gemma3_sharded")
    command = [sys.executable, "-c", SCRIPT, str(source), store.url("artifacts"), str(tmp_path)]
    done = subprocess.run(
        command,
        env={**os.environ, **store.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "problems": [],
        "names": ["tiny"],
        "digests": 1,
        "place": True,
        "licence": "apache-2.0",
    }
