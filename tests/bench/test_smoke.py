"""Every script of bench/ runs with tiny sizes.

tests/cluster/test_bench.py runs the scripts that need an API server. tests/images/test_images.py
runs `image.py`, which needs built images. `make check-torch` runs both sides of `gpu.py`.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest

from tests import postgres
from tests.bench.smoke import FOLDER, run_smoke
from tests.browser.chromium import MISSING, find_chromium
from tests.cluster.test_bench import SCRIPTS as ON_A_CLUSTER
from tests.training.compile.cells import need_libtpu

SCRIPTS = (
    "step",  # first, because it takes longest
    "eval_statistics",
    "examples",
    "examples_http",
    "examples_processes",
    "generate",
    "lm_head",
    "lora_1b",
    "load",
    "packing",
    "plan",
    "real_mlx",
    "runs_list",
    "runs_list_stores",
    "scale_objects",
    "scale_requests",
    "scale_store",
    "selection",
    "startup",
    "store_export",
)
WITH_POSTGRES = ("store_batch", "store_build", "store_health", "store_soak")
WITH_BROWSER = "report_page"
WITH_LIBTPU = "compile"
SHARED = ("cluster", "figure", "scale", "store")
"""Modules that the scripts import."""


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs(script: str) -> None:
    run_smoke(script)


@pytest.mark.parametrize("script", WITH_POSTGRES)
def test_a_script_with_both_databases_runs(script: str) -> None:
    if postgres.binaries() is None:
        if os.environ.get("CI"):
            pytest.fail(postgres.MISSING)
        pytest.skip(postgres.MISSING)
    assert {one["figure"] for one in run_smoke(script)} == {
        f"{script}_sqlite",
        f"{script}_postgresql",
    }


def test_a_script_with_a_browser_runs() -> None:
    if find_chromium() is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    assert {one["figure"] for one in run_smoke(WITH_BROWSER)} == {
        f"{WITH_BROWSER}_open",
        f"{WITH_BROWSER}_search",
    }


def test_a_script_that_compiles_for_tpus_runs() -> None:
    need_libtpu()
    run_smoke(WITH_LIBTPU)


def test_our_side_of_the_script_for_gpus_runs() -> None:
    program = [sys.executable, str(FOLDER / "gpu.py"), "--smoke"]
    done = subprocess.run(
        [*program, "--describe", "1b-lora"], capture_output=True, text=True, check=True
    )
    done = subprocess.run(
        [*program, "--ours", done.stdout], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert found["tokens_per_second"] > 0
    assert abs(found["first_loss"] - math.log(512)) < 0.1  # random weights, 512 pieces


def test_every_script_is_run_by_some_test() -> None:
    run = {
        *SCRIPTS,
        *WITH_POSTGRES,
        *ON_A_CLUSTER,
        WITH_BROWSER,
        WITH_LIBTPU,
        "image",
        "gpu",
        "gpu_torch",
    }
    assert {path.stem for path in FOLDER.glob("*.py")} == run | {*SHARED}
