"""Expected failures: each class says who can fix it and carries the exit code of a stage.

    TuneloopError
    ├── UsageError        2   the command line is wrong
    ├── DataError        65   an input is wrong
    ├── InputMissing     66   the stage before has not published
    ├── Unavailable      69   a service refused for good
    ├── OutOfMemory      71   host or device memory ran out
    ├── Transient        75   trying again can help
    ├── PermissionDenied 77   storage or a service said no
    ├── SpecError        78   change the spec
    ├── QuotaExceeded         a namespace of a cluster is full; no stage ends with it
    ├── GateFailed            a run's result is worse than `gate` asks
    ├── StillRunning          `wait --for-seconds` is over, the run is not
    └── StageFailed           a stage ended with another code; carries it

A message is one sentence: place, what was found, what was expected, what to do. It never holds a
credential. Codes follow sysexits.h where it has one; everything else (70) is a bug and prints a
traceback.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_BUG = 70
"""An exception that is not a TuneloopError."""


class TuneloopError(Exception):
    """An expected failure; printed as one sentence, never with a traceback."""

    exit_code: int = EXIT_BUG


class UsageError(TuneloopError):
    """The command line asks for something that does not exist."""

    exit_code = 2


class DataError(TuneloopError):
    """An input is wrong: whoever made the data has to mend it."""

    exit_code = 65


class InputMissing(TuneloopError):
    """The stage before has not published its record yet."""

    exit_code = 66


class Unavailable(TuneloopError):
    """A service cannot be reached or refused for good."""

    exit_code = 69


class OutOfMemory(TuneloopError):
    """Host or device memory ran out."""

    exit_code = 71


class Transient(TuneloopError):
    """Something passing: storage 429/5xx, a reset connection, a signal; run again to continue."""

    exit_code = 75


class PermissionDenied(TuneloopError):
    """Storage or a service does not let this identity in."""

    exit_code = 77


class SpecError(TuneloopError):
    """The spec asks for something impossible: change the spec."""

    exit_code = 78


class QuotaExceeded(TuneloopError):
    """A ResourceQuota leaves no room for what was asked; `exit_code` is the verb's."""

    exit_code = 23


class GateFailed(TuneloopError):
    """A run ended well, but its result is worse than asked; `exit_code` is the verb's."""

    exit_code = 13


class StillRunning(TuneloopError):
    """The time for waiting is over and the run is not: wait again; `exit_code` is the verb's."""

    exit_code = 32


class StageFailed(TuneloopError):
    """A stage ended, or was given up, without publishing its record.

    Attributes:
        stage: the stage's name.
        exit_code: of the verb that ran it.
    """

    def __init__(self, message: str, *, stage: str, exit_code: int) -> None:
        """Keep the stage and the code beside the sentence."""
        super().__init__(message)
        self.stage = stage
        self.exit_code = exit_code


VERB_EXIT_CODES = {2: 10, 65: 12, 66: 12, 69: 20, 70: 10, 71: 11, 75: 20, 77: 20, 78: 3}
"""Exit code of a stage -> exit code of the verb that ran it (`tuneloop run`); others mean 20."""


def verb_exit_code(stage_exit_code: int) -> int:
    """Exit code of a verb whose stage ended so; negative is a signal, as in `subprocess`."""
    return VERB_EXIT_CODES.get(stage_exit_code, 20)
