"""An in-memory cluster with the methods of `k8s.client.cluster.Cluster` and a small Job controller.

A test advances the clock with `sleep`; the function `act` decides what each pod does at each step.
Objects have uids and owners, and are not deleted after a TTL. The retry rules are read from the
rendered Job and JobSet.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.builders import TinyRun
from tuneloop.artifacts import records
from tuneloop.artifacts.records import OutputFile, Record
from tuneloop.artifacts.runs.submission import Submission
from tuneloop.errors import SpecError
from tuneloop.k8s.api import Created, Object
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.client.cluster import MUTABLE
from tuneloop.k8s.names import FINGERPRINT, STAGE
from tuneloop.runs.planning.prepare import prepare
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.specs.stages import StageSpec
from tuneloop.specs.target import Target
from tuneloop.stages.table import STAGES
from tuneloop.storage import files, paths

IMAGE = "registry.example/tuneloop@sha256:" + "1e3" + "0" * 61
WORKLOADS = ("Job", "JobSet")


class Killed(BaseException):
    """Simulates SIGKILL of the process that uses the cluster; no code catches it."""


@dataclass(frozen=True)
class Running:
    """The pod keeps running."""


@dataclass(frozen=True)
class Exit:
    """The main container ends."""

    code: int
    cause: str = ""
    log: bytes = b""
    disruption: str = ""
    """Reason of a DisruptionTarget condition, such as PreemptionByScheduler."""


@dataclass(frozen=True)
class Waiting:
    """The container cannot start, for example because of ImagePullBackOff."""

    reason: str
    message: str


@dataclass(frozen=True)
class Unschedulable:
    """No node fits the pod."""

    message: str


Action = Running | Exit | Waiting | Unschedulable


class Twin:
    """One namespace of an in-memory cluster."""

    def __init__(self, act: Callable[[Object], Action] = lambda pod: Running()) -> None:
        """Create an empty namespace.

        Args:
            act: returns what a pod that has not ended does at a step; it may publish a record
                first.
        """
        self.act = act
        self.objects: dict[tuple[str, str], Object] = {}
        self.made: Counter[str] = Counter()
        """Kind -> number of objects that were ever created."""
        self.writes: Counter[str] = Counter()
        """Verb -> number of calls that changed something."""
        self.calls = 0
        self.kill_at: int | None = None
        """Number of the call that raises Killed; None means that no call does."""
        self.seconds = 0.0
        self._logs: dict[str, bytes] = {}
        self._numbers = itertools.count(1)

    # The methods of ClusterApi.

    def now(self) -> datetime:
        return datetime(2026, 11, 27, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def create(self, document: Object, *, dry_run: bool = False) -> Created:
        self._call()
        kind, name = document["kind"], document["metadata"]["name"]
        found = self.objects.get((kind, name))
        if found is not None:
            wanted, has = (_fingerprint(each) for each in (document, found))
            if wanted is None or wanted != has:
                raise SpecError(f"{kind} {name}: exists with fingerprint {(has or 'none')[:8]}")
            return Created(copy.deepcopy(found), adopted=True)
        if dry_run:
            return Created(document, adopted=False)
        self.writes["create"] += 1
        return Created(copy.deepcopy(self._add(document)), adopted=False)

    def apply(self, document: Object, *, dry_run: bool = False) -> Object:
        self._call()
        kind, name = document["kind"], document["metadata"]["name"]
        assert kind in MUTABLE, kind
        self.writes["apply"] += 1
        found = self.objects.get((kind, name))
        if found is None:
            return copy.deepcopy(self._add(document))
        kept = {key: found["metadata"][key] for key in ("uid", "creationTimestamp")}
        changed = copy.deepcopy(document)
        changed["metadata"] |= kept
        self.objects[kind, name] = changed
        return copy.deepcopy(changed)

    def ensure(self, document: Object) -> None:
        if self.get(document["kind"], document["metadata"]["name"]) is None:
            self.apply(document)

    def get(self, kind: str, name: str) -> Object | None:
        self._call()
        return copy.deepcopy(self.objects.get((kind, name)))

    def find(self, kind: str, selector: str = "", fields: str = "") -> list[Object]:
        self._call()
        wanted = dict(part.split("=", 1) for part in selector.split(",") if part)
        return [
            copy.deepcopy(found)
            for (found_kind, _), found in self.objects.items()
            if found_kind == kind and wanted.items() <= found["metadata"].get("labels", {}).items()
        ]

    def delete(self, kind: str, name: str, *, uid: str, foreground: bool = False) -> bool:
        self._call()
        found = self.objects.get((kind, name))
        if found is None or found["metadata"]["uid"] != uid:
            return False
        self.writes["delete"] += 1
        self._remove(found, foreground=foreground)
        return True

    def pod_log(
        self,
        pod: str,
        *,
        container: str = "main",
        since: datetime | None = None,
        previous: bool = False,
        limit_bytes: int = 1_000_000,
    ) -> bytes | None:
        self._call()
        log = self._logs.get(pod) if ("Pod", pod) in self.objects else None
        return None if log is None else log[:limit_bytes]

    def events(self, uids: Collection[str], names: Collection[str] = ()) -> list[Object]:
        return [
            event
            for event in self.find("Event")
            if event["involvedObject"]["uid"] in uids or event["involvedObject"]["name"] in names
        ]

    # Methods for tests.

    def clock(self) -> float:
        """Return the seconds since the start, to be used as the clock of a sequence."""
        return self.seconds

    def sleep(self, seconds: float) -> None:
        """Advance the clock, then run the controllers once."""
        self.seconds += seconds
        self.step()

    def step(self) -> None:
        """Run each controller and each pod for one step."""
        for found in [o for o in self.objects.values() if "deletionTimestamp" in o["metadata"]]:
            if _key(found) in self.objects:
                self._remove(found, foreground=True)
        for workload in [o for (kind, _), o in self.objects.items() if kind in WORKLOADS]:
            if not _has_ended(workload) and not _is_idle(workload):
                self._run(workload)

    def one(self, kind: str) -> list[str]:
        """Return the names of all objects of a kind."""
        return [name for found, name in self.objects if found == kind]

    def emit(self, about: Object, reason: str, message: str) -> None:
        """Record an event about an object."""
        about = self.objects[about["kind"], about["metadata"]["name"]]
        event = {"kind": "Event", "metadata": {"name": f"e{next(self._numbers)}"}}
        involved = {key: about["metadata"][key] for key in ("uid", "name")}
        self._add({**event, "reason": reason, "message": message, "involvedObject": involved})

    def stage_of(self, pod: Object) -> StageSpec:
        """Return the stage spec that a pod has mounted."""
        (name,) = (v["configMap"]["name"] for v in pod["spec"]["volumes"] if "configMap" in v)
        data = self.objects["ConfigMap", name]["data"]["spec.json"]
        return STAGES[pod["metadata"]["labels"][STAGE]].spec.model_validate_json(data)

    # The controllers.

    def _run(self, workload: Object) -> None:
        status = workload.setdefault("status", {})
        status.setdefault("startTime", self.now().isoformat())
        acting = [p for p in self._pods(workload) if p["status"]["phase"] in ("Pending", "Running")]
        for pod in acting:
            self._act(pod)
        has_failed = any(pod["status"]["phase"] == "Failed" for pod in acting)
        if not self._judge(workload, self._pods(workload)) and not has_failed:
            self._fill(workload)  # one step after a failure, because a Job backs off first

    def _pods(self, workload: Object) -> list[Object]:
        uid = workload["metadata"]["uid"]
        pods = [o for (kind, _), o in self.objects.items() if kind == "Pod"]
        return [p for p in pods if p["metadata"]["ownerReferences"][0]["uid"] == uid]

    def _act(self, pod: Object) -> None:
        action, status = self.act(copy.deepcopy(pod)), pod["status"]
        main: dict[str, Any] = {"name": "main"}
        match action:
            case Running():
                status["phase"] = "Running"
                status.setdefault("startTime", self.now().isoformat())
                main["state"] = {"running": {}}
            case Waiting(reason, message):
                main["state"] = {"waiting": {"reason": reason, "message": message}}
            case Unschedulable(message):
                condition = {"type": "PodScheduled", "status": "False", "message": message}
                status["conditions"] = [condition]
                return
            case Exit(code, cause, log, disruption):
                status["phase"] = "Failed" if code or disruption else "Succeeded"
                stamp = f"{self.now():%Y-%m-%dT%H:%M:%S}.000000000Z ".encode()
                lines = log.splitlines(keepends=True)
                self._logs[pod["metadata"]["name"]] = b"".join(stamp + line for line in lines)
                message = f'{{"cause": "{cause}"}}' if cause else ""
                ended = {"exitCode": code, "message": message}
                main["state"] = {"terminated": {**ended, "finishedAt": self.now().isoformat()}}
                if disruption:
                    condition = {"type": "DisruptionTarget", "status": "True"}
                    status["conditions"] = [{**condition, "reason": disruption}]
        status["containerStatuses"] = [main]

    def _judge(self, workload: Object, pods: list[Object]) -> bool:
        """End the workload if the states of its pods require it; return whether it has ended."""
        failed = [pod for pod in pods if pod["status"]["phase"] == "Failed"]
        final = next(
            (c for pod in failed if (c := _exit_code(pod)) in _final_codes(workload)), None
        )
        done = sum(pod["status"]["phase"] == "Succeeded" for pod in pods)
        counted = sum(not pod["status"].get("conditions") for pod in failed)
        is_job = workload["kind"] == "Job"
        if final is not None:
            message = f"Container main failed with exit code {final} matching FailJob rule"
            self._end(workload, "Failed", "PodFailurePolicy", message)
        elif is_job and counted > _limit(workload):
            self._end(workload, "Failed", "BackoffLimitExceeded", "too many failures")
        elif done == _size(workload):
            self._end(workload, "Complete" if is_job else "Completed", "", "")
        elif not is_job and failed:
            self._restart(workload, counted)
        return _has_ended(workload)

    def _restart(self, jobset: Object, counted: int) -> None:
        """Restart all pods of a JobSet; only failures without a disruption count."""
        restarts = jobset["status"].get("restarts", 0) + bool(counted)
        if restarts > jobset["spec"]["failurePolicy"]["maxRestarts"]:
            self._end(jobset, "Failed", "ReachedMaxRestarts", "too many restarts")
            return
        jobset["status"]["restarts"] = restarts
        for pod in self._pods(jobset):
            self._remove(pod)

    def _end(self, workload: Object, kind: str, reason: str, message: str) -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        workload["status"]["conditions"] = [condition]
        for pod in self._pods(workload):
            if pod["status"]["phase"] in ("Pending", "Running"):
                self._remove(pod)

    def _fill(self, workload: Object) -> None:
        """Create the pods that are missing."""
        live = [p for p in self._pods(workload) if p["status"]["phase"] != "Failed"]
        indexes = {p["metadata"]["annotations"][_INDEX] for p in live}
        for index in range(_size(workload)):
            if str(index) not in indexes:
                self._add_pod(workload, str(index))

    def _add_pod(self, workload: Object, index: str) -> None:
        metadata = workload["metadata"]
        template = copy.deepcopy(_job_spec(workload)["template"])
        label = f"{_UID_LABELS[workload['kind']]}"
        template["metadata"].setdefault("labels", {})[label] = metadata["uid"]
        template["metadata"].setdefault("annotations", {})[_INDEX] = index
        template["metadata"] |= {
            "name": f"{metadata['name']}-{index}-{next(self._numbers):05d}",
            "ownerReferences": [{"kind": workload["kind"], "uid": metadata["uid"]}],
        }
        self._add({"kind": "Pod", **template, "status": {"phase": "Pending"}})

    def _add(self, document: Object) -> Object:
        added = copy.deepcopy(document)
        time = self.now().isoformat()
        added["metadata"] |= {"uid": f"uid-{next(self._numbers)}", "creationTimestamp": time}
        self.objects[_key(added)] = added
        self.made[added["kind"]] += 1
        return added

    def _remove(self, found: Object, *, foreground: bool = False) -> None:
        """Remove an object and all objects that it owns.

        An object with a finalizer stays, marked as deleted. In the foreground, its owner stays too.
        """
        uid = found["metadata"]["uid"]
        owned = [
            each
            for each in self.objects.values()
            if any(owner["uid"] == uid for owner in each["metadata"].get("ownerReferences", []))
        ]
        for each in owned:
            self._remove(each, foreground=foreground)
        is_kept = foreground and any(_key(each) in self.objects for each in owned)
        if found["metadata"].get("finalizers") or is_kept:
            found["metadata"].setdefault("deletionTimestamp", self.now().isoformat())
        else:
            self.objects.pop(_key(found), None)

    def _call(self) -> None:
        self.calls += 1
        if self.calls == self.kill_at:
            raise Killed(f"call {self.calls}")


_INDEX = "batch.kubernetes.io/job-completion-index"
_UID_LABELS = {
    "Job": "batch.kubernetes.io/controller-uid",
    "JobSet": "jobset.sigs.k8s.io/jobset-uid",
}


def _key(found: Object) -> tuple[str, str]:
    return found["kind"], found["metadata"]["name"]


def _fingerprint(document: Object) -> str | None:
    found: str | None = document["metadata"].get("annotations", {}).get(FINGERPRINT)
    return found


def _has_ended(workload: Object) -> bool:
    return bool(workload.get("status", {}).get("conditions"))


def _is_idle(workload: Object) -> bool:
    """Return whether the controllers leave a workload alone."""
    return bool(workload["spec"].get("suspend")) or "deletionTimestamp" in workload["metadata"]


def _job_spec(workload: Object) -> Any:
    if workload["kind"] == "Job":
        return workload["spec"]
    return workload["spec"]["replicatedJobs"][0]["template"]["spec"]


def _size(workload: Object) -> int:
    """Return the number of pods that must succeed."""
    count: int = _job_spec(workload).get("completions", 1)
    if workload["kind"] == "JobSet":
        count *= workload["spec"]["replicatedJobs"][0]["replicas"]
    return count


def _limit(job: Object) -> int:
    spec = job["spec"]
    limit: int = spec["backoffLimit"] if "backoffLimit" in spec else spec["backoffLimitPerIndex"]
    return limit


def _final_codes(workload: Object) -> list[int]:
    rules = _job_spec(workload)["podFailurePolicy"]["rules"]
    return next(rule["onExitCodes"]["values"] for rule in rules if "onExitCodes" in rule)


def _exit_code(pod: Object) -> int | None:
    if pod["status"].get("conditions"):
        return None  # a disruption takes precedence over the exit code
    code: int = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    return code


def publish_record(
    spec: StageSpec, *, content: bytes = b"result\n", name: str = "result.txt"
) -> Record:
    """Simulate the work of a stage: write one output file and its record, as any attempt would."""
    artifacts = spec.execution.artifacts
    path = f"training_runs/{spec.run_id}/{spec.stage}/attempts/a/{name}"
    files.write(paths.join(artifacts, path), content)
    output = OutputFile(
        name=name,
        path=path,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    record = Record(
        run_id=spec.run_id,
        stage=spec.stage,
        fingerprint=spec.fingerprint,
        attempt="a",
        inputs=spec.upstream,
        outputs=(output,),
        counts={},
        started_at="2026-11-27T00:00:00+00:00",
        seconds=1.0,
        provenance={},
    )
    return records.publish(record, artifacts)


def worker(twin: Twin) -> Callable[[Object], Action]:
    """Return an `act` whose pods run for one step, then publish their record and end."""
    started: set[str] = set()

    def act(pod: Object) -> Action:
        name = pod["metadata"]["name"]
        if name not in started:
            started.add(name)
            return Running()
        publish_record(twin.stage_of(pod))
        return Exit(0)

    return act


def rendered(run: TinyRun, **cluster: Any) -> Submission:
    """Render a run for namespace `n`."""
    run.change(execution__cluster={"namespace": "n", **cluster})
    spec = load_run_spec(str(run.spec_path))
    return prepare(KubernetesBackend, spec, Target(image=IMAGE)).backend.submission
