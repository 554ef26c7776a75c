"""The commands ``library list``, ``show``, ``get``, ``status`` and ``submit``."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

import modelkit as mk
from modelkit.cli import completing
from modelkit.cli.options import CONTEXT, NamingGroup, debug_option, epilog, quiet_option
from modelkit.cli.output import PRECISE, printable, say, two_columns
from modelkit.cli.saving import check_outputs, keeping
from modelkit.text import THIN, count, metric_noun, number, percent, unit_of

if TYPE_CHECKING:
    from modelkit.sources.library import Entry

name_argument = click.argument("name", metavar="NAME", shell_complete=completing.library)
trace_option = click.option(
    "--trace", metavar="FILE", shell_complete=completing.traces,
    help="The public trace that the instance is made from; `modelkit library show` says where it can be had.",
)  # fmt: skip


@click.group(cls=NamingGroup, context_settings=CONTEXT, epilog=epilog("modelkit library list"))
def library() -> None:
    """Named instances with the best values and certified bounds known, to be beaten.

    Get one, solve it, submit the result.
    """


@library.command("list", epilog=epilog("modelkit library list --family slots --open", 0, 2))
@click.option("--family", metavar="NAME", shell_complete=completing.library_families, help="Only this family.")
@click.option("--open", "only_open", is_flag=True, help="Only those whose optimum is not known.")
@debug_option
def list_(family: str | None, only_open: bool) -> None:
    """List the instances: size, status, best value, certified bound, gap."""
    from modelkit.errors import unknown_name
    from modelkit.sources.library import library_entries

    entries = library_entries()
    families = list(dict.fromkeys(entry.family for entry in entries.values()))
    if family is not None and family not in families:
        raise unknown_name("family of the library", family, families)
    for group in families if family is None else [family]:
        own = [e for e in entries.values() if e.family == group and not (only_open and e.status == "closed")]
        if not own:
            continue
        click.echo(f"{group}")
        width = max(len(entry.instance) for entry in own)
        for entry in own:
            click.echo(f"  {entry.instance:<{width}}  {_line(entry)}")


def _line(entry: Entry) -> str:
    """Size, status and bounds of an entry in one line."""
    lower, upper = (_value(value) for value in (entry.lower_bound, entry.upper_bound))
    unit = unit_of(entry.objective)
    known = f"{upper} {unit}" if entry.status == "closed" else f"{lower} .. {upper} {unit}{_gap(entry)}"
    return f"{entry.size:>5} {entry.status:<6} {known}"


def _gap(entry: Entry) -> str:
    return "" if entry.gap is None or entry.status == "closed" else f", gap {_percent(entry.gap)}"


def _value(value: float | None) -> str:
    return "?" if value is None else number(value, PRECISE)


def _percent(share: float) -> str:
    return percent(share).replace(THIN, " ")


@library.command(epilog=epilog("modelkit library show kv-synthetic-all-at-once-n20-m47-s0", 0, 2))
@name_argument
@debug_option
def show(name: str) -> None:
    """Show what is known of an instance: bounds and their history, policies, where it comes from."""
    from modelkit.sources.library import find_entry, library_folder

    entry = find_entry(name)
    rows = [
        ("family", entry.family),
        ("requests", f"{entry.size:,}"),
        ("made by", entry.description),
        ("objective", f"{metric_noun(entry.objective)} [{unit_of(entry.objective)}]"),
        ("status", entry.status + _gap(entry)),
        ("lower bound", _value(entry.lower_bound) + (" (certified)" if entry.lower_bound is not None else "")),
        ("best value", _value(entry.upper_bound)),
    ]
    found = entry.features
    named = {
        "load": found.load, "pressure": found.pressure, "variation of outputs": found.output_variation,
        "burstiness": found.burstiness,
    }  # fmt: skip
    rows.append(("features", ", ".join(f"{key} {number(x)}" for key, x in named.items() if x is not None)))
    for division, best in entry.policies.items():
        rows.append((division, f"{_value(best.value)} by {best.policy}" + _above(best.value, entry)))
    for words, history, file in (("bounds", entry.lb_data, "certificate"), ("values", entry.ub_data, "schedule")):
        for found_ in reversed(history):
            spent = "" if found_.seconds is None else f" in {found_.seconds:,.0f} s"
            on = "" if found_.machine is None else f" on {found_.machine}"
            rows.append((words, f"{_value(found_.value)}, {found_.date}, {found_.who}: {found_.method}{spent}{on}"))
            if (path := getattr(found_, file)) is not None:
                rows.append(("", str(library_folder() / path)))
            words = ""
    if entry.recipe.trace is not None:
        trace = entry.recipe.trace
        rows += [("trace", f"{trace.url} ({trace.licence})"), ("", f"sha256 {trace.sha256}")]
    click.echo(
        printable("\n".join([entry.instance, *(f"  {line}" for line in two_columns(rows, 97, split_words=False))]))
    )


def _above(value: float, entry: Entry) -> str:
    """How far a value is above the certified bound."""
    if not entry.lower_bound:
        return ""
    return f" ({_percent(max(0.0, value / entry.lower_bound - 1))} above the bound)"


@library.command(epilog=epilog("modelkit library get kv-synthetic-all-at-once-n20-m47-s0", 0, 2))
@name_argument
@trace_option
@click.option("--schedule", is_flag=True, help="Also write the best schedule known, as a result.")
@click.option("--certificate", is_flag=True, help="Also write the certificate of the best bound.")
@click.option(
    "--output", "-o", metavar="PATH", shell_complete=completing.any_file,
    help="File to write; - is standard output.  [default: NAME.json in this folder]",
)  # fmt: skip
@quiet_option
@debug_option
def get(name: str, trace: str | None, schedule: bool, certificate: bool, output: str | None, quiet: bool) -> None:
    """Write an instance of the library, byte for byte the same everywhere."""
    from modelkit.errors import UsageError
    from modelkit.sources.library import find_entry
    from modelkit.sources.library import library as instance_of

    entry = find_entry(name)
    path = output or f"{name}.json"
    files = {"--output": path}
    if schedule:
        files["--schedule"] = f"{name}.best.result.json"
    if certificate:
        files["--certificate"] = f"{name}.best.certificate.json"
    check_outputs(files, [trace])
    instance = instance_of(name, trace=trace)
    best, proof = entry.best() if schedule else None, entry.certificate() if certificate else None
    for asked, there, what in ((schedule, best, "schedule"), (certificate, proof, "certificate")):
        if asked and there is None:
            raise UsageError(f"the library has no {what} of {name} yet")
    with keeping() as keep:
        written = [keep(partial(_save_instance, instance), path, f"{name}.json")]
        if best is not None:
            written.append(keep(partial(mk.save_result, best), files["--schedule"]))
        if proof is not None:
            written.append(keep(partial(mk.save_certificate, proof), files["--certificate"]))
        if not quiet:
            say([f"{name}: {_line(entry).strip()}"], written, path)


def _save_instance(instance: mk.Instance, path: str) -> Path | None:
    mk.save_instance(instance, path)
    return None if path == "-" else Path(path)


@library.command(epilog=epilog("modelkit library status", 0))
@debug_option
def status() -> None:
    """Show how many instances of each family are closed, and how far the others and the best policies are."""
    from modelkit.sources.library import DIVISIONS, library_entries

    entries = list(library_entries().values())
    closed = Counter(entry.family for entry in entries if entry.status == "closed")
    rows = []
    for family in dict.fromkeys(entry.family for entry in entries):
        own = [entry for entry in entries if entry.family == family]
        gaps = [entry.gap for entry in own if entry.gap is not None]
        parts = [f"{count(len(own), 'instance')}, {closed[family]} closed"]
        if gaps:
            parts.append(f"gap {_percent(sum(gaps) / len(gaps))} in the mean, {_percent(max(gaps))} at most")
        for division in DIVISIONS:
            shares = [
                entry.policies[division].value / entry.lower_bound - 1
                for entry in own
                if entry.lower_bound and division in entry.policies
            ]
            if shares:
                parts.append(f"{division} {_percent(max(0.0, sum(shares) / len(shares)))}")
        rows.append((family, "; ".join(parts)))
    click.echo("\n".join(two_columns(rows)))
    click.echo(
        f"{count(len(entries), 'instance')}, {closed.total()} closed. The gap is (value - bound) / value; clairvoyant,"
        " predicted and\nblind are how far the best policy of each division is above the certified bound, in the mean."
    )


@library.command(
    epilog=epilog(
        "modelkit library submit better.result.json --who Ada",
        *(0, 2, 5),
        c0="taken",
        c2="usage, bad input, or nothing is better",
        c5="the file is wrong",
    )
)
@click.argument("file", shell_complete=completing.results)
@click.option("--who", metavar="NAME", default="anonymous", show_default=True, help="Name for the record.")
@click.option("--machine", metavar="WORDS", help="On which it was found.  [default: the number of processors]")
@click.option(
    "--folder", metavar="PATH", shell_complete=completing.any_folder,
    help="Folder of library.json to change.  [default: that of this checkout, else library/ in this folder]",
)  # fmt: skip
@trace_option
@quiet_option
@debug_option
def submit(file: str, who: str, machine: str | None, folder: str | None, trace: str | None, quiet: bool) -> None:
    """Verify a result or certificate, compare it with the best known, and write the change to library.json.

    The change is for review: commit it, or send the folder. What is wrong or no better is refused with the reason.
    """
    from modelkit.experiments.submitting import default_folder, submission, write_submission

    place = Path(folder) if folder is not None else default_folder()
    known = place if (place / "library.json").exists() else None
    found = submission(mk.load_claim(file), who=who, machine=machine, trace=trace, folder=known)
    written = write_submission(found, place)
    if not quiet:
        lines = [found.after.instance, *(f"  {words}" for words in found.changes)]
        lines += [f"  no better: {words}" for words in found.refusals]
        say([*lines, f"  status: {found.after.status}"], written, "")
        click.echo("next: review the change and send it, such as by a pull request")
