"""The verbs as people use them: what is printed, and the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Invoke, TinyRun, letter_trace
from tuneloop.runs import store_app
from tuneloop.store.middleware.auth import parse_tokens


def sentence(stderr: str) -> str:
    """The one sentence of an expected failure; progress lines may stand before it."""
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("tuneloop: ")]
    return line


def write_traces(path: Path, traces: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(t, ensure_ascii=False) + "\n" for t in traces))
    return path


def test_help_needs_no_heavy_package() -> None:
    code = (
        "import sys; from tuneloop import cli\n"
        "sys.argv = ['tuneloop', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'tunix', 'sqlalchemy', 'fastapi', 'pydantic', 'numpy', 'fsspec'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Run the whole loop on this machine" in done.stdout


def test_own_traces_go_through_the_loop(
    tuneloop: Invoke, store: str, tiny_run: TinyRun, tmp_path: Path
) -> None:
    """Import, build, plan, run, plan again: what a user does with a file of traces."""
    traces = [letter_trace(number) for number in range(60)]
    traces[0]["prompt"] = "ما هي عاصمة فرنسا؟ 🗼 " + "é" * 20
    file = write_traces(tmp_path / "mine.jsonl", traces)
    for _ in range(2):  # the second import adds nothing
        code, out, _ = tuneloop("traces", "import", file, "--store", store)
        assert (code, out) == (0, f"60 traces of {file} are in the store\n")
    code, out, _ = tuneloop(
        *("datasets", "build", "mine", "v1", "--store", store, "--json"),
        *("--instruction", "Show your work as steps"),
    )
    built = json.loads(out)
    assert (code, built["dataset_key"], built["trace_count"]) == (0, "mine-v1", 60)

    changes = {"train__steps": 3, "train__max_length_tokens": 256, "seed": None}
    spec = tiny_run.change(dataset="mine-v1", **changes).spec_path
    code, out, _ = tuneloop("plan", spec)
    assert code == 0
    assert out.count("to run") == 4
    code, out, err = tuneloop("run", spec, "--store", store, "--json")
    assert code == 0, err
    summary = json.loads(out)
    assert [s["state"] for s in summary["stages"]] == ["done"] * 4
    expected = {"run_id", "artifacts", "stages", "loss", "accuracy", "report", "usage"}
    assert set(summary) == expected
    assert Path(summary["report"]).read_text().startswith("# Delta report")
    manifest = json.loads((Path(summary["report"]).parent / "run_manifest.json").read_bytes())
    assert manifest["seed"] == built["seed"]  # drawn once, kept through the loop

    code, out, err = tuneloop("run", spec, "--store", store)
    assert code == 0
    assert "model    random weights (gemma3); it knows nothing before training" in err
    assert out.count("cached") == 4
    assert max(len(line) for line in out.splitlines() if "/" not in line) <= 80
    code, out, _ = tuneloop("plan", spec, "--json")
    assert {s["state"] for s in json.loads(out)["stages"]} == {"done"}

    code, out, _ = tuneloop("datasets", "show", "mine-v1", "--artifacts", tiny_run.artifacts)
    assert json.loads(out)["instruction"] == "Show your work as steps"
    code, out, _ = tuneloop("datasets", "list", "--artifacts", tiny_run.artifacts)
    listed = [json.loads(line) for line in out.splitlines()]
    assert [set(one) for one in listed] == [
        {"dataset_key", "build_id", "trace_count", "created_at"} for _ in listed
    ]
    assert "mine-v1" in [one["dataset_key"] for one in listed]
    for name, key in (
        ("trace", "trace_steps"),
        ("tunix_sft", "prompts"),
        ("training_example", "response"),
    ):
        code, out, _ = tuneloop(
            *("datasets", "export", "mine-v1", "--artifacts", tiny_run.artifacts),
            *("--format", name),
        )
        assert code == 0
        assert all(key in json.loads(line) for line in out.splitlines())


def test_a_new_seed_is_another_run(tuneloop: Invoke, tiny_run: TinyRun) -> None:
    def run_id(*options: object) -> str:
        _, out, _ = tuneloop("plan", tiny_run.spec_path, "--json", *options)
        return str(json.loads(out)["run_id"])

    assert run_id() == run_id("--seed", 1)  # the spec's own
    assert run_id("--seed", 2) != run_id()
    code, _, err = tuneloop("run", tiny_run.spec_path, "--seed", 2, "--new-seed")
    assert (code, sentence(err)) == (
        2,
        "tuneloop: --seed and --new-seed: found both, expected at most one; remove one",
    )


GOOD = json.dumps(letter_trace(0))
TWICE = json.dumps({**letter_trace(1), "steps": letter_trace(1)["steps"] * 2})


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (f"{GOOD}\n{{broken\n", 2, "broken JSON"),
        (f"{GOOD}\n\n{TWICE}\n", 3, "Step indices must be unique"),
        (f"{GOOD}\n[]\n", 2, "found a list"),
        (f'{GOOD}\n{{"prompt": "x"}}\n', 2, "trace_version is missing"),
        (f"\ufeff{GOOD}\r\n{GOOD[:-1]}\r\n", 2, "broken JSON"),
        (GOOD.replace("Upper", "\\ud800"), 1, "lone surrogate"),
    ],
)
def test_a_broken_trace_file_is_refused_before_anything_is_stored(
    text: str, line: int, message: str, tuneloop: Invoke, store: str, tmp_path: Path
) -> None:
    file = tmp_path / "broken.jsonl"
    file.write_text(text)
    code, _, err = tuneloop("traces", "import", file, "--store", store)
    assert code == 12
    assert f"{file}:{line}: " in sentence(err)
    assert message in sentence(err)
    code, _, err = tuneloop("datasets", "build", "x", "v1", "--store", store)
    assert (code, "No traces matched the filters" in sentence(err)) == (12, True)


def test_an_empty_or_missing_trace_file(tuneloop: Invoke, store: str, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    code, _, err = tuneloop("traces", "import", tmp_path / "empty.jsonl", "--store", store)
    assert (code, "the file has no traces" in sentence(err)) == (12, True)
    code, _, err = tuneloop("traces", "import", tmp_path / "none.jsonl", "--store", store)
    assert (code, "no such file" in sentence(err)) == (2, True)


def test_an_unknown_recipe_is_refused(tuneloop: Invoke, store: str, tmp_path: Path) -> None:
    file = write_traces(tmp_path / "mine.jsonl", [letter_trace(0)])
    tuneloop("traces", "import", file, "--store", store)
    code, _, err = tuneloop("datasets", "build", "x", "v1", "--recipe", "nope", "--store", store)
    assert code == 12
    assert "nope" in sentence(err)
    assert "trace_sft_v1" in sentence(err)


def test_a_store_that_is_not_running(tuneloop: Invoke, tmp_path: Path) -> None:
    file = write_traces(tmp_path / "mine.jsonl", [letter_trace(0)])
    code, _, err = tuneloop("traces", "import", file, "--store", "http://127.0.0.1:9")
    assert code == 20
    assert "http://127.0.0.1:9" in sentence(err)
    assert "tuneloop serve" in sentence(err)


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"train__stepz": 3}, 3, "train.stepz is an unknown key"),
        ({"train__steps": 0}, 3, "train.steps is 0"),
        ({"dataset": "gone-v1"}, 12, "build the dataset first"),
        ({"eval__eval_set": "nowhere.jsonl"}, 12, "nowhere.jsonl: missing"),
    ],
)
def test_a_spec_that_cannot_be_planned(
    changes: dict[str, Any], code: int, message: str, tuneloop: Invoke, tiny_run: TinyRun
) -> None:
    spec = tiny_run.change(**changes).spec_path
    found, _, err = tuneloop("run", spec)
    assert (found, message in sentence(err)) == (code, True), err
    if code == 3:
        assert f"{spec}:" in sentence(err)


def test_an_eval_set_with_a_duplicate_id(tuneloop: Invoke, tiny_run: TinyRun) -> None:
    path = tiny_run.folder / "eval.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[0].replace("green a", "green z")]) + "\n")
    code, _, err = tuneloop("run", tiny_run.spec_path)
    assert code == 12
    assert f"{path}:11: id 'letter-0' is already on line 1" in sentence(err)
    code, _, err = tuneloop("eval-sets", "check", path)
    assert code == 12
    assert f"{path}:11: id 'letter-0' is already on line 1" in err


def test_a_good_eval_set(tuneloop: Invoke) -> None:
    code, out, _ = tuneloop("eval-sets", "check", "eval/eval_v1.jsonl")
    assert (code, out) == (
        0,
        "eval/eval_v1.jsonl: 120 items in 9 categories, no problems\n",
    )
    code, _, err = tuneloop("eval-sets", "check", "eval/none.jsonl")
    assert (code, "no such file" in sentence(err)) == (2, True)


def test_a_shard_changed_by_one_byte(tuneloop: Invoke, tiny_run: TinyRun) -> None:
    (shard,) = Path(tiny_run.artifacts).glob("datasets/*/attempts/*/traces-*")
    data = bytearray(shard.read_bytes())
    data[500] ^= 1
    shard.write_bytes(data)
    code, _, err = tuneloop("run", tiny_run.spec_path)
    assert code == 12
    assert shard.name in sentence(err)
    assert not list(Path(tiny_run.artifacts).glob("training_runs/*/export/record.json"))


def test_an_example_that_is_too_long(tuneloop: Invoke, tiny_run: TinyRun, store: str) -> None:
    spec = tiny_run.change(train__max_length_tokens=34, execution__store_url=store).spec_path
    code, _, err = tuneloop("run", spec)
    assert code == 12
    assert "examples-00000-of-00001.jsonl:" in sentence(err)
    assert "expected at most 34; raise train.max_length_tokens" in sentence(err)
    assert "or set export.over_length to drop or truncate_steps" in sentence(err)


def in_a_namespace(script: str, repository: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script with mounts of its own, as the root of a user namespace."""
    return subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-ec", script],
        cwd=repository,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        # Room for the manifest of the run, not for the examples.
        ("mount -t tmpfs -o size=64k tmpfs {0}", "No space left on device; free some space"),
        # Room for the model, not for its checkpoints, which a thread writes.
        ("mount -t tmpfs -o size=420k tmpfs {0}", "No space left on device; free some space"),
        ("mount --bind {0} {0} && mount -o remount,bind,ro {0}", "Read-only file system; grant"),
    ],
)
def test_a_full_or_read_only_disk(
    mount: str, message: str, tiny_run: TinyRun, repository: Path
) -> None:
    runs = Path(tiny_run.artifacts) / "training_runs"
    runs.mkdir()
    done = in_a_namespace(
        f"{mount.format(runs)}; {sys.executable} -m tuneloop.cli run {tiny_run.spec_path}; exit $?",
        repository,
    )
    assert done.returncode == 20, done.stderr
    assert message in sentence(done.stderr)
    assert str(runs) in sentence(done.stderr)


def test_a_full_disk_is_continued_from_when_there_is_room(
    tiny_run: TinyRun, repository: Path, store: str
) -> None:
    """What a failed stage had is kept; the next run goes on behind the last record."""
    tiny_run.change(execution__store_url=store, train__steps=2)
    runs = Path(tiny_run.artifacts) / "training_runs"
    runs.mkdir()
    command = f"{sys.executable} -m tuneloop.cli run {tiny_run.spec_path}"
    done = in_a_namespace(
        f"mount -t tmpfs -o size=100k tmpfs {runs}; "
        f"{command} && exit 1; test $? = 20; ls {runs}/*/export/record.json; "
        f"mount -o remount,size=100m {runs}; {command}",
        repository,
    )
    assert done.returncode == 0, done.stderr
    assert "export   cached" in done.stderr


def test_render_writes_the_submitter_and_below_it_one_file_a_stage(
    tuneloop: Invoke, tiny_run: TinyRun, tmp_path: Path
) -> None:
    image = "registry.example/tuneloop@sha256:" + "0" * 64
    folder = tmp_path / "out"
    arguments = ("render", tiny_run.spec_path, "-o", folder)
    code, _, err = tuneloop(*arguments, "--image", image)
    assert (code, "execution.cluster is missing" in sentence(err)) == (3, True)
    tiny_run.change(execution__cluster={"namespace": "training"})
    code, _, err = tuneloop(*arguments)
    assert (code, "pass --image" in sentence(err)) == (3, True)
    code, _, err = tuneloop(*arguments, "--image", "tuneloop:latest")
    assert (code, "--image: image 'tuneloop:latest'" in sentence(err)) == (2, True)
    assert not folder.exists()
    code, out, _ = tuneloop(*arguments, "--image", image)
    assert (code, ": 7 files of run tiny-" in out) == (0, True)

    def rendered() -> dict[str, bytes]:
        found = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}

    files = rendered()
    assert sorted(files) == [
        *("Kustomization", "account.yaml", "stages/01-export.yaml", "stages/02-train.yaml"),
        *("stages/03-eval.yaml", "stages/04-import.yaml", "submit.yaml"),
    ]
    assert tuneloop(*arguments, "--image", image)[0] == 0
    assert rendered() == files
    tiny_run.change(execution__cluster__submitter={"create_account": False})
    assert tuneloop("render", tiny_run.spec_path, "-o", tmp_path / "base", "--image", image)[0] == 0
    assert not (tmp_path / "base" / "account.yaml").exists()
    assert b"account.yaml" not in (tmp_path / "base" / "Kustomization").read_bytes()


def test_serve_refuses_what_it_cannot_protect(tuneloop: Invoke, tmp_path: Path) -> None:
    code, _, err = tuneloop("serve", "--host", "0.0.0.0")
    assert (code, "expected --tokens for an address other than loopback" in sentence(err)) == (
        78,
        True,
    )
    file = tmp_path / "tokens"
    for text, words in (
        ("", "the file has no token"),
        ("# none\n\n", "the file has no token"),
        ("me write not-a-digest", f"{file}:1: not a token line"),
        (f"a read {'0' * 64}\r\na write {'1' * 64}", f"{file}:2: a occurs twice"),
    ):
        file.write_text(text)
        code, _, err = tuneloop("serve", "--host", "0.0.0.0", "--tokens", file)
        assert (code, words in sentence(err)) == (78, True)
        assert "not-a-digest" not in err
    code, _, err = tuneloop("serve", "--tokens", tmp_path / "none")
    assert (code, "cannot be read" in sentence(err)) == (2, True)


def test_a_store_with_tokens_takes_those_alone(
    tuneloop: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, token, err = tuneloop("tokens", "new", "ci", "--role", "write")
    assert code == 0
    tokens = parse_tokens(err.split("token file: ")[1], "file")
    file = write_traces(tmp_path / "mine.jsonl", [letter_trace(1)])
    database = f"sqlite:///{tmp_path / 'guarded.db'}"
    with store_app.running(database, str(tmp_path / "artifacts"), tokens) as url:
        code, _, err = tuneloop("traces", "import", file, "--store", url)
        assert code == 20
        assert "refused the request with status 401; set TUNELOOP_STORE_TOKEN" in sentence(err)
        monkeypatch.setenv("TUNELOOP_STORE_TOKEN", token.strip())
        code, out, err = tuneloop("traces", "import", file, "--store", url)
        assert (code, "1 traces" in out) == (0, True)
        assert token.strip() not in out + err
    code, _, err = tuneloop("tokens", "new", "a b", "--role", "read")
    assert (code, "token name 'a b'" in sentence(err)) == (2, True)


def test_usage_errors(tuneloop: Invoke, tiny_run: TinyRun) -> None:
    assert tuneloop("nonsense")[0] == 2
    assert tuneloop("run")[0] == 2
    code, _, err = tuneloop("run", "nowhere.yaml")
    assert (code, "no such file" in sentence(err)) == (2, True)
    code, _, err = tuneloop("datasets", "export", "letters-v1", "--format", "x")
    assert (code, "expected one of" in sentence(err)) == (2, True)
    code, _, err = tuneloop("datasets", "build", "a", "b", "--filter", "{")
    assert (code, "not JSON" in sentence(err)) == (2, True)


def test_ctrl_c_stops_the_stage_and_the_next_run_continues(
    tiny_run: TinyRun, repository: Path, store: str
) -> None:
    import signal
    import time

    tiny_run.change(execution__store_url=store)
    command = [sys.executable, "-m", "tuneloop.cli", "run", str(tiny_run.spec_path)]
    # A suite in the background of a shell script runs with SIGINT ignored, and hands that on.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    train = Path(tiny_run.artifacts, "training_runs", tiny_run.plan().run_id, "train")
    deadline = time.monotonic() + 60
    while not (train / "progress.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 30, err
    assert "stopped; run again to continue" in err
    assert not (train / "record.json").exists()
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "export   cached" in done.stderr


@pytest.mark.parametrize("logs", [True, False])
def test_serve_answers_and_stops_on_sigterm(repository: Path, tmp_path: Path, logs: bool) -> None:
    import signal

    import httpx

    command = [sys.executable, "-m", "tuneloop.cli", "serve", "--port", "0"]
    command += [] if logs else ["--no-access-log"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    url = line.split(": ")[0]
    assert httpx.get(f"{url}/api/health").json() == {"status": "healthy"}
    assert (tmp_path / ".tuneloop" / "store.db").exists()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    lines = [json.loads(line) for line in err.splitlines()]
    assert [one["path"] for one in lines] == (["/api/health"] if logs else [])


def test_serve_lets_no_odd_origin_in(tuneloop: Invoke) -> None:
    for origin, words in (("*", "without tokens"), ("example.org", "SCHEME://HOST")):
        code, _, err = tuneloop(
            "serve", "--cors-origin", "http://a.example", "--cors-origin", origin
        )
        assert (code, words in sentence(err)) == (78, True)


def test_serve_on_a_taken_port(tuneloop: Invoke, store: str) -> None:
    code, _, err = tuneloop("serve", "--port", store.rsplit(":", 1)[1])
    assert (code, "cannot listen: Address already in use" in sentence(err)) == (20, True)


def test_traces_come_back_as_they_went_in(tuneloop: Invoke, store: str, tmp_path: Path) -> None:
    traces = [letter_trace(number) for number in range(5)]
    file = write_traces(tmp_path / "mine.jsonl", traces)
    assert tuneloop("traces", "import", file, "--store", store)[0] == 0
    code, out, _ = tuneloop("traces", "list", "--limit", 2, "--store", store)
    assert code == 0
    listed = [json.loads(line) for line in out.splitlines()]
    assert [sorted(row) for row in listed] == [["created_at", "id", "trace_version"]] * 2
    code, out, _ = tuneloop("traces", "export", "--source", "test", "--store", store)
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == traces[::-1]
    code, out, _ = tuneloop("traces", "export", "--source", "none", "--store", store)
    assert (code, out) == (0, "")


def test_chat_data_of_other_tools_becomes_traces(
    store: str, tmp_path: Path, tuneloop: Invoke
) -> None:
    file = tmp_path / "chat.jsonl"
    said = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "Answer: 4"}]
    lines = [{"messages": said, "topic": "sums"}, {"prompt": "3 + 3?", "completion": "6"}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ("traces", "import", file, "--store", store, "--format")
    assert tuneloop(*command, "messages")[:2] == (0, f"2 traces of {file} are in the store\n")
    _, out, _ = tuneloop("traces", "export", "--store", store)
    found = [json.loads(line) for line in out.splitlines()]
    assert sorted(trace["final_answer"] for trace in found) == ["6", "Answer: 4"]
    assert {"topic": "sums"} in [trace["meta"] for trace in found]
    code, _, err = tuneloop(*command, "parquet")
    assert (code, "expected one of alpaca, atif, gsm8k, messages" in err) == (2, True)
    with file.open("a") as more:
        more.write(json.dumps({"messages": said[:1]}) + "\n")
    code, _, err = tuneloop(*command, "messages")
    assert (code, f"{file}:3: the conversation ends with a message of user" in err) == (12, True)
