"""The command line: parse, call, print, exit code; nothing else.

Everything but Click is imported when a command needs it, so that help appears at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import click

import modelkit as mk
from modelkit.cli import authoring, calibrating, comparing, listing, making, running, studying, verifying
from modelkit.cli.options import CONTEXT, EXIT_CODES
from modelkit.errors import ModelkitError


def main() -> None:
    """Entry point of the console script."""
    settings: dict[str, Any] = {}
    try:
        code = cli.main(obj=settings, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        code = _report(error, debug=bool(settings.get("debug")))
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if isinstance(error, ModelkitError):
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    click.echo(f"unexpected fault: {type(error).__name__}: {error}", err=True)
    if not debug:
        click.echo(
            "This is a bug in modelkit. --debug shows where; `modelkit versions` belongs in the report.", err=True
        )
    return 1


@click.group(context_settings=CONTEXT, epilog=EXIT_CODES)
@click.version_option(mk.__version__, prog_name="modelkit")
def cli() -> None:
    """How far from optimal is this LLM inference schedule, and can you prove it?

    An INSTANCE is a JSON file (.json or .json.gz), or - for standard input.
    """


for command in (
    running.solve, running.simulate, running.bound, verifying.verify, comparing.compare, comparing.report,
    making.generate, making.import_, calibrating.calibrate, studying.study,
    authoring.new, authoring.check, authoring.show, authoring.diagnose, authoring.export,
    listing.list_, listing.versions,
):  # fmt: skip
    cli.add_command(command)
