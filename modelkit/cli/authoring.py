"""The commands for writing formulations: ``new``, ``check``, ``show``, ``diagnose``."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelkit.cli import completing
from modelkit.cli.live import progress
from modelkit.cli.making import all_families, all_formats
from modelkit.cli.options import (
    NamingGroup,
    debug_option,
    epilog,
    formulation_option,
    instance_argument,
    param_option,
    quiet_option,
    time_limit_option,
)
from modelkit.cli.output import two_columns
from modelkit.cli.saving import check_outputs, keeping
from modelkit.errors import unknown_name
from modelkit.text import count

if TYPE_CHECKING:
    from modelkit.authoring.check import Finding
    from modelkit.authoring.diagnose import Diagnosis


@click.group(cls=NamingGroup, epilog=epilog("modelkit new formulation kv-mine"))
def new() -> None:
    """Write a template to start from."""


@new.command("formulation", epilog=epilog("modelkit new formulation kv-mine --extends kv-hindsight", 0, 2))
@click.argument("name")
@click.option(
    "--extends", metavar="BASE", shell_complete=completing.formulations,
    help="Write a variant of BASE.  [default: a formulation that stands alone]",
)  # fmt: skip
@click.option(
    "--output", "-o", "folder", default=".", show_default=True, metavar="FOLDER",
    type=click.Path(file_okay=False, exists=True, path_type=Path), help="Folder to write to.",
)  # fmt: skip
@debug_option
def new_formulation(name: str, extends: str | None, folder: Path) -> None:
    """Write the formulation NAME and its test; both work as written."""
    from modelkit.authoring.new import new_formulation as write

    files = write(name, folder, extends=extends)
    for file in files:
        click.echo(f"wrote {file}")
    click.echo(f"next: modelkit check {files[0]}")


@click.command(
    epilog=epilog(
        "modelkit check kv_mine.py",
        0,
        2,
        4,
        5,
        c0="all rules hold",
        c4="the time limit was over",
        c5="a rule is broken",
    )
)
@click.argument("file", shell_complete=completing.formulations)
@param_option
@click.option(
    "--instances", default=50, show_default=True, type=click.IntRange(1, 10_000), metavar="N",
    help="Number of tiny instances to compare with brute force.",
)  # fmt: skip
@time_limit_option("Limit on all of it; what is not reached by then is said; inf for none.", "inf")
@quiet_option
@debug_option
def check(file: str, params: tuple[str, ...], instances: int, time_limit: float | None, quiet: bool) -> int:
    """Check the formulation FILE, a file or a name, against every rule; print a line for each."""
    from modelkit.authoring import check as conformance
    from modelkit.formulation.parameters import parse_parameters

    parameters = parse_parameters(params)
    with progress(quiet, f"checking {Path(file).name}") as line:

        def listen(finding: Finding) -> None:
            if not quiet:
                _say_finding(finding)
            rest = conformance.ORDER[conformance.ORDER.index(finding.rule) + 1 :]
            line.says(f"checking {Path(file).name}", *rest[:1])

        def step(step: conformance.Step) -> None:
            line.says(f"checking {Path(file).name}", step.rule, f"{step.done} of {count(step.of, 'instance')}")

        found = conformance.check(
            file, parameters, instances=instances, time_limit=time_limit, listen=listen, progress=step
        )
    failed = [f.rule for f in found if f.status == "failed"]
    if quiet:
        for finding in found:
            if finding.status == "failed":
                _say_finding(finding)
    left = sum(f.status == "not reached" for f in found)
    if failed:
        click.echo(f"{file}: {count(len(failed), 'rule')} broken" + (f", {left} not reached" if left else ""))
        return 5
    if left:
        click.echo(f"{file}: {count(len(found) - left, 'rule')} hold, {left} not reached within the time limit")
        return 4
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


@click.command(epilog=epilog("modelkit show kv-hindsight", 0, 2))
@click.argument("name", shell_complete=completing.shown)
@param_option
@click.option(
    "--format", "kind", type=click.Choice(["text", "latex", "html"]), default="text", show_default=True,
    help="How to write the mathematics of a formulation.",
)  # fmt: skip
@click.option(
    "--output", "-o", default="-", metavar="PATH", shell_complete=completing.any_file,
    help="File to write.  [default: standard output]",
)  # fmt: skip
@debug_option
def show(name: str, params: tuple[str, ...], kind: str, output: str) -> None:
    """Show a formulation, policy or family: its mathematics or rule, its parameters, its reference.

    NAME is a name or a formulation file. The mathematics is generated from the model itself.
    """
    from modelkit.io import write_text

    check_outputs({"--output": output}, [name] if name.endswith(".py") else [])
    made = _shown_formulation(name, params, kind) if _is_formulation(name) else _shown_other(name)
    if output == "-":  # a terminal without ∑ and ∈ shows ? there
        click.echo(made.encode(getattr(sys.stdout, "encoding", None) or "utf-8", "replace"), nl=False)
        return
    with keeping() as keep:
        keep(lambda path: write_text(path, made), output)


def _is_formulation(name: str) -> bool:
    from modelkit.formulation.loading import formulation_files

    return name.endswith(".py") or name in formulation_files()


def _shown_formulation(name: str, params: tuple[str, ...], kind: str) -> str:
    from modelkit.authoring.show.writing import shown
    from modelkit.formulation.hosting import load_formulation
    from modelkit.formulation.loading import file_of
    from modelkit.formulation.parameters import parse_parameters

    whole = str(file_of(name).resolve()) if name.endswith(".py") else name
    text: str = load_formulation(name).apply(shown, whole, parse_parameters(params), kind)
    return text


def _shown_other(name: str) -> str:
    """A policy, family or trace format: what its registry says."""
    from modelkit.formulation.loading import formulation_files
    from modelkit.policies import policies

    generators = {**all_families(), **all_formats()}
    if name in policies():
        entry = policies()[name]
        rows = [("what", "a policy"), ("rule", entry.summary), ("reference", entry.reference)]
        rows.append(("sees", "true lengths" if entry.clairvoyant else "predicted lengths"))
        rows += [(f":{o.name}=", f"{o.help} [default: {o.default}]") for o in entry.options]
        return "\n".join([name, *(f"  {line}" for line in two_columns(rows))]) + "\n"
    if name not in generators:
        known = {*formulation_files(), *policies(), *generators}
        raise unknown_name("formulation, policy, family or format", name, known)
    generator = generators[name]
    rows = [("what", "a family of instances" if name in all_families() else "a trace format")]
    rows += [("summary", generator.summary), ("reference", generator.reference)]
    rows += [
        (f"--{o.name.replace('_', '-')}", o.help + ("" if o.default is None else f" [default: {o.default}]"))
        for o in generator.options
    ]
    return "\n".join([name, *(f"  {line}" for line in two_columns(rows))]) + "\n"


@click.command(
    epilog=epilog("modelkit diagnose instances/chat-40.json", 0, 2, 3, 4, c0="there is a schedule", c4="not known")
)
@instance_argument
@formulation_option
@param_option
@click.option(
    "--solver", "-s", default="highs", show_default=True, type=click.Choice(["highs", "scip"]),
    help="Solver that isolates the conflict.",
)  # fmt: skip
@time_limit_option("Limit on the solver; inf for none.")
@quiet_option
@debug_option
def diagnose(
    instance: str, formulation: str | None, params: tuple[str, ...], solver: str, time_limit: float | None, quiet: bool
) -> int:
    """Explain why INSTANCE has no schedule: requests that cannot be served, then conflicting constraints."""
    import modelkit as mk
    from modelkit.formulation.parameters import parse_parameters

    parameters = parse_parameters(params)
    with progress(quiet, f"diagnosing {Path(instance).name}"):
        found = mk.diagnose(mk.load(instance), formulation, solver, time_limit=time_limit, parameters=parameters)
    if not quiet:
        click.echo("\n".join(_diagnosis_lines(instance, found)))
    return {"feasible": 0, "infeasible": 3, "unknown": 4}[found.verdict]


def _diagnosis_lines(instance: str, found: Diagnosis) -> list[str]:
    head = {
        "feasible": "feasible: there is a schedule",
        "infeasible": "infeasible: no schedule exists",
        "unknown": "not known whether there is a schedule",
    }[found.verdict]
    lines = [f"{instance}: {head}" + (f" ({found.formulation})" if found.formulation else "")]
    for words in found.obstacles[:_SHOWN]:
        lines += textwrap.wrap(words, 79, initial_indent="  - ", subsequent_indent="    ")
    if len(found.obstacles) > _SHOWN:
        lines.append(f"  ... and {len(found.obstacles) - _SHOWN} more")
    if found.conflict is not None:
        by = found.conflict.solver
        words = f"these constraints contradict each other; removing any one of them resolves the conflict ({by}):"
        if not found.conflict.irreducible:
            words = f"these constraints contradict each other; not all of them may be needed for the conflict ({by}):"
        lines += textwrap.wrap(words, 79, initial_indent="  ", subsequent_indent="  ")
        for family, doc, members in found.conflict.families:
            lines += textwrap.wrap(f"{family}: {doc}", 79, initial_indent="    ", subsequent_indent="      ")
            lines += _list_names(members)
        if found.conflict.bounds:
            lines.append("    bounds of variables:")
            lines += _list_names(found.conflict.bounds)
    if found.message:
        lines += textwrap.wrap(found.message, 79, initial_indent="  ", subsequent_indent="  ")
    return lines


#: The most items of one kind that are listed.
_SHOWN = 8


def _list_names(names: Sequence[str]) -> list[str]:
    more = f" ... and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    text = ", ".join(names[:_SHOWN]) + more
    return textwrap.wrap(text, 79, initial_indent="      ", subsequent_indent="      ", break_on_hyphens=False)
