"""Expected failures. Each class maps to an exit code and names who can act on it.

    TuneloopError
    ├── UsageError        2   the command line is wrong
    ├── DataError        65   an input is wrong
    ├── InputMissing     66   the previous stage has not published its record
    ├── Unavailable      69   a service refuses, and a retry does not help
    ├── OutOfMemory      71   host or device memory ran out
    ├── Transient        75   a retry can help
    ├── Superseded       75   a later attempt of the same stage has started
    ├── PermissionDenied 77   storage or a service denies access
    ├── SpecError        78   the spec has to change
    ├── QuotaExceeded         a namespace of a cluster has no room; verbs only
    ├── GateFailed            the result of a run does not pass `gate`; verbs only
    ├── StillRunning          `wait --for-seconds` has passed; the run continues
    └── StageFailed           a stage ended without a record; carries the verb's code

A message is one sentence: where, what was found, what was expected, how to fix it. It never
contains a credential. Codes follow sysexits.h. Any other exception is a bug: exit code 70, with a
traceback.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_BUG = 70
"""An exception that is not a TuneloopError."""


class TuneloopError(Exception):
    """An expected failure; printed as one sentence, without a traceback."""

    exit_code: int = EXIT_BUG


class UsageError(TuneloopError):
    """The command line is wrong: the user corrects it."""

    exit_code = 2


class DataError(TuneloopError):
    """An input is wrong: the producer of the data fixes it."""

    exit_code = 65


class InputMissing(TuneloopError):
    """The previous stage has not published its record yet."""

    exit_code = 66


class Unavailable(TuneloopError):
    """A service cannot be reached or refuses permanently."""

    exit_code = 69


class OutOfMemory(TuneloopError):
    """Host or device memory ran out."""

    exit_code = 71


class Transient(TuneloopError):
    """A temporary failure: storage 429/5xx, a reset connection, a signal; run again to continue."""

    exit_code = 75


class Superseded(TuneloopError):
    """A later attempt of the same stage has started; this one ends without a result."""

    exit_code = 75


class PermissionDenied(TuneloopError):
    """Storage or a service denies access to this identity."""

    exit_code = 77


class SpecError(TuneloopError):
    """The spec is wrong or cannot be met: the user changes it."""

    exit_code = 78


class QuotaExceeded(TuneloopError):
    """A ResourceQuota has no room for the request; `exit_code` is that of the verb."""

    exit_code = 23


class GateFailed(TuneloopError):
    """A run succeeded, but its result fails the gate; `exit_code` is that of the verb."""

    exit_code = 13


class StillRunning(TuneloopError):
    """The timeout passed and the run continues: wait again; `exit_code` is that of the verb."""

    exit_code = 32


class StageFailed(TuneloopError):
    """A stage ended, or was stopped by its supervisor, without publishing its record.

    Attributes:
        stage: the stage's name.
        exit_code: exit code of the verb that ran the stage.
    """

    def __init__(self, message: str, *, stage: str, exit_code: int) -> None:
        """Store the stage and the exit code with the message."""
        super().__init__(message)
        self.stage = stage
        self.exit_code = exit_code


VERB_EXIT_CODES = {2: 10, 65: 12, 66: 12, 69: 20, 70: 10, 71: 11, 75: 20, 77: 20, 78: 3}
"""Exit code of a stage -> exit code of the verb that ran it (`tuneloop run`); 20 for others."""


def verb_exit_code(stage_exit_code: int) -> int:
    """Return the exit code of a verb for its stage's; a negative code is a signal."""
    return VERB_EXIT_CODES.get(stage_exit_code, 20)


def verb_exit_code_of(error: TuneloopError) -> int:
    """Return the exit code of a verb that ends with an error."""
    if isinstance(error, StageFailed | UsageError | QuotaExceeded):
        return error.exit_code
    return VERB_EXIT_CODES.get(error.exit_code, error.exit_code)


PASSING_EXIT_CODES = (20, 21, 30)
"""Exit codes of verbs for failures of the infrastructure and for cancelled runs. Running the spec
again can succeed without any change."""
