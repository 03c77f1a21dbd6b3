"""Test that no object, record, log or error contains a credential of the pods or the submitter.

tests/test_planted_secrets.py does the same without a cluster, also with a database password.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Invoke, TinyRun
from tests.cluster import controlplane
from tests.planted import Planted, files_below, leaks, plant
from tests.runs.notifications.receiver import Receiver, receiving
from tuneloop.runs import store_app
from tuneloop.store.middleware.auth import parse_tokens

IMAGE = "registry.example/tuneloop@sha256:" + "1e3" + "0" * 61
SMALL = {"cpu": "1", "memory": "1Gi", "ephemeral_storage": "1Gi"}
KINDS = "jobs,pods,configmaps,events,serviceaccounts,roles,rolebindings"


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Planted:
    """Set the planted credentials, also in the environment of the process that submits."""
    found = plant()
    for name, value in found.env.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def guarded(planted: Planted, tmp_path: Path) -> Iterator[str]:
    """Run a store that accepts the planted token."""
    tokens = parse_tokens(planted.token_line, "planted")
    with store_app.running(
        f"sqlite:///{tmp_path / 'store.db'}", str(tmp_path / "a"), tokens
    ) as url:
        yield url


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Run a webhook."""
    with receiving() as running:
        yield running


def secret(namespace: str, name: str, data: dict[str, str]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


@pytest.mark.usefixtures("node")
def test_nothing_that_the_loop_leaves_or_says_on_a_cluster_holds_a_credential(
    cluster: controlplane.Cluster,
    namespace: str,
    tiny_run: TinyRun,
    planted: Planted,
    guarded: str,
    receiver: Receiver,
    tuneloop: Invoke,
) -> None:
    cluster.kubectl("create", "serviceaccount", "tuneloop-stage", "-n", namespace, check=True)
    token = planted.values["store token"]
    cluster.apply(
        secret(namespace, "tuneloop-credentials", {**planted.env, **planted.files}),
        secret(namespace, "tuneloop-store-token", {"token": f"{token}-wrong"}),
    )
    hook = f"{receiver.url}/{planted.values['path of a webhook']}"
    cluster.apply(secret(namespace, "tuneloop-webhook", {"url": hook}))
    place: dict[str, Any] = {
        "namespace": namespace,
        "shared_artifacts": True,
        "image": IMAGE,
        "credentials_secret": "tuneloop-credentials",
    }
    place |= {"store_token_secret": "tuneloop-store-token"}
    place |= dict.fromkeys(("export", "train", "eval", "import"), SMALL)
    webhooks = [
        {"url_from": {"secret": "tuneloop-webhook"}, "format": "slack"},
        {"url_from": {"env": "NO_SUCH_URL", "secret": "nowhere"}},
    ]
    run = tiny_run.change(
        execution__cluster=place,
        execution__store_url=guarded,
        execution__notifications=webhooks,
        train__steps=2,
    )
    texts: list[tuple[str, bytes]] = []

    def verb(code: int, *arguments: object, on_cluster: bool = True) -> str:
        options = ("--kubeconfig", cluster.kubeconfig) if on_cluster else ()
        found, out, err = tuneloop(*arguments, *options)
        texts.extend(
            [(f"{arguments[0]}: out", out.encode()), (f"{arguments[0]}: err", err.encode())]
        )
        assert found == code, err
        return out

    at = ("--artifacts", run.artifacts)
    verb(0, "check", run.spec_path, "--server")
    run_id = json.loads(verb(0, "submit", run.spec_path, "--detach", "--json"))["run_id"]
    # The store rejects the import, and the submitter saves verdict, pods, events and logs.
    verb(20, "wait", run_id, *at, "--poll-seconds", "0.2")
    job = f"job/{run_id}-submit"
    cluster.kubectl("wait", "--for=condition=Failed", job, "-n", namespace, check=True)
    # The submitter has told the webhook. This machine, which also waits, has no URL of it.
    told = [request.json["text"].split("*")[2] for request in receiver.requests]
    *done, last = (" ".join(text.split()[:3]) for text in told)
    assert done == [f"stage {name} finished" for name in ("export", "train", "eval")]
    assert last == "stage import failed:"
    texts += cluster_texts(cluster, namespace)
    verb(0, "status", run_id, *at)
    explained = " ".join(verb(0, "explain", run_id, *at).split())
    assert "refused the request with status 401" in explained
    verb(0, "logs", run_id, "import", *at, on_cluster=False)
    # With the right token, the run succeeds.
    cluster.apply(secret(namespace, "tuneloop-store-token", {"token": token}))
    verb(0, "run", run.spec_path, "--backend", "cluster", "--poll-seconds", "0.2")
    texts += cluster_texts(cluster, namespace)
    verb(0, "cancel", run_id, *at)
    archived = [name for name, _ in files_below(Path(run.artifacts)) if "/logs/" in name]
    assert archived, "no log of a pod was kept"
    assert leaks(planted, [*texts, *files_below(Path(run.artifacts))]) == []


def cluster_texts(cluster: controlplane.Cluster, namespace: str) -> Iterator[tuple[str, bytes]]:
    """Return all objects except Secrets, and the log of every pod, from the API server."""
    found = cluster.kubectl("get", KINDS, "-n", namespace, "-o", "json", check=True).stdout
    yield "objects", found.encode()
    pods = cluster.get("pods", "-n", namespace)["items"]
    assert pods
    for pod in pods:
        name = pod["metadata"]["name"]
        (container,) = pod["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "tuneloop-credentials"}}]
        log = cluster.kubectl("logs", name, "-n", namespace, check=True).stdout
        yield f"log of {name}", log.encode()
