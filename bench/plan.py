"""Wall time to plan and render 1,000 runs; compared with PyYAML writing the same objects."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import yaml
from figure import print_figure, sized

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.builders import make_tiny_run  # noqa: E402 - needs the path above
from tuneloop.k8s.backend import KubernetesBackend  # noqa: E402
from tuneloop.k8s.rendering.manifests import dump_files, stage_files  # noqa: E402
from tuneloop.runs.planning.prepare import prepare  # noqa: E402
from tuneloop.runs.planning.spec_file import load_run_spec  # noqa: E402
from tuneloop.specs.target import Target  # noqa: E402

RUNS = sized(1000, 20)
RIVAL_SHARE = 10
"""The rival writes only one of this many runs, and its time is multiplied by this number."""
IMAGE = "registry.example/tuneloop@sha256:" + "0" * 64


def main() -> None:
    """Measure both once, because a thousand runs are enough repetition."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_tiny_run(Path(folder)).change(
            execution__cluster={"namespace": "n", "train": {"accelerator": "v5e-4x4"}},
            train__batch_size=16,
        )
        spec = load_run_spec(str(run.spec_path))
        since = time.perf_counter()
        documents = []
        for seed in range(RUNS):
            prepared = prepare(KubernetesBackend, spec, Target(image=IMAGE), seed=seed)
            rendered = stage_files(prepared.backend.submission)
            dump_files(rendered)
            documents.append(rendered)
        ours = time.perf_counter() - since
    since = time.perf_counter()
    for rendered in documents[::RIVAL_SHARE]:
        for objects in rendered.values():
            yaml.safe_dump_all(objects, sort_keys=False)
    rival = (time.perf_counter() - since) * RIVAL_SHARE
    print_figure("plan", "s", [(ours, rival)])


if __name__ == "__main__":
    main()
