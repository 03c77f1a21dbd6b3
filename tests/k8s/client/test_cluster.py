"""Test the client with responses that a real API server cannot be made to give."""

from __future__ import annotations

import contextlib
import json
import logging
import stat
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.k8s.client.fake_server import FakeServer, Reply, Request
from tuneloop.errors import PermissionDenied, QuotaExceeded, SpecError, Transient, UsageError
from tuneloop.k8s.client.cluster import EVENT_SELECTORS, Cluster
from tuneloop.k8s.client.connection import Connection
from tuneloop.k8s.names import FINGERPRINT

TOKEN = "s3cr3t-token"


def job(fingerprint: str = "f" * 64, **metadata: Any) -> dict[str, Any]:
    annotations = {FINGERPRINT: fingerprint}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "j", "annotations": annotations, **metadata},
    }


def said(status: int, message: str, **headers: str) -> Reply:
    return Reply(status, {"kind": "Status", "message": message}, dict(headers))


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Any]:
    """Start a server with given replies; returns (client, server)."""
    with contextlib.ExitStack() as stack:

        def start(*replies: Any, retry_seconds: float = 5, user: Any = None) -> Any:
            server = stack.enter_context(FakeServer(*replies))
            path = server.kubeconfig(tmp_path, user or {"token": TOKEN})
            connection = Connection(
                None, path, retry_seconds=retry_seconds, timeout_seconds=(1.0, 0.5)
            )
            cluster = Cluster(connection, "n")
            stack.callback(cluster.close)
            return cluster, server

        yield start


def test_a_lost_acknowledgement_is_adopted(connect: Any) -> None:
    """The Job is created, but the response is lost, and the retried POST finds the Job."""
    cluster, server = connect(
        Reply(fault="reset"), said(409, "already exists"), Reply(body=job(uid="1"))
    )
    created = cluster.create(job())
    assert created.adopted
    assert [r.method for r in server.requests] == ["POST", "POST", "GET"]


def test_another_objects_name_is_not_taken(connect: Any) -> None:
    cluster, _ = connect(said(409, "already exists"), Reply(body=job("e" * 64)))
    with pytest.raises(SpecError, match="exists with fingerprint eeeeeeee, expected ffffffff"):
        cluster.create(job())


ROLE: dict[str, Any] = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "r", "labels": {"a": "b"}, "annotations": {}},
    "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}],
}


@pytest.mark.parametrize(
    ("standing", "methods"),
    [
        (Reply(body={**ROLE, "metadata": {"name": "r", "labels": {"a": "b", "c": "d"}}}), ["GET"]),
        (Reply(body={**ROLE, "metadata": {"name": "r"}}), ["GET", "PATCH"]),  # another label
        (Reply(body={**ROLE, "rules": ROLE["rules"] * 2}), ["GET", "PATCH"]),  # more rights
        (Reply(404), ["GET", "PATCH"]),
        (said(403, "may not look"), ["GET", "PATCH"]),
    ],
)
def test_what_stands_is_not_written_again(
    connect: Any, standing: Reply, methods: list[str]
) -> None:
    cluster, server = connect(standing, Reply(body=ROLE))
    cluster.ensure(ROLE)
    assert [request.method for request in server.requests] == methods


def test_an_object_on_its_way_out_is_waited_for(connect: Any) -> None:
    going = job(deletionTimestamp="2026-11-24T00:00:00Z")
    cluster, server = connect(
        said(409, "exists"),
        Reply(body=going),
        said(409, "exists"),
        said(404, "not found"),
        Reply(201, job(uid="2")),
    )
    assert not cluster.create(job()).adopted
    assert len(server.requests) == 5


def test_retry_after_is_honoured_for_every_verb(connect: Any) -> None:
    later = said(429, "slow down", **{"Retry-After": "1"})
    for call in (
        lambda c: c.create(job()),
        lambda c: c.delete("Job", "j", uid="1"),
        lambda c: c.get("Job", "j"),
    ):
        cluster, server = connect(later, Reply(body=job()))
        since = time.monotonic()
        call(cluster)
        assert 1.0 <= time.monotonic() - since < 3
        assert len(server.requests) == 2


def test_a_wait_beyond_the_budget_ends_at_once(connect: Any) -> None:
    cluster, server = connect(said(429, "slow down", **{"Retry-After": "600"}), retry_seconds=5)
    since = time.monotonic()
    with pytest.raises(Transient, match=r"get Job j: .* answers with status 429: slow down"):
        cluster.get("Job", "j")
    assert time.monotonic() - since < 2
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "fault",
    [
        said(500, "etcd"),
        said(503, "starting"),
        Reply(fault="reset"),
        Reply(fault="hang"),
        Reply(body={"a": "b" * 1000}, fault="cut"),
    ],
    ids=["500", "503", "reset", "hang", "cut"],
)
def test_what_passes_is_tried_again(connect: Any, fault: Reply) -> None:
    cluster, server = connect(fault, fault, Reply(body=job(uid="3")))
    found = cluster.get("Job", "j")
    assert found["metadata"]["uid"] == "3"
    assert len(server.requests) == 3


def test_what_does_not_pass_is_said_when_the_time_is_over(connect: Any) -> None:
    cluster, server = connect(said(503, "starting"), retry_seconds=1)
    since = time.monotonic()
    with pytest.raises(Transient, match="answers with status 503: starting"):
        cluster.create(job())
    assert time.monotonic() - since < 3
    assert len(server.requests) >= 2


def test_an_unknown_field_of_an_apply_is_permanent_though_it_says_500(connect: Any) -> None:
    cluster, server = connect(said(500, "failed: .spec.x: field not declared in schema"))
    with pytest.raises(SpecError, match="field not declared in schema"):
        cluster.apply({"kind": "ConfigMap", "metadata": {"name": "c"}})
    assert len(server.requests) == 1
    with pytest.raises(ValueError, match="never patched"):
        cluster.apply(job())


def test_a_list_whose_pages_expire_begins_again(connect: Any) -> None:
    def page(names: str, token: str = "") -> Reply:
        items = [{"metadata": {"name": name}} for name in names]
        return Reply(body={"metadata": {"continue": token}, "items": items})

    cluster, server = connect(page("ab", "t1"), said(410, "too old"), page("ab", "t2"), page("cd"))
    found = cluster.find("Job", "a=b")
    assert [item["metadata"]["name"] for item in found] == list("abcd")
    assert "continue=t2" in server.requests[-1].path
    assert "labelSelector=a%3Db" in server.requests[-1].path


def test_refusals_say_who_can_help(connect: Any) -> None:
    for reply, error, words in (
        (said(403, 'jobs "j" is forbidden: exceeded quota: q'), QuotaExceeded, "larger Resource"),
        (said(403, 'User "u" cannot create'), PermissionDenied, "ask for a Role"),
        (said(422, "spec.x: Invalid value"), SpecError, "Invalid value; correct it"),
        (said(404, 'namespaces "n" not found'), SpecError, "create the namespace"),
        (said(400, 'strict decoding error: unknown field "spec.x"'), SpecError, "strict decoding"),
    ):
        cluster, server = connect(reply)
        with pytest.raises(error, match=words):
            cluster.create(job())
        assert len(server.requests) == 1


PLUGIN = """#!/bin/sh
echo x >> {calls}
n=$(wc -l < {calls})
echo '{{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
 "status": {{"token": "{token}-'$n'"}}}}'
"""


def test_an_expired_token_is_asked_for_again_once(connect: Any, tmp_path: Path) -> None:
    plugin, calls = tmp_path / "plugin", tmp_path / "calls"
    plugin.write_text(PLUGIN.format(calls=calls, token=TOKEN))
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    execute = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": str(plugin),
        "interactiveMode": "Never",
    }

    def judge(request: Request) -> Reply:
        if request.headers.get("Authorization", "").endswith(f"{TOKEN}-1"):
            return said(401, "Unauthorized")
        return Reply(body=job(uid="4"))

    cluster, server = connect(judge, user={"exec": execute})
    assert cluster.get("Job", "j")["metadata"]["uid"] == "4"
    assert [r.headers["Authorization"] for r in server.requests] == [
        f"Bearer {TOKEN}-1",
        f"Bearer {TOKEN}-2",
    ]


def test_credentials_that_stay_refused_are_said_without_showing_them(
    connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    cluster, server = connect(said(401, "Unauthorized"))
    with pytest.raises(
        PermissionDenied, match="does not accept the credentials any more"
    ) as caught:
        cluster.create(job())
    assert len(server.requests) == 2
    text = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(cluster)
    assert TOKEN not in text
    assert TOKEN in server.requests[0].headers["Authorization"]


def test_the_token_of_a_pod_is_read_anew_as_it_rotates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake server has no TLS, so the test replaces https in the address that was loaded."""
    (tmp_path / "token").write_text("one")
    (tmp_path / "ca.crt").write_text("not read without TLS")
    with FakeServer(said(401, "expired"), Reply(body=job())) as server:
        monkeypatch.setenv("TUNELOOP_SERVICE_ACCOUNT_FOLDER", str(tmp_path))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", server.url.rsplit(":", 1)[1])
        from kubernetes.config.incluster_config import InClusterConfigLoader

        load = InClusterConfigLoader._load_config

        def plain(self: Any) -> None:
            load(self)
            self.host = self.host.replace("https://", "http://")
            (tmp_path / "token").write_text("two")  # the kubelet rotates it right afterwards

        monkeypatch.setattr(InClusterConfigLoader, "_load_config", plain)
        cluster = Cluster.connect("n", retry_seconds=5)
        assert "context in-cluster, namespace n" in cluster.describe()
        cluster.get("Job", "j")
        cluster.close()
        assert [r.headers["Authorization"].lower() for r in server.requests] == [
            "bearer one",
            "bearer two",
        ]


def test_time_is_the_servers(connect: Any) -> None:
    date = "Wed, 01 Jan 2020 00:00:00 GMT"
    cluster, _ = connect(Reply(body=job(), headers={"Date": date}))
    cluster.get("Job", "j")
    ahead = (cluster.now() - datetime(2020, 1, 1, tzinfo=UTC)).total_seconds()
    assert 0 <= ahead < 5


@pytest.mark.parametrize("date", ["yesterday", "Wed, 01 Jan 2020 00:00:00"])
def test_a_date_that_cannot_be_read_changes_nothing(connect: Any, date: str) -> None:
    cluster, _ = connect(Reply(body=job(), headers={"Date": date}))
    cluster.get("Job", "j")
    assert cluster.now().tzinfo is not None


@pytest.mark.parametrize(
    ("context", "text", "words"),
    [
        (None, None, "expected the configuration of a cluster"),
        ("other", "", "--context other: the kubeconfig has no such context, expected one of: fake"),
        (None, "nonsense: [", "kubeconfig"),
    ],
)
def test_without_a_configuration_there_is_a_sentence(
    tmp_path: Path, context: str | None, text: str | None, words: str
) -> None:
    path = tmp_path / "kubeconfig"
    if text == "":
        with FakeServer(Reply()) as server:
            server.kubeconfig(tmp_path, {"token": TOKEN})
    elif text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=words):
        Cluster.connect("n", context=context, kubeconfig=str(path))


def test_objects_of_any_text_go_through(connect: Any) -> None:
    cluster, server = connect(Reply(201, job(uid="1")))
    cluster.create(job(labels={"a": "é🟡\u202e"}))
    assert server.requests[0].body["metadata"]["labels"] == {"a": "é🟡\u202e"}
    json.dumps(server.requests[0].body)


def test_events_are_asked_for_by_object_while_these_are_few(connect: Any) -> None:
    def event(uid: str, at: str) -> dict[str, Any]:
        about = {"uid": uid, "name": f"name-{uid}"}
        return {"metadata": {"uid": f"e{uid}"}, "involvedObject": about, "lastTimestamp": at}

    standing = [event("b", "2026-11-25T10:00:02Z"), event("a", "2026-11-25T10:00:01Z")]
    standing.append(event("x", "2026-11-25T10:00:00Z"))

    def answer(request: Request) -> Reply:
        query = parse_qs(urlsplit(request.path).query)
        field, _, wanted = query.get("fieldSelector", [""])[0].partition("=")
        key = field.removeprefix("involvedObject.")
        items = [e for e in standing if not key or e["involvedObject"][key] == wanted]
        return Reply(200, {"metadata": {}, "items": items})

    cluster, server = connect(answer)
    assert [e["involvedObject"]["uid"] for e in cluster.events({"a", "b"})] == ["a", "b"]
    assert [("fieldSelector" in request.path) for request in server.requests] == [True, True]
    named = cluster.events({"b"}, {"name-a", "name-b"})
    assert [e["involvedObject"]["uid"] for e in named] == ["a", "b"]
    server.requests.clear()
    many = {"a", "b", *map(str, range(EVENT_SELECTORS))}
    assert [e["involvedObject"]["uid"] for e in cluster.events(many)] == ["a", "b"]
    assert ["fieldSelector" in request.path for request in server.requests] == [False]
