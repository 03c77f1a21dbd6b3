"""No credential that the loop uses appears in its files or output, on this machine.

tests/cluster/test_planted_secrets.py checks the same on a cluster.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.builders import REPOSITORY, TinyRun
from tests.planted import Planted, files_below, leaks, plant
from tests.postgres import Postgres
from tests.runs.notifications.receiver import receiving
from tests.store.stores import Store


class VerbOutputs:
    """The output of verbs; each runs with the planted environment and is searched for secrets."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = {**os.environ, **env}
        self.texts: list[tuple[str, bytes]] = []

    def run(self, code: int | None, *arguments: object, **env: str) -> str:
        argv = [sys.executable, "-m", "tuneloop.cli", *map(str, arguments)]
        done = subprocess.run(
            argv,
            cwd=REPOSITORY,
            env={**self.env, **env},
            capture_output=True,
            timeout=240,
            check=False,
        )
        name = " ".join(map(str, arguments[:2]))
        self.texts += [(f"stdout of {name}", done.stdout), (f"stderr of {name}", done.stderr)]
        assert done.returncode == code or (code is None and done.returncode), done.stderr.decode()
        return done.stderr.decode()


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    found = plant()
    (tmp_path / "credentials").mkdir()
    for name, text in found.files.items():
        (tmp_path / "credentials" / name).write_text(text)
        found.env["GOOGLE_APPLICATION_CREDENTIALS"] = str(tmp_path / "credentials" / name)
    return found


@pytest.fixture
def database(postgres: Postgres, planted: Planted) -> Iterator[str]:
    """URL of a database whose owner has the planted password."""
    name, password = postgres.new_database(), planted.values["database password"]
    postgres.run(f"CREATE ROLE planted LOGIN PASSWORD '{password}'")
    postgres.run(f"ALTER DATABASE {name} OWNER TO planted")
    yield postgres.url(name, user="planted", password=password)
    postgres.run(f"DROP DATABASE {name} WITH (FORCE)")
    postgres.run("DROP ROLE planted")


@pytest.fixture
def guarded(database: str, planted: Planted, tmp_path: Path) -> Iterator[Store]:
    """A store with a token, on that database, with its artifacts in the run's folder."""
    env = {**planted.env, "TUNELOOP_TOKENS": planted.token_line}
    store = Store(database, tmp_path / "artifacts", tmp_path / "store.log", env)
    store.wait_until_ready()
    yield store
    store.process.kill()
    store.process.wait()


def test_nothing_that_the_loop_leaves_or_says_holds_a_credential(
    guarded: Store, database: str, planted: Planted, tiny_run: TinyRun, tmp_path: Path
) -> None:
    said = VerbOutputs(planted.env)
    password, token = planted.values["database password"], planted.values["store token"]
    url = f"http://127.0.0.1:{guarded.port}"
    place = {"namespace": "training", "credentials_secret": "s3", "store_token_secret": "store"}
    hooks = [
        {"url_from": {"env": env}, "format": "slack", "retry_seconds": 2}
        for env in ("HOOK_URL", "BROKEN_HOOK_URL", "DEAD_HOOK_URL")
    ]
    run = tiny_run.change(
        execution__store_url=url, execution__cluster=place, execution__notifications=hooks
    )
    path = planted.values["path of a webhook"]
    said.env |= {"BROKEN_HOOK_URL": f"ftp://{path}", "DEAD_HOOK_URL": f"http://127.0.0.1:9/{path}"}

    # The store refuses one token and accepts the other, so the token is really used.
    with receiving(404) as receiver:
        said.env["HOOK_URL"] = f"{receiver.url}/{path}"
        err = said.run(20, "run", run.spec_path, TUNELOOP_STORE_TOKEN=f"{token}-wrong")
        assert "refused the request with status 401" in err
        assert "notifications.0: stage_finished of export was not delivered: it refused" in err
        assert "notifications.1: variable BROKEN_HOOK_URL holds no http or https URL" in err
        assert "notifications.2: run_failed of import was not delivered: the connection" in err
        said.run(0, "run", run.spec_path)
    messages = [request.json["text"] for request in receiver.requests]
    finished = [" stage train finished", " stage eval finished", " stage import failed: "]
    # The first message is sent again with the second run, because it was refused.
    finished = [" stage export finished", *finished, " stage export finished"]
    finished += [" stage import finished", " run finished"]
    assert len(messages) == len(finished)
    assert all(text in message for text, message in zip(finished, messages, strict=True))
    assert "accuracy" in messages[2]
    assert {request.path for request in receiver.requests} == {f"/hook/{path}"}
    image = "registry.example/tuneloop@sha256:" + "0" * 64
    said.run(0, "render", run.spec_path, "-o", tmp_path / "rendered", "--image", image)
    said.run(0, "plan", run.spec_path)
    said.run(0, "traces", "list", "--store", url)
    run.change(execution__notifications=[{"url": f"https://hooks.slack.com/services/{path}"}])
    err = said.run(3, "run", run.spec_path)
    assert "execution.notifications.0: url holds a credential" in err
    run.change(execution__notifications=[])

    # All of these fail at a place where a credential is at hand.
    with_name = url.replace("http://", f"http://me:{token}@")
    err = said.run(3, "run", run.spec_path, "--store", with_name)
    assert "execution.store_url: holds a name or password before the @" in err
    key, secret = planted.values["S3 key"], planted.values["S3 secret"]
    with_key = f"s3://{key}:{secret.replace('/', '%2F')}@bucket/prefix"
    err = said.run(3, "run", run.spec_path, "--artifacts", with_key)
    assert "execution.artifacts: holds a name or password before the @" in err
    # With s3fs, its own message is shown; without it, a message about the missing extra.
    said.run(None, "run", run.spec_path, "--artifacts", "s3://bucket/prefix")
    said.run(20, "traces", "list", "--store", url, TUNELOOP_STORE_TOKEN=f"{token}-wrong")
    serve = ("serve", "--port", "0", "--artifacts", tmp_path / "none")
    for broken in (
        database.replace("planted:", "nobody:"),  # This role does not exist.
        database.replace("127.0.0.1", "127.0.0.1:x"),
        f"mysql://me:{password}@127.0.0.1/db",
        f"postgresql://me:{password}@[::1/db",
        f"postgresql://me:x@{password}@127.0.0.1/db",  # This @ is not encoded.
        f"postgresql://me:x@y:{password}@127.0.0.1/db",
    ):
        code = 20 if "nobody" in broken else 78
        said.run(code, *serve, TUNELOOP_DATABASE=broken)
    # The token is given instead of its digest.
    said.run(78, *serve, TUNELOOP_TOKENS=f"loop write {token}")
    said.run(0, "serve", "--help", TUNELOOP_DATABASE=database)

    pages = [
        (path, httpx.get(f"{url}{path}", auth=("me", token)).content)
        for path in ("/", "/runs", "/traces", "/datasets", "/openapi.json", "/docs")
    ]
    headers = {"Authorization": f"Bearer {token}"}
    pages += [
        (path, httpx.get(f"{url}{path}", headers=headers).content)
        for path in ("/metrics", "/readyz", "/api/traces")
    ]
    texts = [
        *said.texts,
        *pages,
        *files_below(tmp_path / "artifacts"),
        *files_below(tmp_path / "rendered"),
        ("the store's log", (tmp_path / "store.log").read_bytes()),
    ]
    assert leaks(planted, texts) == []


def test_the_search_finds_what_is_planted() -> None:
    found = plant()
    ending = b"." * 2000
    for value in found.values.values():
        assert len(leaks(found, [("a place", value.encode() + ending)])) == 1
    secret = base64.b64encode(b'{"token": "' + found.values["HF token"].encode() + b'"}')
    assert leaks(found, [("a Secret", secret + ending)]) == ["HF token in a Secret"]
    assert leaks(found, [("elsewhere", ending)]) == []
