"""Options that several verbs share, and what they come to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuneloop.errors import UsageError

if TYPE_CHECKING:
    from tuneloop.k8s.backend import KubernetesBackend
    from tuneloop.k8s.client.cluster import Cluster
    from tuneloop.runs.prepare import Prepared
    from tuneloop.runs.results import StageResult
    from tuneloop.specs.run import RunSpec
    from tuneloop.specs.target import Target

DEFAULT_STORE = "http://127.0.0.1:8000"
DEFAULT_ARTIFACTS = ".tuneloop/artifacts"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
StoreUrl = Annotated[str, typer.Option("--store", help="URL of the trace store.")]
SpecFile = Annotated[str, typer.Argument(metavar="RUN.yaml", help="The run spec.")]
RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="As plan, submit and run print it.")]
DatasetKey = Annotated[
    str | None, typer.Option("--dataset", help="Dataset key, instead of the spec's.")
]
ArtifactsUrl = Annotated[
    str | None, typer.Option("--artifacts", help="Artifacts URL, instead of the spec's.")
]
RunArtifacts = Annotated[
    str, typer.Option("--artifacts", help="Artifacts URL that the run was submitted with.")
]
RunStoreUrl = Annotated[
    str | None, typer.Option("--store", help="Store URL, instead of the spec's.")
]
RunSeed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed, instead of the spec's.")]
NewSeed = Annotated[
    bool, typer.Option("--new-seed", help="Draw a seed: another run of the same spec.")
]
Image = Annotated[
    str | None, typer.Option("--image", help="REPOSITORY@sha256:DIGEST, instead of the spec's.")
]
AllowTag = Annotated[
    bool, typer.Option("--allow-tag", help="Take an image without digest; recorded.")
]
Context = Annotated[
    str | None, typer.Option("--context", help="Context of the kubeconfig, not its current one.")
]
Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", help="File, instead of $KUBECONFIG or the default.")
]
PollSeconds = Annotated[
    float, typer.Option("--poll-seconds", min=0.1, help="Between two looks at the cluster.")
]


def load_spec(url: str, dataset: str | None, artifacts: str | None, store: str | None) -> RunSpec:
    """Read a run spec and put the options over it."""
    from tuneloop.runs.spec_file import load_run_spec

    spec = load_run_spec(url)
    changes = {"artifacts": artifacts, "store_url": store}
    execution = spec.execution.model_copy(
        update={key: value for key, value in changes.items() if value is not None}
    )
    return spec.model_copy(update={"execution": execution, "dataset": dataset or spec.dataset})


def target(
    image: str | None,
    allow_tag: bool,
    context: str | None = None,
    kubeconfig: str | None = None,
    poll_seconds: float = 5.0,
) -> Target:
    """Collect the options of a backend; it announces itself on stderr."""
    from tuneloop.specs.target import Target

    def announce(line: str) -> None:
        typer.echo(line, err=True)

    return Target(image, allow_tag, context, kubeconfig, poll_seconds, announce)


def cluster_plan(spec: RunSpec, seed: int | None, chosen: Target) -> Prepared[KubernetesBackend]:
    """Plan a run and place it on a cluster."""
    from tuneloop.k8s.backend import KubernetesBackend
    from tuneloop.runs.prepare import prepare

    return prepare(KubernetesBackend, spec, chosen, seed=seed)


def connect(namespace: str, context: str | None, kubeconfig: str | None) -> Cluster:
    """Connect to a namespace; the cluster is announced before anything is written there."""
    from tuneloop.k8s import backend

    return backend.connect(namespace, target(None, False, context, kubeconfig))


def checked_run_id(run_id: str) -> str:
    """A run id that can be a folder's name."""
    if "/" in run_id or not run_id:
        raise UsageError(f"run id {run_id!r}: expected a name such as demo-0a1b2c3d")
    return run_id


def chosen_seed(seed: int | None, new_seed: bool) -> int | None:
    """The seed asked for; None leaves it to the spec."""
    if not new_seed:
        return seed
    if seed is not None:
        raise UsageError("--seed and --new-seed: found both, expected at most one; drop one")
    import secrets

    drawn = secrets.randbelow(2**32)
    typer.echo(f"seed     {drawn} (pass --seed {drawn} to continue this run)", err=True)
    return drawn


def print_json(value: Any) -> None:
    """Print one JSON object."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def print_run(
    artifacts: str, run_id: str, stages: list[StageResult], *, as_json: bool
) -> dict[str, Any]:
    """Print what a run came to; returns it."""
    from tuneloop.cli import display

    summary = display.run_summary(artifacts, run_id, stages)
    if as_json:
        print_json(summary)
    else:
        display.print_run(summary, stages)
    return summary
