"""Expand the accelerator table into rows, one per shape, with the numbers of each shape.

The number of hosts is product(topology) / chips per host. This module does not deal with options
or pods.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from tuneloop.k8s.accelerators.table import (
    AcceleratorTable,
    Family,
    GpuFamily,
    Kind,
    Level,
    TpuFamily,
    TpuMachine,
    dimensions,
)
from tuneloop.specs.cluster import PodSecurity


@dataclass(frozen=True)
class Row:
    """One shape without options: its place in the table and its numbers."""

    key: str
    kind_name: Literal["cpu", "tpu", "gpu"]
    kind: Kind
    family_name: str = "cpu"
    family: Family | None = None
    machine: Level | None = None
    machine_type: str | None = None
    topology: str | None = None
    hosts: int = 1
    chips_per_host: int = 0

    def levels(self) -> list[Level]:
        """Return the table's levels that apply to the shape, from the most general on."""
        return [level for level in (self.kind, self.family, self.machine) if level is not None]

    @property
    def pod_security(self) -> PodSecurity:
        """PodSecurity level of the pods, as the most special level of the table states it."""
        stated = [level.pod_security for level in self.levels() if level.pod_security]
        return stated[-1] if stated else "restricted"


def table_rows(table: AcceleratorTable) -> Iterator[Row]:
    """Yield every listed shape in the table's order.

    GPU machines appear with 1, 2 and `max_nodes` nodes.
    """
    yield Row(key="cpu", kind_name="cpu", kind=table.cpu)
    for name, tpu in table.tpu.families.items():
        yield from _tpu_rows(table, name, tpu)
    for name, gpu in table.gpu.families.items():
        yield from _gpu_rows(table, name, gpu)


def _tpu_rows(table: AcceleratorTable, name: str, family: TpuFamily) -> Iterator[Row]:
    listed = [topology for machine in family.machines for topology in machine.topologies]
    for machine in family.machines:
        for topology in machine.topologies:
            row = _tpu_row(table, name, machine, topology)
            several = listed.count(topology) > 1
            yield replace(row, key=f"{row.key}-{machine.chips_per_host}t") if several else row


def _tpu_row(table: AcceleratorTable, name: str, machine: TpuMachine, topology: str) -> Row:
    return Row(
        key=f"{name}-{topology}",
        kind_name="tpu",
        kind=table.tpu,
        family_name=name,
        family=table.tpu.families[name],
        machine=machine,
        machine_type=machine.machine,
        topology=topology,
        hosts=math.prod(dimensions(topology)) // machine.chips_per_host,
        chips_per_host=machine.chips_per_host,
    )


def larger_row(table: AcceleratorTable, name: str, topology: str) -> Row | None:
    """Build a TPU shape that is not listed but that its family's `larger` rule allows, or None."""
    chips = math.prod(dimensions(topology))
    for machine in table.tpu.families[name].machines:
        if topology in machine.topologies or chips % machine.chips_per_host:
            # A listed topology that was not found by its key is ambiguous: its key must name the
            # chips per host.
            continue
        if machine.larger and machine.larger.allows(topology):
            return _tpu_row(table, name, machine, topology)
    return None


def _gpu_rows(table: AcceleratorTable, name: str, family: GpuFamily) -> Iterator[Row]:
    for machine in family.machines:
        for nodes in sorted({1, min(2, machine.max_nodes), machine.max_nodes}):
            row = gang_row(table, name, machine.gpus, nodes)
            if row is not None:
                yield row


def sizes_of_family(table: AcceleratorTable, name: str) -> Iterator[str]:
    """Yield the keys of a family's listed shapes, and of 4, 8, 16 ... nodes of its GPU machines."""
    yield from (row.key for row in table_rows(table) if row.family_name == name)
    if name in table.gpu.families:
        for machine in table.gpu.families[name].machines:
            powers = (2**n for n in range(2, machine.max_nodes.bit_length()))
            yield from (f"{name}-{machine.gpus}x{n}" for n in powers if n < machine.max_nodes)


def gang_row(table: AcceleratorTable, name: str, gpus: int, nodes: int) -> Row | None:
    """Build a GPU shape of several nodes.

    Returns:
        The row, or None if no machine of the family has this number of GPUs and allows this number
        of nodes.
    """
    family = table.gpu.families[name]
    machine = next((m for m in family.machines if m.gpus == gpus and nodes <= m.max_nodes), None)
    if machine is None:
        return None
    return Row(
        key=f"{name}-{gpus}" if nodes == 1 else f"{name}-{gpus}x{nodes}",
        kind_name="gpu",
        kind=table.gpu,
        family_name=name,
        family=family,
        machine=machine,
        machine_type=machine.machine,
        hosts=nodes,
        chips_per_host=gpus,
    )
