"""The command ``verify``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

import modelkit as mk
from modelkit.cli.options import debug_option, exit_codes, quiet_option
from modelkit.cli.output import printable
from modelkit.errors import UsageError

if TYPE_CHECKING:
    from modelkit.verify import OwnRules


@click.command(epilog=exit_codes(0, 2, 5, c0="verified", c5="refused: the file is wrong"))
@click.argument("file")
@click.option(
    "--instance", "-i", metavar="INSTANCE",
    help="The instance.  [default: the one with the right hash beside FILE or shipped with modelkit]",
)  # fmt: skip
@click.option(
    "--formulation", "-f", metavar="NAME|FILE",
    help="Whose rules and objective a result has.  [default: the one that the file names, if modelkit knows it]",
)  # fmt: skip
@quiet_option
@debug_option
def verify(file: str, instance: str | None, formulation: str | None, quiet: bool) -> int:
    """Judge the result in FILE again from its instance, or recompute the bound of a certificate exactly.

    Nothing in the file is believed.
    """
    claim = mk.load_claim(file)
    found = mk.load(instance) if instance is not None else _instance_of(claim, Path(file).parent)
    if isinstance(claim, mk.Certificate):
        verification = mk.verify_certificate(claim, found)
    else:
        verification = mk.verify_result(claim, found, _own_rules(claim, found, formulation))
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


def _own_rules(result: mk.Result, instance: mk.Instance, name: str | None) -> OwnRules | None:
    """The rules and the objective of the formulation that a result is of, where the judge does not have them."""
    from modelkit.plugins import formulation_files, load_formulation
    from modelkit.verify import OwnRules

    producer = result.producer
    if name is None:
        plain = producer.kind != "formulation" or not producer.parameters
        if (plain and result.objective.name in result.metrics) or producer.name not in formulation_files():
            return None
        name = producer.name
    formulation = load_formulation(name)
    posed = formulation.posed(instance.replace(extra={}), producer.parameters)
    return OwnRules(
        partial(formulation.breaks, posed) if formulation.admissible else None,
        partial(formulation.valued, posed) if formulation.value else None,
    )


def _instance_of(claim: mk.Result | mk.Certificate, folder: Path) -> mk.Instance:
    """The instance that a file is about, by its hash."""
    from modelkit.lookup import Instances

    found = Instances([folder]).find(claim.instance)
    if found is None:
        raise UsageError(
            f"no instance with the hash {claim.instance.sha256[:16]}... lies beside the result;"
            " say which with --instance"
        )
    return found
