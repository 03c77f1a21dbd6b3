"""Memory, time and cost of the training step of a planned run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tuneloop.errors import SpecError
from tuneloop.runs.planning.any_plan import AnyPlan
from tuneloop.runs.planning.compilation import NoDevices, compile_train_step
from tuneloop.runs.planning.plan import Plan
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.compilation import CompiledStep, CompileRequest, TargetDevices
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.sizing.host_memory import HostMemory, estimate_host_memory
from tuneloop.training.sizing.levers import find_lever
from tuneloop.training.sizing.memory import MemoryEstimate, estimate_memory
from tuneloop.training.sizing.work import step_work

_SECONDS_PER_HOUR = 3600
GIB = 2**30


@dataclass(frozen=True)
class PlannedStep:
    """The training step of a run on its devices."""

    train: TrainSpec
    architecture: Architecture
    steps: int
    """Optimizer updates of the run; with `train.epochs`, as if the export kept every trace."""
    target: TargetDevices | None
    """Devices of the train stage; None for a CPU."""
    memory: MemoryEstimate
    """Memory of one device, in closed form."""
    host: HostMemory
    """Memory of one pod, in closed form."""
    larger: tuple[TargetDevices, ...] = ()
    """Shapes with more of the same chips, smallest first."""

    @property
    def request(self) -> CompileRequest:
        """What is compiled.

        Raises:
            SpecError: the train stage has no accelerator.
        """
        if self.target is None:
            raise SpecError(
                "plan --compile: the train stage runs on a CPU, expected an accelerator to compile"
                " for; set execution.cluster.train.accelerator, such as v5e-4x4"
            )
        return CompileRequest(
            train=self.train,
            architecture=self.architecture,
            steps=self.steps,
            target=self.target,
        )


def find_step(
    plan: AnyPlan, target: TargetDevices | None, larger: Sequence[TargetDevices] = ()
) -> PlannedStep | None:
    """Estimate the training step of a plan; None for a run without training.

    Raises:
        SpecError: as `planned_step`.
    """
    return planned_step(plan, target, larger) if isinstance(plan, Plan) else None


def planned_step(
    plan: Plan, target: TargetDevices | None, larger: Sequence[TargetDevices] = ()
) -> PlannedStep:
    """Estimate the training step of a plan.

    Args:
        plan: the planned run.
        target: devices of the train stage; None for a CPU.
        larger: shapes with more of the same chips, smallest first.

    Raises:
        SpecError: the batch, the mesh or the model does not fit the devices.
    """
    train = plan.spec.train
    devices, slices = (target.devices, target.slices) if target else (1, 1)
    sizes = train.mesh_sizes(devices, slices, plan.architecture)
    passes = train.epochs or 0
    steps = train.steps or math.ceil(passes * plan.summary.trace_count / train.batch_size)
    memory = estimate_memory(train, plan.architecture, sizes, target.platform if target else "cpu")
    host = estimate_host_memory(
        train,
        plan.architecture,
        memory,
        sizes,
        devices_per_host=None if target is None else target.devices_per_host,
    )
    return PlannedStep(train, plan.architecture, max(1, steps), target, memory, host, tuple(larger))


@dataclass(frozen=True)
class StepReport:
    """What a training step needs on each device, and what the run takes at least."""

    platform: str
    """`tpu`, `gpu`, or `cpu`."""
    accelerator: str
    """Name of the shape in the accelerator table, or `cpu`."""
    devices: int
    """JAX devices of all hosts."""
    compiled: bool
    """Whether memory is the compiler's figure; otherwise it is an estimate in closed form."""
    note: str | None
    """Why the step was not compiled although that was asked for."""
    argument_bytes: int
    """Weights, optimizer state and batch on one device."""
    temp_bytes: int | None
    """Memory of one device that is used only during a step; null if the compiler refused it."""
    output_bytes: int | None
    """Results of a step on one device; null without compiling."""
    alias_bytes: int | None
    """Part of the results that takes the place of arguments; null without compiling."""
    peak_bytes: int
    """Memory of one device that a step needs."""
    estimate: dict[str, int]
    """The same in closed form, by what it is for."""
    host_memory: dict[str, int]
    """Memory of one pod of the train stage in closed form, by what it is for."""
    limit_bytes: int | None
    """Memory of a device that a program can use; null on a CPU."""
    fits: bool
    """Whether `peak_bytes` is at most `limit_bytes`."""
    flops: float
    """Floating point operations of one step on all devices."""
    estimate_step_seconds: float | None
    """Least time of a step, without exchange of data between devices; null without published
    figures of the chip."""
    tokens_per_second: float | None
    """Tokens of full rows per second of all devices, at that time."""
    steps: int
    """Optimizer updates of the run."""
    chip_hours: float | None
    """Chip-hours of all steps, at that time."""
    cost: float | None
    """`chip_hours` times the given price; null without a price."""
    collectives: dict[str, dict[str, int]]
    """Operations that exchange data between devices, by kind: count and bytes on one device."""
    compile_seconds: float | None
    """Time that the compilation took, here or earlier."""
    versions: dict[str, str]
    """Packages that determine the compiled program."""

    def as_json(self) -> dict[str, Any]:
        """Return the report for `--json`."""
        return asdict(self)


def report_step(
    step: PlannedStep,
    artifacts: str,
    compile_timeout_seconds: float | None = None,
    price_per_chip_hour: float | None = None,
) -> StepReport:
    """Report memory, time and cost of a step; compile it first if that is asked for.

    Args:
        step: the planned step.
        artifacts: URL of the artifacts prefix, which keeps what the compiler reported.
        compile_timeout_seconds: time that compiling may take; None gives an estimate alone.
        price_per_chip_hour: price of one chip for an hour, in any currency.

    Raises:
        SpecError: there is nothing to compile for, or the compiler does not know the devices.
        UsageError: the packages that compile are not installed.
        Unavailable: compiling took too long.
    """
    if compile_timeout_seconds is None:
        return _report(step, None, price_per_chip_hour)
    try:
        compiled = compile_train_step(
            step.request, artifacts, timeout_seconds=compile_timeout_seconds
        )
    except NoDevices as e:
        return replace(_report(step, None, price_per_chip_hour), note=str(e))
    return _report(step, compiled, price_per_chip_hour)


def _report(step: PlannedStep, compiled: CompiledStep | None, price: float | None) -> StepReport:
    target, memory = step.target, step.memory
    limit = target.chip.limit_bytes if target else None
    peak = memory.peak_bytes if compiled is None else compiled.required_bytes
    refused = compiled is not None and compiled.refused is not None
    times = _times(step, price)
    collectives = compiled.collectives if compiled else {}
    return StepReport(
        platform=target.platform if target else "cpu",
        accelerator=target.name if target else "cpu",
        devices=target.devices if target else 1,
        compiled=compiled is not None,
        note=None,
        argument_bytes=compiled.argument_bytes if compiled else memory.argument_bytes,
        temp_bytes=compiled.temp_bytes if compiled else memory.temp_bytes,
        output_bytes=compiled.output_bytes if compiled else None,
        alias_bytes=compiled.alias_bytes if compiled else None,
        peak_bytes=peak,
        estimate={**asdict(memory), "peak": memory.peak_bytes},
        host_memory={**asdict(step.host), "peak": step.host.peak_bytes},
        limit_bytes=limit,
        fits=not refused and (limit is None or peak <= limit),
        collectives={kind: found.model_dump() for kind, found in collectives.items()},
        compile_seconds=compiled.compile_seconds if compiled else None,
        versions=compiled.versions if compiled else {},
        **times,
    )


def _times(step: PlannedStep, price: float | None) -> dict[str, Any]:
    """Return the fields of a report that follow from operations and memory traffic."""
    target = step.target
    work = step_work(step.train, step.architecture, target.devices if target else 1)
    seconds = work.seconds(target.chip, target.devices) if target else None
    tokens = step.train.batch_size * step.train.max_length_tokens
    found: dict[str, Any] = {
        "flops": work.flops,
        "estimate_step_seconds": seconds,
        "tokens_per_second": None,
        "steps": step.steps,
        "chip_hours": None,
        "cost": None,
    }
    if target is not None and seconds is not None:
        hours = step.steps * seconds * target.chips / _SECONDS_PER_HOUR
        found |= {"tokens_per_second": tokens / seconds, "chip_hours": hours}
        found["cost"] = None if price is None else hours * price
    return found


def check_fits(step: PlannedStep, report: StepReport) -> None:
    """Refuse a compiled step that needs more memory than a device has.

    An estimate alone refuses nothing.

    Raises:
        SpecError: the step does not fit; the message says by how much, and what would make it fit.
    """
    if report.fits or not report.compiled or report.limit_bytes is None:
        return
    limit, peak = report.limit_bytes, report.peak_bytes
    lever = find_lever(
        step.train,
        step.architecture,
        step.request.target,
        step.larger,
        correction=peak / step.memory.peak_bytes,
    )
    raise SpecError(
        f"train: a step needs {peak / GIB:.2f} GiB on each device of {report.accelerator},"
        f" {(peak - limit) / GIB:.2f} GiB more than the {limit / GIB:.2f} GiB that a program can"
        f" use; {lever}"
    )
