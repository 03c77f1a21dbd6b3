"""Limits of inputs and of the store: defaults, and the environment variables that change them.

A refusal names the limit and its variable, so that its reader knows what to change.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from tuneloop.settings.reading import DESCRIBE_FIELDS, read_model

PREFIX = "TUNELOOP_LIMIT_"
"""Prefix of the variables; the rest is the name of the field in upper case."""
MIN_CONNECTIONS = 8
"""Connections that are accepted even if the process may open very few files."""

Count = Annotated[int, Field(ge=1, le=2**40)]
Bytes = Annotated[int, Field(ge=1, le=2**50)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


def variable(field: str) -> str:
    """Return the environment variable that changes a limit."""
    return f"{PREFIX}{field.upper()}"


class InputLimits(BaseModel):
    """What one input of a verb or a stage may hold."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=DESCRIBE_FIELDS,
        defer_build=True,
        validate_by_name=True,
        alias_generator=variable,
    )

    line_bytes: Bytes = 64 << 20
    """Maximum bytes of one line of a JSON Lines file; a whole line is held in memory."""
    json_bytes: Bytes = 1 << 30
    """Maximum bytes of a file that is one JSON array or object, which is held in memory as a whole;
    files of JSON Lines have no such limit."""
    shown_line_bytes: Bytes = 16 << 20
    """Maximum bytes of a training example that a page of the store shows."""
    yaml_values: Count = 100_000
    """Maximum number of values of a YAML file; each alias counts as the values that it repeats."""
    unpacked_bytes: Bytes = 256 << 20
    """Maximum bytes of an unpacked submission of a run or a sweep, which is stored compressed."""
    expansion: Count = 1000
    """Maximum ratio of the text of a compressed file of examples to its stored bytes; traces that
    differ in one number shrink to about a fiftieth."""
    free_text_bytes: Bytes = 64 << 20
    """Text in bytes that any compressed file of examples may hold, whatever its size."""
    spool_bytes: Bytes = 16 << 30
    """Maximum bytes of a pipe or of standard input, which is kept in a temporary file until the
    verb ends."""
    spool_free_bytes: Annotated[int, Field(ge=0, le=2**50)] = 64 << 20
    """Free space in bytes that such a file leaves on the disk of temporary files."""


class Limits(InputLimits):
    """What one input may hold, and what clients of one store process may use."""

    head_bytes: Count = 16_384
    """Maximum bytes of a request line with its headers."""
    head_lines: Count = 100
    """Maximum number of lines of a request's head."""
    head_seconds: Seconds = 10
    """Seconds until the head of a request must be complete."""
    body_seconds: Seconds = 20
    """Seconds that a body may take, in addition to one second per `body_bytes_per_second`."""
    body_bytes_per_second: Count = 16_384
    """Slowest rate of a body after `body_seconds`."""
    reply_seconds: Seconds = 60
    """Seconds in which a client must accept the next part of a reply, which has up to 256 KiB."""
    connections: Count = 2000
    """Maximum number of open connections; lower if the process may not open enough files."""
    connections_per_address: Count = 1200
    """Maximum number of open connections of one address, except those of trusted proxies."""
    reserved_files: Count = 256
    """Files that connections leave to the database and the artifacts."""
    bytes_in_flight: Count = 96 << 20
    """Maximum bytes of unfinished request bodies and unsent replies, of all clients together."""
    stop_seconds: Seconds = 34
    """Seconds after SIGTERM or SIGINT in which the store ends. Requests in progress have three
    quarters of it; then the store closes their connections."""
    filters: Count = 100
    """Maximum number of filters of a dataset."""
    filter_parts: Count = 64
    """Maximum number of parts of a filter's path."""
    filter_characters: Count = 4096
    """Maximum length of a filter's path."""
    query_characters: Count = 4096
    """Maximum length of a value in a query, such as `source`."""
    probe_seconds: Seconds = 2
    """Seconds after which the readiness probe reports a check as failed."""
    free_disk_bytes: Annotated[int, Field(ge=0, le=2**50)] = 64 << 20
    """Free space below which a store on a local disk is not ready."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Limits:
        """Read the variables; an empty one counts as absent.

        Raises:
            UsageError: a variable has an invalid value.
        """
        return read_model(cls, environment)

    def usable_connections(self) -> int:
        """Return the maximum number of connections, given the files that this process may open."""
        may_open, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if may_open == resource.RLIM_INFINITY:
            return self.connections
        return max(MIN_CONNECTIONS, min(self.connections, may_open - self.reserved_files))


def input_limits() -> InputLimits:
    """Return the limits of inputs in this process.

    Raises:
        UsageError: a variable has an invalid value.
    """
    return read_model(InputLimits, os.environ)


def advice(field: str) -> str:
    """Tell the client of a store who can change a limit, and how."""
    return f"the store's operator can change the limit with {variable(field)}"


def raise_with(field: str) -> str:
    """Tell the user of a verb how to change a limit of inputs."""
    return f"or raise the limit with the variable {variable(field)}"
