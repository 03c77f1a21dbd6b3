"""Randomised trials of the supervisor on the real API server with faults between the two.

The pods are not run: `Kubelet` reports for each what its trial has drawn, and publishes a record as
a stage would. Jobs, retries and failure policies are those of the real Job controller.

`TUNELOOP_TRIALS=200 pytest tests/cluster/test_supervisor_trials.py` runs as many as you like.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.builders import TinyRun
from tests.cluster import controlplane
from tests.cluster.api import Api
from tests.cluster.container import now
from tests.cluster.controlplane import ControlPlane
from tests.cluster.faulty_api import FaultyApi
from tests.k8s.twin import publish_record, rendered
from tuneloop.artifacts import records
from tuneloop.artifacts.runs.submission import Submission, name_of
from tuneloop.errors import StageFailed, Transient
from tuneloop.k8s.api import ClusterApi
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.client.cluster import Cluster
from tuneloop.k8s.names import STAGE
from tuneloop.runs.sequence import Sequence
from tuneloop.stages.pipelines import TRAINING_STAGES
from tuneloop.stages.table import STAGES

TRIALS = int(os.environ.get("TUNELOOP_TRIALS", "10"))
AT_ONCE = 8
FINAL = {65: 12, 70: 10, 71: 11, 77: 20, 78: 3}
"""Exit code of a stage that is never retried -> exit code of the verb."""
RETRY_SECONDS = 45.0


class Killed(BaseException):
    """The supervisor is killed; nothing that it knows survives."""


@dataclass
class Trial:
    """What happens to the pods of one run, and to its supervisors."""

    number: int
    submission: Submission
    script: dict[str, list[Any]]
    """Stage -> what its pods do, one after another."""
    kills: list[int]
    """Calls of the API after which a supervisor is killed, one for each supervisor."""
    expected: int
    """Exit code of the run."""
    uids: dict[str, set[str]] = field(default_factory=dict)
    """Stage -> uids of its Jobs."""
    pods: Counter[str] = field(default_factory=Counter)


def draw(number: int, submission: Submission, draw_: random.Random) -> Trial:
    """Draw a trial: disruptions, then success, or a final failure of some stage."""
    script: dict[str, list[Any]] = {}
    expected = 0
    for stage in TRAINING_STAGES:
        pods: list[Any] = []
        if draw_.random() < 0.1:
            pods.append("PreemptionByScheduler")
        if draw_.random() < 0.1:
            code = draw_.choice(list(FINAL))
            script[stage] = [*pods, code]
            expected = FINAL[code]
            break
        pods.append(draw_.choice([0, 0, 0, "success, then 134"]))
        script[stage] = pods
    kills = [draw_.randrange(1, 40) for _ in range(draw_.randrange(4))]
    return Trial(number, submission, script, kills, expected)


def renamed(submission: Submission, number: int, artifacts: str) -> Submission:
    """Return the run with objects and artifacts of its own."""
    text = submission.model_dump_json().replace(submission.artifacts, artifacts)
    for stage in submission.stages:
        text = text.replace(name_of(stage.workload), f"{name_of(stage.workload)}-{number}")
    return Submission.model_validate_json(text)


class Kubelet:
    """Ends every pod of a namespace as its trial says, without running anything."""

    def __init__(self, control_plane: ControlPlane, namespace: str, trials: list[Trial]) -> None:
        self._api, self._namespace = Api(control_plane), namespace
        self._trials = {trial.number: trial for trial in trials}
        self._stop, self._seen = threading.Event(), set[str]()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error: BaseException | None = None

    def __enter__(self) -> Kubelet:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        self._api.close()

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.1):
                path = f"/api/v1/namespaces/{self._namespace}/pods"
                _, found = self._api.request("GET", path)
                for pod in found["items"]:
                    if pod["metadata"]["uid"] not in self._seen:
                        self._seen.add(pod["metadata"]["uid"])
                        self._end(pod)
        except BaseException as e:  # the test raises it
            self.error = e

    def _end(self, pod: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        (name,) = (v["configMap"]["name"] for v in pod["spec"]["volumes"] if "configMap" in v)
        stage, trial = metadata["labels"][STAGE], self._trials[int(name.rsplit("-", 1)[1])]
        trial.uids.setdefault(stage, set()).add(metadata["ownerReferences"][0]["uid"])
        if trial.pods[stage] == len(trial.script[stage]):
            return  # a retry after the work was done; its pod stays pending
        step = trial.script[stage][trial.pods[stage]]
        trial.pods[stage] += 1
        if step in (0, "success, then 134"):
            base = f"/api/v1/namespaces/{self._namespace}/configmaps/{name}"
            _, config = self._api.request("GET", base)
            spec = STAGES[stage].spec.model_validate_json(config["data"]["spec.json"])
            publish_record(spec)
        code = {"PreemptionByScheduler": 143, "success, then 134": 134}.get(step, step)
        ended = {"exitCode": code, "reason": "Error" if code else "Completed"}
        ended |= {"startedAt": now(), "finishedAt": now(), "message": ""}
        status: dict[str, Any] = {"phase": "Failed" if code else "Succeeded", "startTime": now()}
        state = {"name": "main", "image": "x", "imageID": "x", "ready": False, "restartCount": 0}
        status["containerStatuses"] = [{**state, "state": {"terminated": ended}}]
        if step == "PreemptionByScheduler":
            disrupted = {"type": "DisruptionTarget", "status": "True", "reason": step}
            status["conditions"] = [{**disrupted, "lastTransitionTime": now()}]
        path = f"/api/v1/namespaces/{self._namespace}/pods/{metadata['name']}/status"
        answer, said = self._api.request("PATCH", path, {"status": status})
        assert answer == 200, said


class Killable:
    """A cluster whose caller is killed after some number of calls."""

    def __init__(self, cluster: ClusterApi, calls: int | None) -> None:
        self._cluster, self._left = cluster, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._cluster, name)
        if not callable(found):
            return found

        def call(*args: Any, **how: Any) -> Any:
            if self._left is not None:
                self._left -= 1
                if self._left < 0:
                    raise Killed
            return found(*args, **how)

        return call


def supervise(trial: Trial, kubeconfig: str, namespace: str) -> int:
    """Run the sequence until it ends, with a new supervisor after each kill; returns its code."""
    kills: list[int | None] = [*trial.kills, None]
    while True:
        client = Cluster.connect(namespace, kubeconfig=kubeconfig, retry_seconds=RETRY_SECONDS)
        cluster: Any = Killable(client, kills[0])
        backend = KubernetesBackend(trial.submission, lambda c=cluster: c, poll_seconds=0.3)
        try:
            results = Sequence(backend).run(retry_failed=False, stop_on_interrupt=False)
        except Killed:
            kills.pop(0)
        except Transient:
            continue  # the supervisor ends with 75; its Job starts it again
        except StageFailed as e:
            return e.exit_code
        else:
            assert [result.name for result in results] == list(TRAINING_STAGES)
            return 0
        finally:
            client.close()


def weather(api: FaultyApi, stop: threading.Event, draw_: random.Random) -> None:
    """One of each, with an outage of 30 seconds, then storms, outages and expired tokens."""
    stop.wait(3)
    api.expire_token()
    api.storm(1)
    stop.wait(3)
    api.outage(30)
    stop.wait(31)
    kinds: list[Callable[[], None]] = [
        lambda: api.storm(draw_.uniform(0.5, 2)),
        api.expire_token,
        lambda: api.outage(draw_.uniform(0.5, 3)),
    ]
    while not stop.wait(draw_.uniform(3, 8)):
        draw_.choice(kinds)()


def test_no_run_is_lost_and_no_verdict_is_wrong(
    cluster: controlplane.Cluster, namespace: str, tiny_run: TinyRun, tmp_path: Path
) -> None:
    assert cluster.control_plane is not None
    seed = secrets.randbits(32)
    cluster.kubectl("create", "serviceaccount", "tuneloop-stage", "-n", namespace, check=True)
    submission = rendered(tiny_run)
    text = submission.model_dump_json().replace('"namespace":"n"', f'"namespace":"{namespace}"')
    submission = Submission.model_validate_json(text)
    trials = [
        draw(
            number,
            renamed(submission, number, str(tmp_path / f"artifacts-{number}")),
            random.Random(f"{seed} {number}"),
        )
        for number in range(TRIALS)
    ]
    api, stop = FaultyApi(cluster.control_plane, tmp_path / "api"), threading.Event()
    started_at = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.enter_context(api.running())
        kubelet = stack.enter_context(Kubelet(cluster.control_plane, namespace, trials))
        storms = threading.Thread(target=weather, args=(api, stop, random.Random(seed)))
        storms.start()
        stack.callback(storms.join)
        stack.callback(stop.set)
        pool = stack.enter_context(ThreadPoolExecutor(AT_ONCE))
        codes = list(pool.map(lambda t: supervise(t, api.kubeconfig, namespace), trials))
        assert kubelet.error is None, f"seed {seed}"
    wrong = [
        f"trial {trial.number}: exit {code}, expected {trial.expected}; {trial.script}"
        for trial, code in zip(trials, codes, strict=True)
        if code != trial.expected
    ]
    assert not wrong, f"seed {seed}: {wrong}"
    for trial in trials:
        assert {stage: len(uids) for stage, uids in trial.uids.items()} == dict.fromkeys(
            trial.script, 1
        ), f"seed {seed}, trial {trial.number}"
        planned = {stage: len(pods) for stage, pods in trial.script.items()}
        assert trial.pods == planned, f"seed {seed}, trial {trial.number}"
        if trial.expected == 0:
            run_id, artifacts = trial.submission.run_id, trial.submission.artifacts
            assert all(records.find(artifacts, run_id, stage) for stage in TRAINING_STAGES)
    summary = {
        "trials": len(trials),
        "failures": sum(trial.expected != 0 for trial in trials),
        "kills": sum(len(trial.kills) for trial in trials),
        "requests": api.requests,
        "faults": dict(api.faults),
        "seconds": round(time.monotonic() - started_at, 1),
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    logging.getLogger(__name__).warning("%s", summary)
    assert api.faults["429"] and api.faults["401"] and api.faults["outage"]
