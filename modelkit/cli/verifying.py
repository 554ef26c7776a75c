"""The command ``verify``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

import modelkit as mk
from modelkit.cli import completing
from modelkit.cli.options import debug_option, epilog, quiet_option
from modelkit.cli.output import printable, wrap_lines
from modelkit.errors import UsageError

if TYPE_CHECKING:
    from modelkit.instance import InstanceStamp


@click.command(
    epilog=epilog("modelkit verify chat-40.mc-sf.result.json", 0, 2, 5, c0="verified", c5="refused: the file is wrong")
)
@click.argument("file", shell_complete=completing.json_files)
@click.option(
    "--instance", "-i", metavar="INSTANCE", shell_complete=completing.json_files,
    help="The instance.  [default: the one with the right hash beside FILE, in this folder, or shipped]",
)  # fmt: skip
@click.option(
    "--formulation", "-f", metavar="NAME|FILE", shell_complete=completing.formulations,
    help="Formulation whose rules and objective apply.  [default: the one that the file names, if modelkit knows it]",
)  # fmt: skip
@click.option(
    "--param", "-P", "params", multiple=True, metavar="NAME=VALUE",
    help="Parameter of the formulation that the file does not record, the value as JSON; repeatable.",
)  # fmt: skip
@quiet_option
@debug_option
def verify(file: str, instance: str | None, formulation: str | None, params: tuple[str, ...], quiet: bool) -> int:
    """Judge the result in FILE again from its instance, or recompute the bound of a certificate exactly.

    Everything is recomputed from the schedule. What cannot be checked is listed; the last line says what was checked.
    """
    from modelkit.formulation.parameters import parse_parameters

    claim = mk.load_claim(file)
    found = mk.load(instance) if instance is not None else instance_of(claim.instance, Path(file).parent)
    if isinstance(claim, mk.Result):
        verification = mk.verify_result(claim, found, formulation, parse_parameters(params))
    elif formulation is not None or params:
        raise UsageError("--formulation and --param are for results; this file is a certificate")
    else:
        verification = mk.verify_certificate(claim, found)
    if not quiet or not verification.holds:
        for mark, lines in (
            ("ok", verification.confirmed), ("not checked", verification.unconfirmed), ("WRONG", verification.faults)
        ):  # fmt: skip
            for line in lines[:20]:
                click.echo(_fit_line(f"{mark}: {line}"))
            if len(lines) > 20:
                click.echo(f"{mark}: ... and {len(lines) - 20} more")
        click.echo(_fit_line(f"{file}: {verification.summary}"))
    return 0 if verification.holds else 5


def _fit_line(line: str) -> str:
    """A line as it is for programs, and broken between words on a terminal."""
    text = printable(line, also="")
    return wrap_lines(text, max(40, shutil.get_terminal_size().columns - 1)) if sys.stdout.isatty() else text


def instance_of(stamp: InstanceStamp, folder: Path) -> mk.Instance:
    """The instance that a file in this folder is about, by its hash."""
    from modelkit.io.lookup import Instances

    found = Instances([folder, Path()]).find(stamp)
    if found is None:
        raise UsageError(
            f"no instance with the hash {stamp.sha256[:16]}... is beside the file or in the folder where"
            " this runs; name one with --instance"
        )
    return found
