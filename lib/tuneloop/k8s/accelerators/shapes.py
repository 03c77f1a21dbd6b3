"""Derive the hosts, chips and scheduling constraints of an accelerator from its name.

Everything is computed from the accelerator table (`table.py`). The table never states a number of
hosts.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from string import Template
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tuneloop.errors import SpecError
from tuneloop.k8s.accelerators.rows import Row, gang_row, larger_row, sizes_of_family, table_rows
from tuneloop.k8s.accelerators.table import AcceleratorTable, Option, OptionName, Parts, read_table
from tuneloop.specs.cluster import AcceleratorRequest, PodSecurity
from tuneloop.specs.training.compilation import Chip, TargetDevices
from tuneloop.validation import shorten

_TOPOLOGY = re.compile(r"[1-9][0-9]{0,2}(?:x[1-9][0-9]{0,2}){1,2}")
_NODES = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})")
_SHOWN_KEYS = 16
GPU_SHARE = "0.75"
"""Share of a GPU's memory that JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."""


class Shape(BaseModel):
    """Everything about machines that the renderer needs for a workload."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    key: str
    """Name of the accelerator in the run spec."""
    kind: Literal["cpu", "tpu", "gpu"]
    """Kind of accelerator; it selects the toolchain that the image needs."""
    arch: Literal["amd64", "arm64"]
    """Processor architecture of the hosts; the image must be built for it."""
    machine: str | None
    """Machine type, shown to people; null means any type."""
    topology: str | None
    """Arrangement of the chips of a TPU slice; null if the shape is not a TPU."""
    hosts: int
    """Number of hosts in one slice; each host runs one pod."""
    slices: int
    """Number of slices; each slice is one Job of the JobSet."""
    chips_per_host: int
    """Number of chips of one host; 0 on CPU."""
    chips: int
    """Number of chips of all hosts of all slices."""
    devices_per_host: int
    """Number of JAX devices of one host; 1 on CPU."""
    hbm_gb_per_chip: int | None
    """Memory of one chip in GB; null on CPU."""
    device_peak_tflops: float | None
    """Published peak rate of one JAX device in TFLOP/s, in bfloat16; null if it is unknown."""
    is_multi_host: bool
    """Whether there are several processes, which need a JobSet and jax.distributed."""
    node_selector: dict[str, str]
    """Labels that a node must have."""
    tolerations: list[dict[str, str]]
    """Node taints that the pods tolerate."""
    resources: dict[str, str]
    """Extended resources of one pod; used both as request and as limit."""
    env: dict[str, str]
    """Environment variables of the main container."""
    dev_shm_size: str | None
    """Size limit of a memory volume at /dev/shm; null means no such volume."""
    termination_grace_period_seconds: int
    """Seconds between SIGTERM and SIGKILL."""
    pod_annotations: dict[str, str]
    """Annotations of the pod template."""
    jobset_annotations: dict[str, str]
    """Annotations of the JobSet; used only for multi-host shapes."""
    pod_security: PodSecurity = "restricted"
    """PodSecurity level of the pods; `baseline` runs them as root."""


@dataclass(frozen=True)
class Accelerators:
    """The shapes of one accelerator table.

    Attributes:
        table: the validated file.
        place: path or URL of the file, used in error messages.
    """

    table: AcceleratorTable
    place: str
    _rows: dict[str, Row] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rows: dict[str, Row] = {}
        for row in table_rows(self.table):
            if row.key in rows:
                raise SpecError(
                    f"{self.place}: shape {row.key!r} is defined twice, expected each family, "
                    "topology and number of chips once; remove one row"
                )
            rows[row.key] = row
        object.__setattr__(self, "_rows", rows)

    def keys(self) -> list[str]:
        """List the names of the enumerated shapes in the table's order.

        Two kinds of valid shapes are not listed: larger 3-D TPU topologies that a `larger` rule
        allows, and GPU shapes with a number of nodes other than 1, 2 and `max_nodes`.
        """
        return list(self._rows)

    def shape(self, request: AcceleratorRequest) -> Shape:
        """Build the shape of a request.

        Raises:
            SpecError: the shape does not exist, or it does not support the slices or options.
        """
        row = self._row(request.accelerator)
        options = _options(request)
        self._check_slices(row, request.slices)
        self._check_options(row, options)
        shape = self._build(row, request.slices, options)
        security = request.pod_security or row.pod_security
        return shape.model_copy(update={"pod_security": security})

    def devices(self, request: AcceleratorRequest) -> TargetDevices | None:
        """Describe the devices of a request for estimates and compilers; None for CPUs.

        Raises:
            SpecError: as `shape`.
        """
        shape, row = self.shape(request), self._row(request.accelerator)
        family = row.family
        if family is None or shape.kind == "cpu":
            return None
        per_chip = family.devices_per_chip
        share = float(shape.env.get("XLA_PYTHON_CLIENT_MEM_FRACTION", GPU_SHARE))
        memory = (family.cuda_gib_per_chip or family.hbm_gb_per_chip) / per_chip
        usable = family.usable_gib_per_device or share * memory
        tflops, bandwidth = family.bf16_tflops_per_chip, family.hbm_gb_per_second_per_chip
        return TargetDevices(
            name=row.key,
            platform=shape.kind,
            family=row.family_name,
            topology=row.topology,
            slices=shape.slices,
            chips_per_host=row.chips_per_host,
            chips=shape.chips,
            devices=shape.chips * per_chip,
            chip=Chip(
                limit_bytes=int(usable * 2**30),
                flops_per_second=tflops and tflops * 1e12 / per_chip,
                bytes_per_second=bandwidth and bandwidth * 1e9 / per_chip,
            ),
        )

    def larger_devices(self, request: AcceleratorRequest) -> list[TargetDevices]:
        """Describe shapes of the same family that have more chips, smallest first.

        All of them support the slices and options of the request.

        Raises:
            SpecError: as `shape`.
        """
        asked, family = self.devices(request), self._row(request.accelerator).family_name
        found: list[TargetDevices] = []
        for key in sizes_of_family(self.table, family):
            with contextlib.suppress(SpecError):
                other = self.devices(request.model_copy(update={"accelerator": key}))
                if asked and other and other.chips > asked.chips:
                    found.append(other)
        return sorted(found, key=lambda each: each.chips)

    def _row(self, key: str) -> Row:
        row = self._rows.get(key) or self._unlisted(key)
        if row is not None:
            return row
        raise SpecError(f"accelerator {shorten(key)}{self._why_not(key)}")

    def _unlisted(self, key: str) -> Row | None:
        """Build a larger topology or another number of nodes, if the table allows it."""
        name, rest = self._split(key)
        if name in self.table.tpu.families and _TOPOLOGY.fullmatch(rest):
            return larger_row(self.table, name, rest)
        nodes = _NODES.fullmatch(rest)
        if name in self.table.gpu.families and nodes and int(nodes[2]) >= 2:
            return gang_row(self.table, name, int(nodes[1]), int(nodes[2]))
        return None

    def _split(self, key: str) -> tuple[str, str]:
        """Split a key into family and rest; the longest family wins, as names contain dashes."""
        names = [*self.table.tpu.families, *self.table.gpu.families]
        found = max((n for n in names if f"{key}-".startswith(f"{n}-")), key=len, default="")
        return found, key[len(found) + 1 :] if found else key

    def _why_not(self, key: str) -> str:
        name, _ = self._split(key)
        if not name:
            names = ["cpu", *self.table.tpu.families, *self.table.gpu.families]
            choices = [self._example(n) for n in names]
            return (
                f" is of an unknown family, expected a shape such as {_listed(choices)}; "
                f"choose one or add a row to {self.place}"
            )
        ambiguous = [
            row for k, row in self._rows.items() if re.fullmatch(rf"{re.escape(key)}-\d+t", k)
        ]
        if ambiguous:
            choices = [
                f"{row.key} ({_hosts(row.hosts)} of {row.chips_per_host} chips)"
                for row in ambiguous
            ]
            return f" is ambiguous, expected {' or '.join(choices)}; name one"
        valid = [row.key for row in self._rows.values() if row.family_name == name]
        return (
            f" is not offered, expected {_listed(valid)}{self._rule(name)}; "
            f"choose one or add a row to {self.place}"
        )

    def _example(self, family: str) -> str:
        return next(row.key for row in self._rows.values() if row.family_name == family)

    def _rule(self, name: str) -> str:
        """Describe the shapes of a family that are valid but not listed."""
        if name in self.table.gpu.families:
            machines = self.table.gpu.families[name].machines
            gangs = [f"{m.gpus}x2 to {m.gpus}x{m.max_nodes}" for m in machines if m.max_nodes > 2]
            return f" (several nodes: {', '.join(gangs)})" if gangs else ""
        larger = [m.larger for m in self.table.tpu.families[name].machines if m.larger]
        return "".join(
            f" or, above {rule.above_chips} chips, sides that are multiples of {rule.multiple_of}, "
            f"in ascending order, at most {rule.at_most}"
            for rule in larger
        )

    def _check_slices(self, row: Row, slices: int) -> None:
        most = row.kind.max_slices if row.hosts > 1 else 1
        if slices <= most:
            return
        if row.kind.max_slices == 1:
            wanted = "expected 1, because only TPUs have slices; use more nodes or a larger shape"
        elif row.hosts == 1:
            wanted = (
                "expected 1, because only multi-host slices can be joined; use a larger topology"
            )
        else:
            wanted = f"expected at most {most}; use a larger topology"
        raise SpecError(f"accelerator {row.key!r} with slices {slices}: {wanted}")

    def _check_options(self, row: Row, options: dict[OptionName, str]) -> None:
        # GKE provisions a VM in exactly one of these ways. With two of them, no node ever matches.
        ways = [n for n in ("spot", "flex_start", "reservation") if n in options]
        if len(ways) > 1:
            raise SpecError(
                f"accelerator {row.key!r} with {' and '.join(ways)}: expected at most one of spot, "
                "flex_start and reservation; remove the others"
            )
        for name in options:
            if any(name in level.refuses for level in row.levels()):
                raise SpecError(
                    f"accelerator {row.key!r} with {name}: {row.family_name} does not support "
                    f"{name}, expected it unset; remove it or choose another accelerator"
                )
            if name not in self.table.options:
                raise SpecError(
                    f"accelerator {row.key!r} with {name}: {self.place} does not define this "
                    f"option, expected {_listed(list(self.table.options))}; remove it or add it "
                    "to that file"
                )

    def _build(self, row: Row, slices: int, options: dict[OptionName, str]) -> Shape:
        parts = self._parts(row, slices, options)
        chosen = [self.table.options[name] for name in options]
        is_multi_host = row.hosts * slices > 1
        family = row.family
        devices_per_host = row.chips_per_host * family.devices_per_chip if family else 1
        tflops = family and family.bf16_tflops_per_chip
        return Shape(
            key=row.key,
            kind=row.kind_name,
            arch=family.arch if family else "amd64",
            machine=row.machine_type,
            topology=row.topology,
            hosts=row.hosts,
            slices=slices,
            chips_per_host=row.chips_per_host,
            chips=row.hosts * slices * row.chips_per_host,
            devices_per_host=devices_per_host,
            hbm_gb_per_chip=family.hbm_gb_per_chip if family else None,
            device_peak_tflops=tflops / family.devices_per_chip if family and tflops else None,
            is_multi_host=is_multi_host,
            node_selector=_merged(part["node_selector"] for part in parts),
            tolerations=_united(part["tolerations"] for part in parts),
            resources={row.kind.resource: str(row.chips_per_host)} if row.kind.resource else {},
            env=_merged(part["env"] for part in parts),
            dev_shm_size=row.kind.dev_shm_size,
            termination_grace_period_seconds=self._grace(chosen),
            pod_annotations=_merged(part["pod_annotations"] for part in parts),
            jobset_annotations=_merged(part["jobset_annotations"] for part in parts),
        )

    def _grace(self, chosen: list[Option]) -> int:
        given = [option.termination_grace_period_seconds for option in chosen]
        return min(
            (seconds for seconds in given if seconds is not None),
            default=self.table.common.termination_grace_period_seconds,
        )

    def _parts(self, row: Row, slices: int, options: dict[OptionName, str]) -> list[dict[str, Any]]:
        """Fill the placeholders of every level's parts; a later part overrides an earlier one."""
        numbers = {"hosts": row.hosts, "slices": slices, "chips_per_host": row.chips_per_host}
        names: dict[str, object] = (
            {**numbers, "topology": row.topology} if row.topology else {**numbers}
        )
        levels: list[Parts] = [self.table.common, *row.levels()]
        if row.hosts * slices > 1:
            by_kueue = any(name.startswith("topology_") for name in options)
            levels.append(row.kind.gang_in_topology if by_kueue else row.kind.gang)
        filled = [self._filled(level, names) for level in levels]
        for name, value in options.items():
            filled.append(self._filled(self.table.options[name], {**names, "value": value}))
        return filled

    def _filled(self, parts: Parts, names: dict[str, object]) -> dict[str, Any]:
        try:
            return {
                "node_selector": _fill(parts.node_selector, names),
                "tolerations": [
                    _fill(t.model_dump(exclude_none=True), names) for t in parts.tolerations
                ],
                "env": _fill(parts.env, names),
                "pod_annotations": _fill(parts.pod_annotations, names),
                "jobset_annotations": _fill(parts.jobset_annotations, names),
            }
        except KeyError as e:
            raise SpecError(
                f"{self.place}: placeholder {e.args[0]!r} has no value in this place, expected "
                f"one of {', '.join(names)}; fix the table"
            ) from e


def load_accelerators(data: bytes, place: str) -> Accelerators:
    """Read the accelerator table.

    Args:
        data: bytes of `manifests/k8s/accelerators.yaml` or of an operator's own table.
        place: path or URL of the table, used in error messages.

    Raises:
        SpecError: the table is invalid; the message contains the line.
    """
    return Accelerators(read_table(data, place), place)


def _options(request: AcceleratorRequest) -> dict[OptionName, str]:
    """Return the options that are set, each with the value of `${value}` in the table."""
    level, key = request.topology_level, request.topology_key
    named: dict[OptionName, str | None] = {
        "spot": "true" if request.spot else None,
        "flex_start": "true" if request.flex_start else None,
        "reservation": request.reservation,
        "compute_class": request.compute_class,
        "placement_policy": request.placement_policy,
        "topology_required": key if level == "required" else None,
        "topology_preferred": key if level == "preferred" else None,
    }
    return {name: value for name, value in named.items() if value is not None}


def _fill(texts: dict[str, str], names: dict[str, object]) -> dict[str, str]:
    return {key: Template(text).substitute(names) for key, text in texts.items()}


def _merged(parts: Iterator[dict[str, str]]) -> dict[str, str]:
    return {key: value for part in parts for key, value in part.items()}


def _united(parts: Iterator[list[dict[str, str]]]) -> list[dict[str, str]]:
    """Merge tolerations and drop duplicates, which are valid but confuse readers."""
    united: list[dict[str, str]] = []
    for toleration in (t for part in parts for t in part):
        if toleration not in united:
            united.append(toleration)
    return united


def _hosts(count: int) -> str:
    return "1 host" if count == 1 else f"{count} hosts"


def _listed(words: list[str]) -> str:
    more = len(words) - _SHOWN_KEYS
    return ", ".join(words[:_SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "")
