"""The command line: parse, call, print, exit code; nothing else.

Everything but Click is imported when a command needs it, so that help appears at once.
"""

from __future__ import annotations

import signal
import sys
import traceback
from typing import Any

import click

import modelkit as mk
from modelkit.cli import (
    authoring,
    calibrating,
    comparing,
    exporting,
    guiding,
    judging,
    library,
    listing,
    making,
    running,
    studying,
    sustaining,
    verifying,
)  # fmt: skip
from modelkit.cli.options import CONTEXT, NamingGroup, epilog
from modelkit.cli.output import fit_terminal, printable
from modelkit.cli.streams import drop
from modelkit.errors import ModelkitError, not_enough_memory
from modelkit.runtime.interrupts import Ending


def main(ending: Ending | None = None) -> None:
    """Entry point of the command line; ``ending`` handles the signals that end it."""
    ending = ending or Ending()
    settings: dict[str, Any] = {}
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a character that the terminal lacks is no fault
    try:
        code = cli.main(obj=settings, prog_name="modelkit", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = 2
    except click.ClickException as error:
        code = _refuse(error)
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except BrokenPipeError:
        drop(sys.stdout)
        code = 0
    except Exception as error:
        code = _report(error, debug=bool(settings.get("debug")))
    code = _ended(ending, code if isinstance(code, int) else 0)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # said already
        drop(sys.stdout)
    sys.exit(code)


def _ended(ending: Ending, code: int) -> int:
    """The exit code, that of a signal if one came, and what is said of it."""
    if ending.exit_code is not None:
        code = ending.exit_code
    if code == 130:
        click.echo("interrupted", err=True)
    elif code == ending.exit_code:
        click.echo(f"ended by {signal.Signals(code - 128).name}", err=True)
    return code


def _refuse(error: click.ClickException) -> int:
    """Say what is wrong with the words of a command, in the way of all other errors."""
    lines = ["error: " + " ".join(error.format_message().split())]
    if isinstance(error, click.UsageError) and error.ctx is not None:
        lines.append(f"  see {error.ctx.command_path} --help")
    click.echo(fit_terminal(printable("\n".join(lines))), err=True)
    return error.exit_code


def _report(error: Exception, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if isinstance(error, ModelkitError):
        click.echo(fit_terminal(printable(f"error: {error}")), err=True)
        return error.exit_code
    if isinstance(error, MemoryError):
        click.echo(f"error: {not_enough_memory()}", err=True)
        return 4
    if isinstance(error, OSError):
        drop(sys.stdout)
        named = "" if error.filename is None else f": {error.filename}"
        click.echo(printable(f"error: the operating system refuses: {error.strerror or error}{named}"), err=True)
        return 2
    click.echo(f"unexpected fault: {type(error).__name__}: {error}", err=True)
    if not debug:
        click.echo(
            "This is a bug in modelkit. --debug shows where; `modelkit versions` belongs in the report.", err=True
        )
    return 1


@click.group(
    cls=NamingGroup, context_settings=CONTEXT, invoke_without_command=True,
    epilog=epilog(None, 0, 2, 3, 4, 5, c0="a valid schedule or verified file", c5="`verify` or `check` found it wrong"),
)  # fmt: skip
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
    judging.judge, sustaining.sustain,
    making.generate, making.import_, calibrating.calibrate, studying.study,
    library.library,
    authoring.new, authoring.check, authoring.show, authoring.diagnose, exporting.export,
    listing.list_, listing.versions, listing.completion,
):  # fmt: skip
    cli.add_command(command)
