"""The commands for those who write formulations: ``new``, ``check``, ``show``, ``diagnose``, ``export``."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelkit.cli.options import EXIT_CODES, debug_option, param_option, quiet_option
from modelkit.cli.output import count

if TYPE_CHECKING:
    from modelkit.conformance import Finding


@click.group()
def new() -> None:
    """Write a file to start from."""


@new.command("formulation")
@click.argument("name")
@click.option("--extends", metavar="BASE", help="Write a variant of BASE.  [default: a formulation that stands alone]")
@click.option(
    "--output", "-o", "folder", default=".", show_default=True, metavar="FOLDER",
    type=click.Path(file_okay=False, exists=True, path_type=Path), help="Where to.",
)  # fmt: skip
@debug_option
def new_formulation(name: str, extends: str | None, folder: Path) -> None:
    """Write the formulation NAME and its test; both work as written."""
    from modelkit.scaffold import new_formulation as write

    files = write(name, folder, extends=extends)
    for file in files:
        click.echo(f"wrote {file}")
    click.echo(f"next: modelkit check {files[0]}")


@click.command(epilog=EXIT_CODES)
@click.argument("file")
@param_option
@click.option(
    "--instances", default=50, show_default=True, type=click.IntRange(1, 10_000), metavar="N",
    help="Tiny instances on which to hold it against brute force.",
)  # fmt: skip
@quiet_option
@debug_option
def check(file: str, params: tuple[str, ...], instances: int, quiet: bool) -> int:
    """Hold the formulation in FILE (or of that name) to every rule, one line each."""
    from modelkit import conformance
    from modelkit.parameters import parsed_parameters

    listen = None if quiet else _say_finding
    found = conformance.check(file, parsed_parameters(params), instances=instances, listen=listen)
    failed = [f.rule for f in found if f.status == "failed"]
    if quiet:
        for finding in found:
            if finding.status == "failed":
                _say_finding(finding)
    left = sum(f.status == "not reached" for f in found)
    if failed:
        click.echo(f"{file}: {count(len(failed), 'rule')} broken" + (f", {left} not reached" if left else ""))
        return 5
    if not quiet:
        click.echo(f"{file}: all {len(found)} rules hold")
    return 0


def _say_finding(finding: Finding) -> None:
    mark = {"ok": "ok", "failed": "FAILED", "not reached": "-"}[finding.status]
    head = f"{mark:<7}{finding.rule:<11}"
    said = finding.checks if finding.status == "failed" else finding.words
    click.echo(head + textwrap.shorten(said, 79 - len(head), placeholder=" ..."))
    for complaint in finding.complaints:
        for lead, text in (("wrong: ", complaint.what), ("do:    ", complaint.advice)):
            click.echo(textwrap.fill(text, 79, initial_indent=" " * 7 + lead, subsequent_indent=" " * 14))
