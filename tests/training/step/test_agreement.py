"""Copies that differ between devices are found, and nothing else is."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.builders import REPOSITORY, xla_flags
from tuneloop.training.step.agreement import Agreement

CASES = {
    "nothing": None,
    "loss": "after step 1, devices disagree about the loss (device 0: 5.5, device 1: 5.5, device 2:"
    " 6.5, device 3: 5.5), expected equal bits",
    "norm": "after step 7, devices disagree about the gradient norm (device 0: 0.25, device 1: 1.2",
    "everywhere": "about the copies of the same weights (checksums of device 0: ",
    "narrow": "about the copies of the same weights (checksums of device 0: ",
    "by_fsdp": "(checksums of device 1: 0000c012, device 3: 00004012), expected",
    "by_all": None,  # no device has a copy
    "one device": None,
    "not due": None,
    "due": "after step 200, devices disagree about the copies of the same weights",
}


@pytest.fixture(scope="module")
def found() -> dict[str, str | None]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.step.agreement_worker"],
        cwd=REPOSITORY,
        env={**os.environ, "XLA_FLAGS": xla_flags(devices=4)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cases: dict[str, str | None] = json.loads(done.stdout)
    return cases


@pytest.mark.parametrize("case", CASES)
def test_a_copy_that_differs_is_found(case: str, found: dict[str, str | None]) -> None:
    error, expected = found[case], CASES[case]
    assert (error is None) == (expected is None), error
    assert (expected or "") in (error or "")


def test_one_device_has_nothing_to_compare() -> None:
    agreement = Agreement(None)
    agreement.start(1, None, None, None)
    agreement.check(1)
