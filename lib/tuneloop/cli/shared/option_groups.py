"""Groups of options that several verbs share.

A verb takes a group as one parameter, such as `run: RunOptions`. `expand_groups` replaces the
parameter by the fields of the group, which typer can parse.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from tuneloop.cli.shared.options import (
    DEFAULT_ARTIFACTS,
    artifacts_option,
    environment_value,
    given_file,
)
from tuneloop.errors import SpecError, UsageError

if TYPE_CHECKING:
    from tuneloop.artifacts.runs.submission import Submission
    from tuneloop.k8s.backend import KubernetesBackend
    from tuneloop.k8s.client.cluster import Cluster
    from tuneloop.runs.planning.base_model import FoundModel, NamedModel
    from tuneloop.runs.planning.prepare import Prepared
    from tuneloop.runs.rounds.spec_file import RoundsFile
    from tuneloop.runs.sweep.spec_file import SweepFile
    from tuneloop.specs.run import RunSpec
    from tuneloop.specs.sampling import AnyRunSpec
    from tuneloop.specs.target import Target

DEFAULT_POLL_SECONDS = 5.0
Spec = TypeVar("Spec", bound="AnyRunSpec")


def _announce(line: str) -> None:
    typer.echo(line, err=True)


@dataclass(frozen=True)
class _Override:
    """A value that replaces one of a spec."""

    place: str
    """Name of the option or of the environment variable."""
    path: tuple[str, ...]
    """Keys that lead to the value in the spec."""
    value: Any

    @property
    def words(self) -> str:
        """The option and its value, for an error."""
        from tuneloop.validation import shorten

        return f"{self.place} is {shorten(self.value)}"


def _validated(spec: Spec, overrides: Sequence[_Override]) -> Spec:
    """Return the spec with other values, after all checks that the same spec in a file passes.

    Raises:
        UsageError: the spec would be refused with these values; the message names the option.
    """
    from pydantic import ValidationError

    from tuneloop.validation import all_errors, path_of

    # Only what is set, because checks and defaults depend on which keys are.
    value = spec.model_dump(by_alias=True, exclude_unset=True)
    for each in overrides:
        section = value
        for key in each.path[:-1]:
            section = section.setdefault(key, {})
        section[each.path[-1]] = each.value
    try:
        return type(spec).model_validate(value)  # type: ignore[return-value]  # its own class
    except ValidationError as e:
        path = path_of(e.errors()[0], value)
        # An error about a group of keys can be caused by any option in it.
        blamed = [o for o in overrides if o.path[: len(path)] == path or path == o.path]
        words = " and ".join(each.words for each in blamed or overrides)
        raise UsageError(f"{words}: {all_errors(e, value)[0]}; correct the option") from e


@dataclass(frozen=True)
class ClusterOptions:
    """The cluster to connect to."""

    context: Annotated[
        str | None,
        typer.Option("--context", help="Kubeconfig context; default: its current one."),
    ] = None
    kubeconfig: Annotated[
        str | None,
        typer.Option("--kubeconfig", help="Kubeconfig file; default: $KUBECONFIG."),
    ] = None

    def connect(self, namespace: str) -> Cluster:
        """Connect, and print the cluster's name before anything is written there."""
        from tuneloop.k8s.backend import connect
        from tuneloop.specs.target import Target

        target = Target(context=self.context, kubeconfig=self.kubeconfig, announce=_announce)
        return connect(namespace, target)


@dataclass(frozen=True)
class RunOptions:
    """A run spec, and the options that override its values."""

    spec: Annotated[
        str,
        typer.Argument(
            metavar="RUN.yaml",
            callback=given_file,
            help="The run spec; - reads it from standard input.",
        ),
    ]
    image: Annotated[
        str | None, typer.Option("--image", help="REPOSITORY@sha256:DIGEST; overrides the spec.")
    ] = None
    allow_tag: Annotated[
        bool, typer.Option("--allow-tag", help="Accept an image tag without a digest.")
    ] = False
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Dataset key; overrides the spec.")
    ] = None
    artifacts: Annotated[
        str | None, typer.Option("--artifacts", help="Artifacts URL; overrides the spec.")
    ] = None
    store: Annotated[
        str | None, typer.Option("--store", help="Trace store URL; overrides the spec.")
    ] = None
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, max=2**32 - 1, help="Seed; overrides the spec."),
    ] = None

    def load_spec(self) -> AnyRunSpec:
        """Read the run spec and apply the options."""
        from tuneloop.runs.planning.spec_file import load_any_spec

        return self.with_options(load_any_spec(self.spec))

    def load_training_spec(self) -> RunSpec:
        """Read the spec of a training run and apply the options."""
        from tuneloop.runs.planning.spec_file import load_run_spec

        return self.with_options(load_run_spec(self.spec))

    def load_sweep(self) -> SweepFile | None:
        """Read the sweep of the spec file; None if it has none."""
        from tuneloop.runs.sweep.spec_file import load_sweep_file

        return load_sweep_file(self.spec)

    def load_rounds(self) -> RoundsFile | None:
        """Read the rounds of the spec file; None if it has none."""
        from tuneloop.runs.rounds.spec_file import load_rounds_file

        return load_rounds_file(self.spec)

    def with_options(self, spec: Spec) -> Spec:
        """Apply the options, and variables that stand for keys that the spec does not set.

        The whole spec is validated with them. The image and the seed are checked too, but stay
        apart: `target` and the planner take them.
        """
        kept = [
            _Override("--dataset", _dataset_path(spec), self.dataset),
            _place_override("artifacts", "artifacts", self.artifacts, spec),
            _place_override("store", "store_url", self.store, spec),
        ]
        kept = [each for each in kept if each.value is not None]
        checked = [_Override("--seed", ("seed",), self.seed)]
        if spec.execution.cluster is not None:
            checked.append(_Override("--image", ("execution", "cluster", "image"), self.image))
        checked = [each for each in checked if each.value is not None]
        if checked:
            _validated(spec, [*kept, *checked])
        if self.image is not None:
            _check_image(self.image, allow_tag=self.allow_tag)
        return _validated(spec, kept) if kept else spec

    def target(
        self, cluster: ClusterOptions | None = None, poll_seconds: float = DEFAULT_POLL_SECONDS
    ) -> Target:
        """Return the settings of the backend, which announces itself on stderr."""
        from tuneloop.specs.target import Target

        cluster = cluster or ClusterOptions()
        return Target(
            self.image,
            self.allow_tag,
            cluster.context,
            cluster.kubeconfig,
            poll_seconds,
            _announce,
        )

    def shared_target(
        self, cluster: ClusterOptions | None = None, poll_seconds: float = DEFAULT_POLL_SECONDS
    ) -> Target:
        """Return the settings of several backends, of which only the first announces itself."""
        target = self.target(cluster, poll_seconds)
        return replace(target, announce=functools.cache(target.announce))

    def place_on_cluster(
        self, cluster: ClusterOptions | None = None
    ) -> Prepared[KubernetesBackend]:
        """Plan the run and place it on a cluster."""
        from tuneloop.k8s.backend import KubernetesBackend
        from tuneloop.runs.planning.prepare import prepare

        return prepare(KubernetesBackend, self.load_spec(), self.target(cluster), seed=self.seed)


def _check_image(image: str, *, allow_tag: bool) -> None:
    from tuneloop.k8s.names import image_identity

    try:
        image_identity(image, allow_tag=allow_tag)
    except SpecError as e:
        raise UsageError(f"--image: {e}") from e


def _dataset_path(spec: AnyRunSpec) -> tuple[str, ...]:
    """Return the keys that lead to the dataset in a spec."""
    from tuneloop.specs.sampling import SampleRunSpec
    from tuneloop.specs.scoring import ScoreRunSpec

    if isinstance(spec, SampleRunSpec):
        return ("sample", "prompts", "dataset")
    return ("score", "dataset") if isinstance(spec, ScoreRunSpec) else ("dataset",)


def _place_override(name: str, field: str, option: str | None, spec: AnyRunSpec) -> _Override:
    """Return the value of an option or, if neither it nor the spec has one, of its variable."""
    path = ("execution", field)
    if option is not None:
        return _Override(f"--{name}", path, option)
    from tuneloop.settings.environment import is_set, variable

    is_asked = field not in spec.execution.model_fields_set and is_set(name)
    return _Override(variable(name), path, environment_value(name) if is_asked else None)


@dataclass(frozen=True)
class KnownRun:
    """An existing run, by its id."""

    run_id: Annotated[
        str, typer.Argument(metavar="RUN_ID", help="Run id, as printed by plan, submit and run.")
    ]
    artifacts: Annotated[str, artifacts_option("Artifacts URL of the run.")] = DEFAULT_ARTIFACTS

    def __post_init__(self) -> None:
        """Refuse an id that points outside the artifacts."""
        if "/" in self.run_id or not self.run_id:
            raise UsageError(
                f"run id {self.run_id!r}: expected a name such as demo-0a1b2c3d; check the id"
            )

    def of_run(self, run_id: str) -> KnownRun:
        """Return another run in the same artifacts."""
        return KnownRun(run_id, self.artifacts)

    @property
    def artifacts_url(self) -> str:
        """The artifacts URL; a local path is made absolute."""
        from tuneloop.storage import paths

        return paths.absolute(self.artifacts)

    def load_submission(self) -> Submission:
        """Read the submission of the run."""
        from tuneloop.artifacts.rounds.store import find_rounds
        from tuneloop.artifacts.runs.submission import load_submission

        if find_rounds(self.artifacts_url, self.run_id) is not None:
            raise UsageError(
                f"{self.run_id}: found rounds, expected one run; `tuneloop status {self.run_id}`"
                " shows them, and `tuneloop run` with their spec continues them"
            )

        return load_submission(self.artifacts_url, self.run_id)

    def open_backend(
        self,
        cluster: ClusterOptions,
        poll_seconds: float = DEFAULT_POLL_SECONDS,
        *,
        sweep_id: str | None = None,
    ) -> KubernetesBackend:
        """Open the submitted run, or member of a sweep; it connects to the cluster on first use."""
        from tuneloop.k8s.backend import KubernetesBackend

        submission = self.load_submission()
        return KubernetesBackend(
            submission,
            lambda: cluster.connect(submission.namespace),
            poll_seconds=poll_seconds,
            is_from_storage=True,
            sweep_id=sweep_id,
        )


@dataclass(frozen=True)
class OneRun(KnownRun):
    """An existing run, for verbs that do not take the id of rounds."""

    def __post_init__(self) -> None:
        """Refuse the id of rounds, too."""
        super().__post_init__()
        _refuse_rounds(self.run_id, self.artifacts_url)


def _refuse_rounds(name: str, artifacts: str) -> None:
    from tuneloop.artifacts.rounds.store import find_rounds

    if find_rounds(artifacts, name) is not None:
        raise UsageError(
            f"{name}: is the id of rounds, expected that of one run; `tuneloop status {name}` lists"
            " the runs of the rounds"
        )


@dataclass(frozen=True)
class KnownModel:
    """An existing model, by its name."""

    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Name of a stored model, an alias such as production, or run id."
        ),
    ]
    artifacts: Annotated[str, artifacts_option("Artifacts URL that holds the model.")] = (
        DEFAULT_ARTIFACTS
    )

    def __post_init__(self) -> None:
        """Refuse a name that points outside the artifacts."""
        if "/" in self.name or not self.name or self.name.startswith("."):
            raise UsageError(
                f"model {self.name!r}: expected the name of a stored model or a run id; check the"
                " name"
            )
        _refuse_rounds(self.name, self.artifacts_url)

    @property
    def artifacts_url(self) -> str:
        """The artifacts URL; a local path is made absolute."""
        from tuneloop.storage import paths

        return paths.absolute(self.artifacts)

    def find(self) -> FoundModel:
        """Read the model's manifest."""
        return self.find_named().model

    def find_named(self) -> NamedModel:
        """Find what the name stands for, and read the model's manifest."""
        from tuneloop.runs.planning.base_model import find_named_model

        return find_named_model(self.name, self.artifacts_url)


def expand_groups(verb: Callable[..., None]) -> Callable[..., None]:
    """Return a verb that typer can register, with the fields of each group as parameters."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in inspect.signature(verb, eval_str=True).parameters.values():
        if is_dataclass(parameter.annotation):
            groups[parameter.name] = parameter.annotation
            parameters += _parameters_of(parameter.annotation)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(verb)
    def command(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{each.name: values.pop(each.name) for each in fields(group)})
        verb(**values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _parameters_of(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)

    def default(field: Field[Any]) -> Any:
        return inspect.Parameter.empty if field.default is MISSING else field.default

    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default(field),
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]
