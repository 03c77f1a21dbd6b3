"""The `tuneloop` command: parsing and printing, nothing else.

Results go to stdout (`--json` for programs), everything else to stderr. An expected failure prints
one sentence and exits with its code. Each verb imports the libraries that it needs, so that
`--help` is fast.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import typer

from tuneloop.cli import (
    cluster,
    eval_sets,
    examples,
    generate,
    history,
    models,
    results,
    runs,
    store,
    traces,
)
from tuneloop.cli.control import cancel, trigger
from tuneloop.cli.gates import gate, promotion
from tuneloop.cli.live import logs
from tuneloop.cli.shared import terminal
from tuneloop.errors import (
    EXIT_BUG,
    EXIT_OK,
    VERB_EXIT_CODES,
    TuneloopError,
    UsageError,
    verb_exit_code_of,
)

CANCELLED = 30
TYPER_INTERRUPTED = 130
"""Exit code that typer gives a KeyboardInterrupt."""

EXTRAS = {
    **{
        module: ("k8s", "setup-dev", "base.txt")
        for module in ("kubeflow_trainer_api", "kubernetes", "kubernetes_validate", "urllib3")
    },
    **{
        module: ("eval", "setup", "train.txt")
        for module in (
            *("babel", "jsonschema", "math_verify", "matplotlib", "pint", "referencing", "regex"),
            *("scipy", "statsmodels"),
        )
    },
}
"""Module -> the extra that installs it, and a make target and a lock with it; the others are of
`train`, whose lock has all packages but these."""

app = typer.Typer(
    name="tuneloop",
    help="Fine-tune a model on reasoning traces and evaluate it, as Kubernetes batch jobs.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
runs.register(app)
cluster.register(app)
cancel.register(app)
trigger.register(app)
logs.register(app)
results.register(app)
gate.register(app)
promotion.register(app)
history.register(app)
store.register(app)
traces.register(app)
eval_sets.register(app)
examples.register(app)
models.register(app)
generate.register(app)


def main() -> NoReturn:
    """Run a verb and exit with its code."""
    terminal.protect()
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(terminal.finish(_run()))


def _run() -> int:
    """Run a verb, print the sentence of its failure, and return its exit code."""
    try:
        _check_environment(sys.argv[1:])
        app()
    except TuneloopError as e:
        return _fail(str(e), verb_exit_code_of(e))
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] not in ("", "tuneloop", "jobs"):
            return _fail(_missing_extra(str(e.name)), UsageError.exit_code)
        return _crash()
    except OSError as e:
        from tuneloop.storage.errors import refusal

        found = refusal(e, str(e.filename or "a file"))
        return _crash() if found is None else _fail(str(found), verb_exit_code_of(found))
    except SystemExit as e:
        if e.code == TYPER_INTERRUPTED:
            typer.echo("stopped; run again to continue", err=True)
            return CANCELLED
        return e.code if isinstance(e.code, int) else EXIT_OK
    except terminal.OutputLost:
        pass  # `finish` gives the reason
    except Exception:
        return _crash()
    return EXIT_OK


def _fail(sentence: str, code: int) -> int:
    typer.echo(f"tuneloop: {sentence}", err=True)
    return code


def _crash() -> int:
    """Print the traceback of a bug."""
    traceback.print_exc()
    return VERB_EXIT_CODES[EXIT_BUG]


def _check_environment(arguments: Sequence[str]) -> None:
    """Refuse bad variables, and warn of unknown ones, before a verb does anything.

    Raises:
        UsageError: a variable has an invalid value.
    """
    if not {"-h", "--help"}.isdisjoint(arguments) or not any(map(_is_ours, os.environ)):
        return  # help works with any environment, and is fast
    from tuneloop.settings.environment import check_environment

    for warning in check_environment():
        typer.echo(f"tuneloop: warning: {warning}", err=True)


def _is_ours(name: str) -> bool:
    return name.startswith("TUNELOOP_")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _missing_extra(module: str) -> str:
    top = module.partition(".")[0]
    extra, target, lock = EXTRAS.get(top, ("train", "setup", "train.txt"))
    return (
        f"Python module {module} is not installed; install the {extra} extra: `make {target}` in a"
        f" checkout, else the lock requirements/{lock} with pip"
    )
