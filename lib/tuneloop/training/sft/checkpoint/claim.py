"""The right to write the files of an unfinished training, which belongs to the newest attempt.

    <resume prefix>/writers/00000001.json      one for each attempt, created once, never changed

A node that does not answer keeps its pod running, and a deleted Job does not change that. When the
training is started again, two attempts write below the same prefix. Therefore an attempt claims the
next number when it starts, and it ends when it sees that a later attempt has claimed one. Object
stores can create an object only if it does not exist; they cannot compare and swap, so the numbers
rise.

A write that has passed the check and is on its way cannot be called back. Only metrics.jsonl is
written over: a late version of it holds fewer steps, and a checkpoint is used only if the metrics
of all its steps are stored. Training then goes on from an earlier step, with the same result.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from tuneloop.errors import Superseded
from tuneloop.storage import files, paths
from tuneloop.storage.sealed import sealed

log = logging.getLogger(__name__)


class Claim:
    """The claim of one attempt."""

    def __init__(self, resume_prefix: str, number: int) -> None:
        """Know a claim that exists; use `take` for a new one."""
        self._prefix, self.number = resume_prefix, number

    @classmethod
    def take(cls, resume_prefix: str, attempt: str) -> Claim:
        """Claim the prefix; all earlier claims lose it.

        Args:
            resume_prefix: URL of the folder for the files of an unfinished training.
            attempt: name of this attempt, which no other one has.
        """
        value = {"attempt": attempt, "claimed_at": datetime.now(UTC).isoformat()}
        taken = [_number(url) for url in files.list_files(paths.join(resume_prefix, "writers"))]
        claim = cls(resume_prefix, max(taken, default=0) + 1)
        while not files.publish(claim._url(claim.number), _content(value, claim.number)):
            claim.number += 1
        log.info("attempt %s writes below %s, claim %d", attempt, resume_prefix, claim.number)
        return claim

    def check(self) -> None:
        """Check that no later attempt has claimed the prefix.

        Raises:
            Superseded: one has; this attempt must not write any more.
        """
        if files.exists(self._url(self.number + 1)):
            raise Superseded(
                f"{self._prefix}: a later attempt of this training has started, so this one stops;"
                " wait for the other one"
            )

    def _url(self, number: int) -> str:
        return paths.join(self._prefix, "writers", f"{number:08d}.json")


def _content(value: dict[str, str], number: int) -> bytes:
    return json.dumps(sealed({**value, "number": number})).encode() + b"\n"


def _number(url: str) -> int:
    name = url.rsplit("/", 1)[-1].removesuffix(".json")
    return int(name) if name.isdecimal() else 0
