"""Curves of a training: loss, validation loss and speed, from metrics.jsonl and the heartbeat.

While a run trains, metrics.jsonl is written with checkpoints only. The newest points of the loss
then come from the heartbeats that the store has seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tuneloop.artifacts.training_metrics import Metrics

WIDTH, HEIGHT, MAX_POINTS = 600, 120, 300
Point = tuple[int, float]
"""Number of a step, from 1, and its value."""


@dataclass(frozen=True)
class Curve:
    """A curve, as a line and as text."""

    points: str
    """Points of an SVG polyline within WIDTH by HEIGHT; 0 is at the bottom."""
    validation: str
    """Points of the validation loss in the same picture; empty without validation."""
    highest: float
    """The highest value, which is at the top."""
    steps: int
    words: str
    """A description of the curve."""
    other: str = ""
    """Points of another run in the same picture; empty if there is only one."""


def draw_loss(metrics: Metrics, newest: Sequence[Point] = ()) -> Curve | None:
    """Draw the loss of each step; returns None if there are too few steps for a line.

    Args:
        metrics: losses of the first steps.
        newest: losses of some later steps, in order.
    """
    points = _points(metrics, newest)
    if len(points) < 2:
        return None
    lowest = min(points, key=lambda point: point[1])
    words = (
        f"Loss by step: {points[0][1]:.3g} at step {points[0][0]}, {points[-1][1]:.3g} at step"
        f" {points[-1][0]}; lowest {lowest[1]:.3g} at step {lowest[0]}."
    )
    validations = metrics.validations
    if validations:
        best = min(validations, key=lambda step: (validations[step], step))
        words += f" Validation loss: lowest {validations[best]:.3g} after step {best}."
    scale = _Scale(points[-1][0], max(*(loss for _, loss in points), *validations.values()))
    # A validation after step n is drawn where step n + 1 is.
    after = scale.line((min(step + 1, scale.steps), loss) for step, loss in validations.items())
    return Curve(scale.line(_thinned(points)), after, scale.highest, scale.steps, words)


def draw_speed(metrics: Metrics) -> Curve | None:
    """Draw the tokens per second of each step but the first, which includes compilation."""
    points = [(step, speed) for step, speed in enumerate(metrics.speeds, start=1) if step > 1]
    if len(points) < 2:
        return None
    scale = _Scale(points[-1][0], max(speed for _, speed in points))
    words = f"Tokens per second by step: {metrics.tokens_per_second:,.0f} in the last steps."
    return Curve(scale.line(_thinned(points)), "", scale.highest, scale.steps, words)


def draw_both(first: Metrics, second: Metrics) -> Curve | None:
    """Draw the losses of two runs in one picture; None if neither has enough steps."""
    one, two = _points(first, ()), _points(second, ())
    if max(len(one), len(two)) < 2:
        return None
    steps, highest = max(len(one), len(two)), max(loss for _, loss in [*one, *two])
    scale = _Scale(steps, highest)
    said = [f"{points[-1][1]:.3g} at step {len(points)}" for points in (one, two) if points]
    words = f"Loss by step of both runs: {' and '.join(said)}."
    return Curve(
        scale.line(_thinned(one)), "", highest, steps, words, other=scale.line(_thinned(two))
    )


def _points(metrics: Metrics, newest: Sequence[Point]) -> list[Point]:
    known = len(metrics.losses)
    later = [point for point in newest if point[0] > known]
    return [*enumerate(metrics.losses, start=1), *later]


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Return at most MAX_POINTS of the points, the first and the last included."""
    count, last = min(len(points), MAX_POINTS), len(points) - 1
    return [points[round(n * last / (count - 1))] for n in range(count)] if count > 1 else []


class _Scale:
    """Converts steps and values to coordinates."""

    def __init__(self, steps: int, highest: float) -> None:
        self.steps, self.highest = steps, highest
        self._height = HEIGHT / (highest if highest > 0 else 1.0)

    def line(self, points: Iterable[Point]) -> str:
        last = max(self.steps - 1, 1)
        return " ".join(
            f"{WIDTH * (step - 1) / last:.1f},{HEIGHT - max(value, 0.0) * self._height:.1f}"
            for step, value in points
        )
