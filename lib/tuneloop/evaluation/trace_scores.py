"""Score the final answers of stored traces with the scorers of evaluations.

The expected answer of a trace is that of an item in a file of eval items, or else its own
`meta.expected_answer`. Every trace has a result, also one that cannot be scored.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.errors import SpecError
from tuneloop.evaluation.scorers.scoring import ScorerName, check_allowed, score_text, scorer_of
from tuneloop.evaluation.sets.schema import EvalItem, folded, folded_key
from tuneloop.traces.judgements import NAME_PATTERN
from tuneloop.validation import shorten

Reading = Literal["strict", "lenient"]
"""Which judgement is the score: of the final answer as it is, or of an answer found in its text."""
ID_KEYS = ("prompt_id", "eval_id", "id")
"""Keys of meta that can name an item, in this order."""
EXPECTED = "expected_answer"
"""Key of meta with the expected answer."""
MAX_DETAIL_CHARACTERS = 200
"""Maximum length of an answer, a match or an explanation in the details of a score."""

Problem = Literal["no_expected_answer", "unscorable"]
"""Why a trace has no score. `no_expected_answer`: neither the file nor its meta has one.
`unscorable`: the scorer failed, or the expected answer does not suit it."""


class Answered(Protocol):
    """A trace as far as scores depend on it; values of meta may be raw JSON."""

    @property
    def id(self) -> str: ...  # noqa: D102 - fields of TraceRow

    @property
    def prompt(self) -> str: ...  # noqa: D102

    @property
    def system(self) -> Any: ...  # noqa: D102

    @property
    def messages(self) -> Any: ...  # noqa: D102

    @property
    def final_answer(self) -> str: ...  # noqa: D102

    @property
    def meta(self) -> Mapping[str, Any] | None: ...  # noqa: D102


@dataclass(frozen=True)
class TraceScore:
    """The score of one trace, or why it has none."""

    trace_id: str
    criteria: str
    score: float | None
    """0 to 1; None if the trace cannot be scored."""
    state: str
    """State of the judgement, or a `Problem`."""
    answer: str | None = None
    matched: str | None = None
    explanation: str | None = None

    def as_row(self) -> dict[str, Any]:
        """Return the row of a file of scores."""
        return {
            "trace_id": self.trace_id,
            "criteria": self.criteria,
            "score": self.score,
            **self.details,
        }

    @property
    def details(self) -> dict[str, Any]:
        """The details that the store keeps with the score."""
        texts = {"answer": self.answer, "matched": self.matched, "explanation": self.explanation}
        cut = {
            name: text if len(text) <= MAX_DETAIL_CHARACTERS else text[:MAX_DETAIL_CHARACTERS] + "…"
            for name, text in texts.items()
            if text is not None
        }
        return {"state": self.state, **cut}

    def to_request(self) -> dict[str, Any]:
        """Return the row of a request to the store; only for a trace with a score."""
        row = {"trace_id": self.trace_id, "criteria": self.criteria, "score": self.score}
        return {**row, "details": self.details}


class TraceScorer:
    """Scores traces by one scorer."""

    def __init__(
        self,
        scorer: ScorerName,
        criteria: str,
        items: Iterable[EvalItem] | None = None,
        *,
        reading: Reading = "strict",
        allow: Collection[str] = (),
    ) -> None:
        """Prepare to score.

        Args:
            scorer: scorer of traces and of items that name none.
            criteria: name of the scores.
            items: items with expected answers, which are joined by id or by prompt; None uses the
                meta of the traces alone.
            reading: which judgement is the score.
            allow: names of scorers that may run programs or send data.

        Raises:
            SpecError: the scorer's name or its options are not valid, or it is not allowed.
        """
        check_allowed(scorer_of(scorer), allow)
        self._scorer, self._criteria, self._reading, self._allow = scorer, criteria, reading, allow
        found = list(items or ())
        self._by_id = {item.id: item for item in found}
        self._by_prompt = {item.folded_key: item for item in found}

    def score(self, trace: Answered) -> TraceScore:
        """Score one trace."""
        item = self._item(trace)
        if item is None:
            return TraceScore(trace.id, self._criteria, None, "no_expected_answer")
        try:
            strict, lenient = score_text(
                trace.final_answer, item, self._scorer, parse=_whole, allow=self._allow
            )
        except SpecError as e:
            return TraceScore(trace.id, self._criteria, None, "unscorable", explanation=str(e))
        return self._result(trace.id, strict if self._reading == "strict" else lenient)

    def _result(self, trace_id: str, judged: Judgement) -> TraceScore:
        if judged.state == "error":
            return TraceScore(
                trace_id, self._criteria, None, "unscorable", explanation=judged.explanation
            )
        return TraceScore(
            trace_id,
            self._criteria,
            judged.value,
            judged.state,
            judged.answer,
            judged.matched,
            judged.explanation,
        )

    def _item(self, trace: Answered) -> Item | None:
        meta = {name: _plain(value) for name, value in (trace.meta or {}).items()}
        named = [each for each in map(meta.get, ID_KEYS) if isinstance(each, str)]
        found = next((self._by_id[each] for each in named if each in self._by_id), None)
        if found is None and self._by_prompt:
            found = self._by_prompt.get(_key_of(trace)) or self._by_prompt.get(folded(trace.prompt))
        if found is not None:
            return found.to_item("")
        expected = meta.get(EXPECTED)
        if isinstance(expected, int | float) and not isinstance(expected, bool):
            expected = repr(expected)
        if not isinstance(expected, str) or not expected.strip():
            return None
        return Item(
            set="",
            id=trace.id,
            prompt=trace.prompt,
            expected_answer=expected,
            category="",
            meta=meta,
        )


def _plain(value: Any) -> Any:
    """Decode a value of meta, which rows of datasets keep as JSON."""
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value


def _key_of(trace: Answered) -> str:
    system = trace.system if isinstance(trace.system, str) else None
    return folded_key(trace.prompt, system, _plain(trace.messages) or None)


def _whole(text: str) -> str:
    return text


def criteria_of(scorer: ScorerName) -> str:
    """Return the name of the scores of a scorer: its kind, or its file without folder and suffix.

    Raises:
        SpecError: the scorer is not valid, or its file's name cannot be the name of scores.
    """
    name = scorer_of(scorer).name
    if name.endswith(".py"):
        name = name.rsplit("/", 1)[-1].removesuffix(".py")
    if not re.match(NAME_PATTERN, name):
        raise SpecError(
            f"criteria {shorten(name)}: expected 1 to 64 letters, digits, dots, _ or -; name the"
            " scores with --criteria"
        )
    return name


@dataclass
class Counts:
    """What was scored."""

    traces: int = 0
    scored: int = 0
    total: float = 0.0
    """Sum of all scores."""

    def __post_init__(self) -> None:
        """Begin without states."""
        self.states: Counter[str] = Counter()

    def add(self, score: TraceScore) -> None:
        """Count one trace."""
        self.traces += 1
        self.states[score.state] += 1
        if score.score is not None:
            self.scored += 1
            self.total += score.score

    @property
    def mean(self) -> float | None:
        """Return the mean score; None if there is none."""
        return self.total / self.scored if self.scored else None

    def as_json(self) -> dict[str, Any]:
        """Return the counts as a JSON object."""
        return {
            "traces": self.traces,
            "scored": self.scored,
            "mean": self.mean,
            "states": dict(sorted(self.states.items())),
        }

    def text(self) -> str:
        """Describe the counts in one sentence."""
        states = ", ".join(f"{count} {name}" for name, count in sorted(self.states.items()))
        mean = "" if self.mean is None else f", mean score {self.mean:.3f}"
        return f"{self.traces} traces, {self.scored} scored{mean}: {states}"
