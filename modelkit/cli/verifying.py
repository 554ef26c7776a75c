"""The command ``verify``."""

from __future__ import annotations

from pathlib import Path

import click

import modelkit as mk
from modelkit.cli.options import EXIT_CODES, debug_option, quiet_option
from modelkit.cli.output import printable
from modelkit.errors import ModelkitError, UsageError


@click.command(epilog=EXIT_CODES)
@click.argument("file")
@click.option(
    "--instance", "-i", metavar="INSTANCE",
    help="The instance.  [default: the one with the right hash beside FILE or shipped with modelkit]",
)  # fmt: skip
@quiet_option
@debug_option
def verify(file: str, instance: str | None, quiet: bool) -> int:
    """Judge the result in FILE again from its instance, or recompute the bound of a certificate exactly.

    Nothing in the file is believed.
    """
    claim = mk.load_claim(file)
    found = mk.load(instance) if instance is not None else _instance_of(claim, Path(file).parent)
    if isinstance(claim, mk.Certificate):
        verification = mk.verify_certificate(claim, found)
    else:
        verification = mk.verify_result(claim, found)
    if not quiet or not verification.holds:
        for mark, lines in (
            ("ok", verification.confirmed), ("not checked", verification.unconfirmed), ("WRONG", verification.faults)
        ):  # fmt: skip
            for line in lines[:20]:
                click.echo(printable(f"{mark}: {line}", also=""))
            if len(lines) > 20:
                click.echo(f"{mark}: ... and {len(lines) - 20} more")
        click.echo(printable(f"{file}: ", also="") + ("verified" if verification.holds else "refused"))
    return 0 if verification.holds else 5


def _instance_of(result: mk.Result | mk.Certificate, folder: Path) -> mk.Instance:
    """The instance that a result is about, by its hash."""
    from modelkit.plugins import bundled

    for place in (folder, bundled("instances")):
        for path in sorted([*place.glob("*.json"), *place.glob("*.json.gz")]):
            if path.name.endswith((".result.json", ".certificate.json")) or not path.is_file():
                continue
            try:
                candidate = mk.load(path)
            except ModelkitError:
                continue
            if candidate.sha256 == result.instance.sha256:
                return candidate
    raise UsageError(
        f"no instance with the hash {result.instance.sha256[:16]}... lies beside the result; say which with --instance"
    )
