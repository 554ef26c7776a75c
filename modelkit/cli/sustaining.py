"""The command ``sustain``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import modelkit as mk
from modelkit.cli import completing
from modelkit.cli.live import progress
from modelkit.cli.options import (
    Number,
    command_line,
    debug_option,
    epilog,
    quiet_option,
    report_option,
    simulation_options,
    slo_option,
)
from modelkit.cli.output import remark, say, two_columns
from modelkit.cli.saving import check_outputs, keeping
from modelkit.text import THIN, percent, quantity

if TYPE_CHECKING:
    from modelkit.experiments.sustain import PolicyLimit, Sustained


@click.command(
    epilog=epilog(
        "modelkit sustain trace.json -p mc-sf --slo mlperf:llama2-70b", 0, 2, 3, 4,
        c3="proven that nobody keeps the levels at any rate", c4="no policy keeps them at any value that was tried",
    )
)  # fmt: skip
@click.argument("source", metavar="INSTANCE|FAMILY", shell_complete=completing.instances_and_families)
@click.option(
    "--policy", "-p", "policies", multiple=True, required=True, metavar="[FILE.py:]NAME[:OPTION=VALUE,...]",
    shell_complete=completing.policies, help="Policy; repeatable.",
)  # fmt: skip
@slo_option
@click.option(
    "--over", type=click.Choice(["rate", "kv-capacity", "slots"]), default="rate", show_default=True,
    help="What to look for: the largest rate, or at a rate the least KV capacity or the fewest slots.",
)  # fmt: skip
@click.option(
    "--rate", type=Number(1e-6, 1e9, "a number of requests/s above 0"), metavar="RATE",
    help="Requests/s, where capacity or slots are looked for.  [default: the instance's]",
)  # fmt: skip
@click.option(
    "--percentile", type=Number(0.001, 100, "above 0, at most 100"), default=99.0, show_default=True, metavar="P",
    help="Percentage of the requests that must keep their levels.",
)  # fmt: skip
@click.option("--seeds", type=click.IntRange(1, 1000), default=5, show_default=True, metavar="N", help="Draws.")
@click.option(
    "--requests", type=click.IntRange(1), metavar="N", help="Requests of each draw.  [default: all; 3000 of a family]"
)
@click.option(
    "--arrivals", type=click.Choice(["poisson", "own"]), default="poisson", show_default=True,
    help="Poisson arrivals of the requests in another order, or their own arrivals, faster or slower.",
)  # fmt: skip
@click.option(
    "--server", metavar="NAME|FILE", shell_complete=completing.servers,
    help="Server.  [default: the instance's; a family needs one]",
)  # fmt: skip
@simulation_options
@click.option("--bound/--no-bound", default=True, show_default=True, help="Also prove what nobody can exceed.")
@click.option(
    "--tolerance", type=Number(1e-4, 0.5, "0.0001 to 0.5"), default=0.01, show_default=True, metavar="REL",
    help="Stop when the values on both sides of a limit differ by this share.",
)  # fmt: skip
@click.option("--jobs", "-j", type=click.IntRange(1, 1024), metavar="N", help="Runs at a time.  [default: processors]")
@click.option(
    "--output", "-o", "folder", metavar="FOLDER", shell_complete=completing.any_folder,
    help="Folder for what was tried, which is not tried again, and for certificates.  [default: named after SOURCE]",
)  # fmt: skip
@report_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@quiet_option
@debug_option
def sustain(source: str, as_json: bool, page: str | None, quiet: bool, **options: Any) -> int:
    """How much load policies sustain within service levels, and what nobody can.

    The largest rate at which each policy keeps the service levels for --percentile of the requests, by bisection over
    several draws, beside the rate that is proven to be beyond every policy. Or, at a given rate, the least KV capacity
    or the fewest slots that suffice. A search that was stopped goes on where it was.
    """
    check_outputs({"--report": page}, [])
    with progress(quiet or as_json, "sustain") as line:
        found = mk.sustain(source, listen=line.hear, **options)
    written: list[Path | None] = list(found.save())
    if page is not None:
        from modelkit.experiments.sustain import sustain_page

        with keeping() as keep:
            written.append(keep(lambda path: sustain_page(found, path, command_line()), page, "sustain.html"))
    if as_json:
        click.echo(json.dumps(found.document(), ensure_ascii=False, allow_nan=False))
    elif not quiet:
        for words in found.remarks:
            remark("note", words)
        say(_lines(found), written, "")
    return _code(found)


def _code(found: Sustained) -> int:
    if found.interrupted:
        return 130
    if found.best is not None:
        return 0
    return 3 if found.over == "rate" and found.in_the_long_run == 0 else 4


def _lines(found: Sustained) -> list[str]:
    """The sentence, and a line for each policy and each proof."""
    rows = [(limit.policy, _limit_words(found, limit)) for limit in found.limits]
    if found.in_the_long_run is not None:
        rows.append(("nobody", f"{found.amount(found.in_the_long_run)} in the long run, by a proof in closed form"))
    if found.certified is not None:
        rows.append(("nobody", f"{found.amount(found.certified)}, of these requests, certified for each draw"))
    sentence = [line for line in two_columns([("", found.sentence)]) if line.strip()]
    return [*(line.strip() for line in sentence), *(f"  {line}" for line in two_columns(rows, 77))]


def _limit_words(found: Sustained, limit: PolicyLimit) -> str:
    at = limit.at_limit
    if at is None:
        return "none"
    words = found.amount(limit.value)
    if limit.low is not None and limit.high is not None:
        words += f" (95 %: {found.amount(limit.low).partition(' ')[0]} to {found.amount(limit.high).partition(' ')[0]})"
    parts = [f"{percent(at.share, 'down')} within"]
    for name, metric in (("TTFT p99", "p99_ttft_ms"), ("TPOT p99", "p99_tpot_ms")):
        if (mean := at.mean(metric)) is not None:
            parts.append(f"{name} {quantity(metric, mean)}")
    return f"{words}; {', '.join(parts)}".replace(THIN, " ")
