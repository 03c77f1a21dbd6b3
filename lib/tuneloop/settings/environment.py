"""The variables `TUNELOOP_*` that every verb and every stage reads.

An option of the command line comes before the spec, the spec before the variable, and the variable
before the default. An empty variable counts as absent.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from tuneloop.errors import UsageError
from tuneloop.settings import credentials
from tuneloop.settings.limits import Limits
from tuneloop.settings.reading import DESCRIBE_FIELDS, read_model

PREFIX = "TUNELOOP_"
"""Prefix of all variables."""
CREDENTIALS = ("store_token", "webhook_url", "eval_api_key")
"""Fields with one token or URL, which are checked as such and never shown."""

OTHERS = {
    "TUNELOOP_DESCRIBE_FIELDS": "With any value, the schemas of specs hold the descriptions of"
    " their fields, for the generated reference.",
    "TUNELOOP_WRITE_GOLDEN": "With any value, tests rewrite the files in `tests/golden/`"
    " (`make golden`).",
    "TUNELOOP_IMAGES": "Images that `make image` builds and the tests of images check.",
    "TUNELOOP_TEST_KUBECONFIG": "Kubeconfig of a cluster on which the tests of kind run.",
    "TUNELOOP_KILLS": "Number of kills of each stage in the tests that kill the loop at random.",
    "TUNELOOP_TRIALS": "Number of trials of the tests that stop supervisors at random.",
    "TUNELOOP_BENCH_SMOKE": "With a value other than 0, scripts in `bench/` use tiny sizes.",
    "TUNELOOP_HOME": "Folder of tuneloop in the GitHub actions.",
    "TUNELOOP_PROVIDER": "Workload Identity provider in the GitHub actions.",
    "TUNELOOP_SERVICE_ACCOUNT": "Service account of Google Cloud in the GitHub actions.",
    "TUNELOOP_CLUSTER": "Name of the GKE cluster in the GitHub actions.",
    "TUNELOOP_LOCATION": "Zone or region of that cluster.",
    "TUNELOOP_PROJECT": "Project of that cluster.",
    "TUNELOOP_IMAGE": "Image of a run in the example pipeline of GitLab.",
    "TUNELOOP_CI_IMAGE": "Image of the jobs in the example pipeline of GitLab.",
    "TUNELOOP_COMMENT_TOKEN": "Token of GitLab with which the example pipeline writes comments.",
}
"""Variables of tests, scripts and pipelines: name -> meaning. No verb reads them."""

_SERVICE_LINK = re.compile(r".*_SERVICE_(HOST|PORT.*)|(.*_)?PORT(_\d+_(TCP|UDP|SCTP)(_.*)?)?")
"""Rest of the names of variables that Kubernetes sets for a Service `tuneloop` or `tuneloop-*`."""


def variable(field: str) -> str:
    """Return the environment variable of a field."""
    return f"{PREFIX}{field.upper()}"


class Settings(BaseModel):
    """Settings of one process from its environment."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=DESCRIBE_FIELDS,
        defer_build=True,
        validate_by_name=True,
        alias_generator=variable,
        allow_inf_nan=False,
    )

    artifacts: str = ".tuneloop/artifacts"
    """Artifacts URL of all verbs, as `--artifacts`; `execution.artifacts` of a spec comes before
    it."""
    store: str = "http://127.0.0.1:8000"
    """URL of the trace store for all verbs, as `--store`; `execution.store_url` of a spec comes
    before it."""
    store_token: SecretStr | None = None
    """Token that clients send to the trace store; without it they send none."""
    prices: str | None = None
    """YAML file with prices of accelerators for all verbs that show costs, as `--prices`;
    `execution.prices` of a spec comes before it. Without it, verbs show chip-hours alone."""
    verify_below: Annotated[int, Field(ge=0, le=2**40)] = 64
    """Size in MiB of cached files up to which `run` checks digests, as `--verify-below`; it always
    checks sizes."""
    webhook_url: SecretStr | None = None
    """URL of a webhook, if the `url_from.env` of `execution.notifications` names no other
    variable."""
    eval_api_key: SecretStr | None = None
    """API key for the server of `eval.backend`; without it, requests have none. Pods get it from
    `execution.cluster.credentials_secret`."""
    eval_api_key_file: str | None = None
    """File that holds this key, in place of the variable; it must exist."""
    database: str = "sqlite:///.tuneloop/store.db"
    """Database of `serve`, as `--database`; the variable may hold a password."""
    tokens: SecretStr | None = None
    """Lines of a token file for `serve`, in place of `--tokens`. An empty value is an error,
    because a store without tokens is open."""
    device_peak_tflops: Annotated[float, Field(gt=0)] | None = None
    """Peak rate of one JAX device in TFLOP/s, dense products in bfloat16; the train stage computes
    its MFU with it. Pods get it from the accelerator table."""
    processes: Annotated[int, Field(ge=1, le=2**20)] = 1
    """Number of processes that train together. Set in pods."""
    process_id: Annotated[int, Field(ge=0, le=2**20)] | None = None
    """Number of this process among them, from 0. Set in pods without TPU."""
    coordinator: str | None = None
    """HOST:PORT of the first of these processes. Set in pods without TPU."""
    allow_scorers: str = ""
    """Names, separated by commas, of the scorers that may run programs or send data where this
    process runs: `code`, `judge`, and `file` for the Python files of finished runs, which `report
    --rescore` runs. Without it, they are refused."""
    termination_log: str | None = None
    """File that receives the error of a stage as JSON; without it, `/dev/termination-log`."""
    image_digest: str | None = None
    """Digest of the image of this process, for records. Set in pods."""
    git_commit: str | None = None
    """Commit that the image of this process was built from, for records. Set in images."""
    service_account_folder: str | None = None
    """Folder with the token of the API server for the in-cluster submitter; without it, the usual
    one of Kubernetes."""


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read all settings.

    Raises:
        UsageError: a variable has an invalid value; the message names it, and shows no credential.
    """
    given = dict(environment)
    for field in CREDENTIALS:
        name = variable(field)
        given[name] = credentials.clean(environment.get(name), name) or ""
    found = read_model(Settings, given)
    if not _is_http(found.store):
        raise UsageError(  # without the value, which may hold a password
            f"environment variable {variable('store')} is no http or https URL with a host,"
            " expected one such as http://127.0.0.1:8000; correct the variable, or unset it"
        )
    return found


def is_set(field: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the variable of a field has a value."""
    return bool(environment.get(variable(field), "").strip())


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def known_variables() -> dict[str, str]:
    """Return every variable with the part of tuneloop that reads it."""
    return {
        **{str(each.alias): "verbs and stages" for each in Settings.model_fields.values()},
        **{str(each.alias): "limits" for each in Limits.model_fields.values()},
        **dict.fromkeys(OTHERS, "tests and pipelines"),
    }


def check_environment(environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Check all variables of tuneloop, also those that this process does not read.

    Yields:
        One sentence for each variable that tuneloop does not know.

    Raises:
        UsageError: a variable has an invalid value.
    """
    names = [name for name in environment if name.startswith(PREFIX)]
    if not names:
        return
    read_settings(environment)
    Limits.from_environment(environment)
    known = known_variables()
    for name in sorted(set(names) - set(known)):
        rest = name.removeprefix(PREFIX)
        if _SERVICE_LINK.fullmatch(rest):
            continue
        near = difflib.get_close_matches(
            rest, [each.removeprefix(PREFIX) for each in known], n=1, cutoff=0.7
        )
        if not near and rest.endswith("_URL"):
            continue  # it may be the `url_from.env` of a webhook
        advice = f"; the nearest is {PREFIX}{near[0]}" if near else "; unset it"
        yield (
            f"environment variable {name} is unknown and ignored, expected one of the reference"
            f" page Environment variables{advice}"
        )
