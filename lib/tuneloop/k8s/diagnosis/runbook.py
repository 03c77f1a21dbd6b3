"""What each state of a verdict means and what an operator does about it.

`docs/operations.md` is generated from this table, and `tuneloop explain` names the states.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.artifacts.evaluation.verdict import State


@dataclass(frozen=True)
class Runbook:
    """One state."""

    meaning: str
    """What has happened."""
    evidence: str
    """Objects and fields that show it."""
    automatic: str
    """What Kubernetes and the supervisor do without a person."""
    steps: tuple[str, ...]
    """What to do, in this order; empty if there is nothing to do."""
    exit_codes: tuple[int, ...] = ()
    """Exit codes of `run` and `wait` if the state is final; empty if it never is."""


_CONTINUES = (
    "Run again. A checkpoint is used if there is one, and finished stages are not repeated."
)
_NOTHING = "Nothing is repeated, because a retry gives the same result."

RUNBOOK: dict[State, Runbook] = {
    "Succeeded": Runbook(
        "The record of the stage is published and its files have the recorded sizes.",
        "`<stage>/record.json` in the artifacts. The state of the Job does not matter: processes"
        " that abort during teardown have already finished their work.",
        "The next stage is submitted.",
        (),
        (0,),
    ),
    "Queued": Runbook(
        "Kueue has not admitted the workload, or the workload does not exist yet.",
        "Conditions `QuotaReserved`, `Evicted` and `Requeued` of Kueue's Workload, conditions"
        " `Active` of LocalQueue and ClusterQueue.",
        "The supervisor waits for `timeouts.queue_seconds`. It ends at once if the workload can"
        " never be admitted: no such queue, a request above the maximum, a namespace that the"
        " queue does not select, a rejected admission check, a deactivated Workload.",
        (
            "Read the message: it names the missing quota, the queue or the admission check.",
            "If the pods were not ready in Kueue's time, find out why (slow image pull, no node)"
            " before you raise `waitForPodsReady.timeout` in Kueue's configuration.",
            "Use another queue (`execution.cluster.queue`) or a smaller machine.",
        ),
        (21,),
    ),
    "Provisioning": Runbook(
        "The autoscaler is creating a node, or the pods could not be created yet.",
        "Event `TriggeredScaleUp` of a pod; event `FailedCreate` of the Job.",
        "The supervisor waits for `timeouts.provisioning_seconds`.",
        (
            "Look at the node pool in the console of the cloud.",
            "Choose another shape or zone, or try `spot`.",
        ),
        (21,),
    ),
    "Pulling": Runbook(
        "A pod has a node and its container is starting, or its image is being pulled.",
        "Events `Pulling` and `Pulled` of the pod, `FailedMount` for a slow volume.",
        "The supervisor waits. With Kueue, `waitForPodsReady` limits the time.",
        ("If a pull takes many minutes, put the image into a registry in the cluster's region.",),
    ),
    "Running": Runbook(
        "The pods run. The verdict counts them, restarts included.",
        "Phase `Running` of the pods and the heartbeat `<stage>/progress.json`.",
        "The supervisor waits and archives the logs.",
        (),
    ),
    "Restarting": Runbook(
        "A pod failed and Kubernetes starts a new one; a JobSet starts all its pods again.",
        "Failed pods, condition `RestartingJobSet`, the last failure of the child Job.",
        "Disruptions are retried without a limit, other failures a few times. Training continues"
        " from its last checkpoint.",
        (
            "If the verdict names a finalizer, ask its owner: no new pod starts before it is gone.",
            "If restarts repeat, read the last failure in the verdict.",
        ),
    ),
    "Unschedulable": Runbook(
        "No node fits a pod, and no node is being created.",
        "Condition `PodScheduled` of the pod, with the scheduler's message.",
        "The supervisor deletes the workload after `timeouts.unschedulable_seconds`, so that the"
        " other pods of a gang release their machines.",
        (
            "Compare the labels in the verdict with `kubectl get nodes --show-labels`.",
            "Look for taints: a node under maintenance takes no pods.",
            "If Kueue chose a flavor that does not fit, give CPU stages a queue without chips.",
        ),
        (21,),
    ),
    "Stockout": Runbook(
        "The cloud has no free machine of this shape.",
        "Event `FailedScaleUp` of the pod.",
        "The supervisor waits for `timeouts.unschedulable_seconds`.",
        ("Try again later, or choose another shape, zone, reservation, `spot` or `flex_start`.",),
        (21,),
    ),
    "QuotaExceeded": Runbook(
        "A ResourceQuota of the namespace, or the quota of the cloud, has no room.",
        "Event `FailedCreate` of the Job. For a JobSet it is an event of a child Job; the JobSet"
        " itself shows nothing. For the cloud: event `FailedScaleUp`.",
        "The supervisor deletes the workload, so that pods that exist release their machines. A"
        " gang that restarts gets a minute, because its old pods may still count.",
        (
            "`kubectl describe resourcequota` shows what is used.",
            "Wait for other workloads, ask for a larger quota, or choose a smaller machine.",
        ),
        (23,),
    ),
    "ImageError": Runbook(
        "A node cannot pull the image.",
        "Waiting reason `ErrImagePull` or `ImagePullBackOff` of a container, with the node.",
        "A missing image or a missing right ends the stage at once. Other errors are retried for"
        " `timeouts.image_pull_seconds`.",
        (
            "Check that the digest exists in the registry.",
            "Check that the nodes' account, or the ServiceAccount's `imagePullSecrets`, may read"
            " it.",
            "If only one node fails, look at that node's network and disk.",
        ),
        (22,),
    ),
    "ConfigError": Runbook(
        "The API server refuses the pods, a Secret or ConfigMap is missing, or the stage refuses"
        " its spec.",
        "Event `FailedCreate` of the Job or child Job, waiting reason"
        " `CreateContainerConfigError`, event `FailedMount`, exit codes 78, 126, 127 and 128.",
        f"{_NOTHING} A missing object gets a minute to appear.",
        (
            "Create the object that the verdict names, in the namespace of the run.",
            "`tuneloop check --server SPEC` finds most of these before anything runs.",
        ),
        (3, 10),
    ),
    "SucceededNoOutput": Runbook(
        "The workload completed, and no record is published below the artifacts URL.",
        "Condition `Complete` or `Completed`, no `<stage>/record.json`.",
        _NOTHING,
        (
            "Check that the pods write to the artifacts URL that you read.",
            _CONTINUES,
        ),
        (20,),
    ),
    "UserError": Runbook(
        "The stage ended with an error of its command, its services or its code.",
        "Exit codes 1, 2, 69, 70 and 77 of the main container, and its termination message.",
        _NOTHING,
        (
            "Read the log: `tuneloop logs RUN_ID STAGE`.",
            "77: give the ServiceAccount access to the resource in the message.",
            "70: a bug; the log has the traceback.",
        ),
        (10, 20),
    ),
    "DataError": Runbook(
        "An input is wrong or missing.",
        "Exit codes 65 and 66, and the termination message, which names the input.",
        _NOTHING,
        ("Fix the input that the message names.", _CONTINUES),
        (12,),
    ),
    "OutOfMemory": Runbook(
        "The pod used more memory than its limit, or a device has too little memory.",
        "Container reason `OOMKilled` with any exit code; exit code 71; 137 without a disruption.",
        _NOTHING,
        (
            "Host memory: raise `execution.cluster.<stage>.memory`.",
            "Device memory in train: lower `train.batch_size` or `train.max_length_tokens`, or set"
            " `train.remat: block`. `tuneloop plan` estimates both kinds of memory.",
            "Device memory in eval: lower `eval.batch_size`.",
        ),
        (11,),
    ),
    "DeviceRefused": Runbook(
        "The stage may not open the device files of its TPU or GPU.",
        "Exit code 77 and the termination message, which names the file, its owner and mode, and"
        " the user of the process.",
        _NOTHING,
        (
            "Owner 0 and no access for others: set `execution.cluster.<stage>.pod_security:"
            " baseline`, and let the namespace allow it, or set"
            " `device_ownership_from_security_context = true` in containerd on the nodes.",
            "A mode that allows access: the container did not get the device. Check that the pod"
            " requests the accelerator and that the device plugin works.",
        ),
        (20,),
    ),
    "Evicted": Runbook(
        "The kubelet evicted the pod: for its own use of local disk, or because the node was short"
        " of memory or disk.",
        "Pod reason `Evicted`. With condition `DisruptionTarget` the node was short; without it"
        " the pod exceeded its own limit.",
        "Evictions for a short node are retried without a limit, the others not at all.",
        (
            "Own limit: raise `execution.cluster.<stage>.ephemeral_storage`.",
            "Short node: raise the requests of the stage, so that the scheduler leaves room.",
        ),
        (10, 20),
    ),
    "Preempted": Runbook(
        "The machines were reclaimed: a pod with a higher priority, a drained node, a Spot machine,"
        " or Kueue for another workload.",
        "Condition `DisruptionTarget` of the pod, `Evicted` and `Preempted` of Kueue's Workload.",
        "Retried without a limit; only deadlines end it.",
        (
            "If it happens too often, do not use `spot`, or use a higher priority class.",
            _CONTINUES,
        ),
        (20,),
    ),
    "NodeLost": Runbook(
        "The node of a pod does not answer, or was shut down or deleted.",
        "Pod in phase `Running` with `Ready` False while its container counts as ready;"
        " `DisruptionTarget` with `DeletionByTaintManager` or `DeletionByPodGC`.",
        "Kubernetes evicts the pod after five minutes. The pod does not end before its node"
        " confirms it or the node object is deleted; clouds delete the node of a machine that is"
        " gone. The verdict becomes final when the grace period is over.",
        (
            "Check in the cloud's console whether the machine still exists.",
            "If it is gone, `kubectl delete node NODE`; the pod then ends and a new one starts.",
            "Run again at any time: the newest attempt claims the checkpoints, and an old pod that"
            " comes back ends before it writes any.",
        ),
        (20,),
    ),
    "AdmissionRejected": Runbook(
        "The kubelet rejected the pod after the scheduler had chosen its node.",
        "Pod reason `UnexpectedAdmissionError`, `OutOfcpu` or `NodeAffinity`; the pod has no"
        " container status.",
        "Retried a few times with growing pauses.",
        (
            "Look at the devices of the node in the message: they may be unhealthy.",
            _CONTINUES,
        ),
        (20,),
    ),
    "Crashed": Runbook(
        "A process aborted, and no other pod shows what came first.",
        "Exit codes 134 and 139. In a gang, 134 usually follows from the end of another process.",
        "Retried a few times.",
        (
            "Read the logs of all ranks: `tuneloop logs RUN_ID train`.",
            _CONTINUES,
        ),
        (20,),
    ),
    "Transient": Runbook(
        "The stage was interrupted again and again: storage, network, or a signal.",
        "Exit codes 75 and 143, and the termination message.",
        "Retried a few times.",
        ("Find out what interrupts it; the message names the service.", _CONTINUES),
        (20,),
    ),
    "Stuck": Runbook(
        "The pods run, and the stage has reported no progress for `timeouts.progress_seconds`.",
        "The time of `<stage>/progress.json`.",
        "The supervisor deletes the workload, so that it releases its machines.",
        (
            "Read the log of all ranks: one of them may wait for the others.",
            "If a step takes longer than the limit, raise `timeouts.progress_seconds`.",
            _CONTINUES,
        ),
        (20,),
    ),
    "DeadlineExceeded": Runbook(
        "All attempts together, or one attempt, took longer than allowed.",
        "Job reason `DeadlineExceeded`, of a child Job for a JobSet; pod reason"
        " `DeadlineExceeded`; reason `MaximumExecutionTimeExceeded` of Kueue.",
        "The workload is deleted. An attempt that takes too long is retried a few times.",
        (
            "Raise `execution.cluster.<stage>.deadline_seconds` or `attempt_deadline_seconds`.",
            _CONTINUES,
        ),
        (31,),
    ),
    "Deleted": Runbook(
        "Someone else deleted the workload before its record was published.",
        "The workload does not exist, or has a `deletionTimestamp`.",
        "Nothing.",
        (
            "Ask who deleted it; the audit log of the API server says so.",
            "If the verdict names a finalizer, its owner must remove it first.",
            _CONTINUES,
        ),
        (30,),
    ),
    "Cancelled": Runbook(
        "`tuneloop cancel` deleted the workload.",
        "`<stage>/verdict.json` in the artifacts.",
        "Nothing.",
        (_CONTINUES,),
        (30,),
    ),
    "Unknown": Runbook(
        "No rule recognizes what the cluster shows.",
        "The evidence in the verdict.",
        "Nothing.",
        ("Read the log and the evidence, and report the case: a rule is missing.", _CONTINUES),
        (20,),
    ),
}
"""State -> what it means; every state has an entry."""
