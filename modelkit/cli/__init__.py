"""The command line: parse, call, print, exit code; nothing else.

Everything but Click is imported when a command needs it, so that help appears at once.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from typing import Any

import click

import modelkit as mk
from modelkit.cli import (
    authoring,
    calibrating,
    comparing,
    completing,
    guiding,
    listing,
    making,
    running,
    studying,
    verifying,
)  # fmt: skip
from modelkit.cli.options import CONTEXT, EXIT_CODES
from modelkit.cli.output import fitted, printable
from modelkit.errors import ModelkitError, not_enough_memory


def main() -> None:
    """Entry point of the console script."""
    settings: dict[str, Any] = {}
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a character that the terminal lacks is no fault
    try:
        code = cli.main(obj=settings, prog_name="modelkit", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = 130
    except BrokenPipeError:
        _drop_output()
        code = 1
    except Exception as error:
        code = _report(error, debug=bool(settings.get("debug")))
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # said already
        _drop_output()
    sys.exit(code if isinstance(code, int) else 0)


def _drop_output() -> None:
    """Standard output takes nothing more; Python would try once again at its end."""
    if sys.stdout is not None:
        with contextlib.suppress(OSError):  # something without a number stands in for it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: Exception, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if isinstance(error, ModelkitError):
        click.echo(fitted(printable(f"error: {error}")), err=True)
        return error.exit_code
    if isinstance(error, MemoryError):
        click.echo(f"error: {not_enough_memory()}", err=True)
        return 4
    if isinstance(error, OSError):
        _drop_output()
        named = "" if error.filename is None else f": {error.filename}"
        click.echo(printable(f"error: the system refuses: {error.strerror or error}{named}"), err=True)
        return 2
    click.echo(f"unexpected fault: {type(error).__name__}: {error}", err=True)
    if not debug:
        click.echo(
            "This is a bug in modelkit. --debug shows where; `modelkit versions` belongs in the report.", err=True
        )
    return 1


@click.group(context_settings=CONTEXT, epilog=EXIT_CODES, invoke_without_command=True)
@click.version_option(mk.__version__, prog_name="modelkit")
@click.pass_context
def cli(context: click.Context) -> None:
    """How far from optimal is this LLM inference schedule, and can you prove it?

    An INSTANCE is a JSON file (.json or .json.gz), or - for standard input.
    """
    if context.invoked_subcommand is None:
        click.echo(guiding.map_of(cli))


for command in (
    running.solve, running.simulate, running.bound, verifying.verify, comparing.compare, comparing.report,
    making.generate, making.import_, calibrating.calibrate, studying.study,
    authoring.new, authoring.check, authoring.show, authoring.diagnose, authoring.export,
    listing.list_, listing.versions, completing.completion,
):  # fmt: skip
    cli.add_command(command)
guiding.add_examples(cli)
completing.add_completion(cli)
