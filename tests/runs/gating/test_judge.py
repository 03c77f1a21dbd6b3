"""`tuneloop gate` with a policy, on runs with records and samples."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import Invoke, letter_trace, publish_dataset
from tests.finished_run import publish_run, torn
from tuneloop.evaluation.gates import ledger

RUN = "letters-7c1aa298"
BASE, SET = "1b" * 32, "e5" * 32
"""Digests of the base model and the set of `publish_run`."""


@pytest.fixture
def artifacts(tmp_path: Path) -> str:
    url = str(tmp_path / "artifacts")
    publish_run(url, publish_dataset(url, [letter_trace(n) for n in range(3)]), RUN)
    return url


def gate(tuneloop: Invoke, artifacts: str, *options: str) -> tuple[int, str, str]:
    return tuneloop("gate", RUN, "--artifacts", artifacts, *options)


def test_a_run_passes_once_its_gain_is_certain(tuneloop: Invoke, artifacts: str) -> None:
    code, out, err = gate(tuneloop, artifacts, "--fail-if", "not-improved")
    assert code == 0, err
    assert out.startswith("set letters_v1: improved after ")
    assert "(candidate 1 against this base on this set, error 0.03)" in out
    code, out, _ = gate(tuneloop, artifacts, "--fail-if", "not-improved", "--json")
    found = json.loads(out)
    assert (code, found["passed"], found["problems"], found["baseline"]) == (0, True, [], None)
    (decided,) = found["sets"]
    assert (decided["decision"], decided["candidate"], decided["items"]) == ("improved", 1, 36)
    assert 0 < decided["low"] < decided["gain"] < decided["high"]
    assert len(ledger.attempts(artifacts, base=BASE, eval_set=SET)) == 1


def test_luck_of_many_candidates_does_not_pass(tuneloop: Invoke, artifacts: str) -> None:
    for number in range(400):
        entry = ledger.Attempt(
            number=number + 1, base=BASE, eval_set=SET, candidate=f"{number}", run_id="r"
        )
        prefix = Path(ledger._prefix(artifacts, BASE, SET))
        prefix.mkdir(parents=True, exist_ok=True)
        (prefix / f"{number + 1:06d}.json").write_bytes(ledger._encode(entry))
    code, out, err = gate(tuneloop, artifacts, "--fail-if", "not-improved", "--json")
    assert code == 13
    assert "set letters_v1 is not shown to have improved (candidate 401" in err
    assert json.loads(out)["passed"] is False


def test_a_gate_needs_no_package_of_the_extra_eval() -> None:
    """CI installs the lock `base.txt`, which has numpy but not scipy."""
    code = (
        "import sys; from tuneloop.runs.gating import judge;"
        "from tuneloop.evaluation.gates import baselines, ledger, policy;"
        "print(*{'scipy', 'statsmodels', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "\n"


def test_limits_alone_write_nothing(tuneloop: Invoke, artifacts: str) -> None:
    assert gate(tuneloop, artifacts, "--min-gain", "0")[0] == 0
    assert gate(tuneloop, artifacts, "--approved", "baseline")[0] == 13
    assert not (Path(artifacts) / "candidates").exists()


def test_approved_items_come_from_the_base_or_a_file(
    tuneloop: Invoke, artifacts: str, tmp_path: Path
) -> None:
    code, _, err = gate(tuneloop, artifacts, "--approved", "baseline")
    assert code == 13
    assert "2 approved items are not correct: letters_v1/letter-4, letters_v1/letter-9" in err
    file = tmp_path / "approved.txt"
    for text, expected, said in (
        ("letter-1\r\nletter-2\n\n", 0, "the gate passes"),
        ("letter-0\n", 13, "1 approved items are not correct: letters_v1/letter-0"),
        ("é 🦊\n", 13, "1 approved items are in no set: é 🦊"),
        ("\n", 2, "empty, expected one item id per line"),
    ):
        file.write_text(text, encoding="utf-8", newline="")
        code, out, err = gate(tuneloop, artifacts, "--approved", str(file))
        assert (code, said in out + err) == (expected, True), out + err
    file.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in gate(tuneloop, artifacts, "--approved", str(file))[2]
    code, _, err = gate(tuneloop, artifacts, "--approved", str(tmp_path / "none.txt"))
    assert (code, "none.txt" in err) == (2, True)


def test_only_a_run_that_passes_becomes_the_baseline(tuneloop: Invoke, artifacts: str) -> None:
    code, _, _ = gate(tuneloop, artifacts, "--min-accuracy", "0.9", "--promote", "main")
    assert code == 13
    assert not (Path(artifacts) / "baselines").exists()
    compared = ("--baseline", "main", "--fail-if", "regressed")
    code, _, err = gate(tuneloop, artifacts, *compared)
    assert (code, "expected the baseline main; make one with" in err) == (12, True)
    code, out, _ = gate(tuneloop, artifacts, "--min-accuracy", "0.7", "--promote", "main")
    assert code == 0
    assert f"{RUN}: version 1 of the baseline main" in out
    code, out, _ = gate(tuneloop, artifacts, *compared, "--json")
    found = json.loads(out)
    assert (code, found["baseline"], found["sets"][0]["gain"]) == (0, RUN, 0.0)
    # The same model against itself is not shown to be better.
    assert gate(tuneloop, artifacts, "--baseline", "main", "--fail-if", "not-improved")[0] == 13
    code, _, err = gate(tuneloop, artifacts, "--baseline", "main")
    assert (code, "expected --fail-if, --approved or --max-set-loss" in err) == (2, True)
    assert gate(tuneloop, artifacts, "--promote", "../x")[0] == 2


def test_a_run_without_samples_has_no_policy(tuneloop: Invoke, artifacts: str) -> None:
    (path,) = Path(artifacts).glob(f"training_runs/{RUN}/eval/attempts/*/samples.jsonl")
    path.write_bytes(path.read_bytes()[:-200])
    code, _, err = gate(tuneloop, artifacts, "--approved", "baseline")
    assert (code, "samples.jsonl" in err) == (12, True)
    record = json.loads((Path(artifacts) / f"training_runs/{RUN}/eval/record.json").read_text())
    assert any(one["name"] == "samples.jsonl" for one in record["outputs"])


def test_the_comment_and_the_report_show_the_gate(tuneloop: Invoke, artifacts: str) -> None:
    asked = ("report", RUN, "--artifacts", artifacts, "--format")
    code, out, _ = tuneloop(*asked, "comment", "--fail-if", "not-improved", "--min-accuracy", "1")
    assert code == 0
    assert "**Gate: fails**\n\n- `accuracy is 72.2 % (26 of 36), expected at least 100.0 %`" in out
    assert "- `set letters_v1: improved after " in out
    code, out, _ = tuneloop(*asked, "comment", "--fail-if", "not-improved")
    assert (code, "**Gate: passes**" in out) == (0, True)
    assert "Gate:" not in tuneloop(*asked, "comment")[1]
    code, out, err = tuneloop(*asked, "json", "--max-regressions", "1")
    assert (code, json.loads(out)["run_id"]) == (13, RUN)
    assert "2 items regressed, expected at most 1" in err


def test_the_comment_of_an_unfinished_run_needs_no_gate(tuneloop: Invoke, artifacts: str) -> None:
    publish_run(artifacts, "letters-v1", "going-1", stages=["export"])
    torn(artifacts, "going-1", "train/verdict.json", {"state": "x", "cause": "y", "fix": "z"})
    asked = ("report", "going-1", "--artifacts", artifacts, "--fail-if", "not-improved")
    assert tuneloop(*asked, "--format", "comment")[0] == 0
    assert tuneloop(*asked)[0] == 12


def test_a_baseline_with_a_deleted_run_is_a_sentence(tuneloop: Invoke, artifacts: str) -> None:
    assert gate(tuneloop, artifacts, "--promote", "main")[0] == 0
    other = "letters-0a1b2c3d"
    publish_run(artifacts, "letters-v1", other)
    shutil.rmtree(Path(artifacts) / "training_runs" / RUN)
    asked = ("--artifacts", artifacts, "--baseline", "main", "--fail-if", "regressed")
    code, _, err = tuneloop("gate", other, *asked)
    assert (code, f"run {RUN}: no record of stage eval" in err) == (12, True)
    assert "promote another run" in err
