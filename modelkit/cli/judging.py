"""The command ``judge``."""

from __future__ import annotations

import json
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import modelkit as mk
from modelkit.cli import completing
from modelkit.cli.live import progress
from modelkit.cli.options import (
    debug_option,
    epilog,
    quiet_option,
    report_option,
    seed_option,
    slo_option,
    time_limit_option,
)
from modelkit.cli.output import remark, say, two_columns
from modelkit.cli.saving import check_outputs, in_folder, keeping, safe
from modelkit.errors import UsageError
from modelkit.text import count, file_name, number

if TYPE_CHECKING:
    from modelkit.experiments.logs import Judgement
    from modelkit.sources.logs.law import Law


@click.command(epilog=epilog("modelkit judge requests.jsonl --max-batch 128", 0, 2, 3))
@click.argument("log", shell_complete=completing.logs)
@click.option(
    "--format", metavar="NAME", shell_complete=completing.formats,
    help="Format of LOG.  [default: recognised by its keys]",
)  # fmt: skip
@click.option(
    "--server", metavar="NAME|FILE", shell_complete=completing.servers,
    help="Server whose clock is used.  [default: fitted to the log's timestamps]",
)  # fmt: skip
@click.option("--model", metavar="NAME", shell_complete=completing.any_file, help="Only requests to this model.")
@click.option("--requests", "--first", "requests", type=click.IntRange(1), help="Take at most this many requests.")
@click.option("--skip", type=click.IntRange(0), default=0, help="Skip this many requests at the beginning.")
@click.option("--from", "from_", type=float, metavar="SECONDS", help="Leave out requests before this moment.")
@click.option("--until", type=float, metavar="SECONDS", help="Leave out requests from this moment on.")
@click.option("--kv-capacity", type=click.IntRange(1), metavar="TOKENS", help="KV capacity, if not in the log.")
@click.option("--max-batch", type=click.IntRange(1), metavar="N", help="Most requests in progress on one engine.")
@click.option(
    "--max-batch-tokens", type=click.IntRange(1), metavar="N", help="Most tokens in one iteration of an engine."
)
@click.option(
    "--time-unit", type=click.Choice(["s", "ms", "us", "ns"]),
    help="Unit of all times in LOG, which are then not doubted.  [default: that of its format]",
)  # fmt: skip
@slo_option
@time_limit_option("Limit on policies, bound and search.", default=30.0)
@seed_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--markdown", is_flag=True, help="Print one line of Markdown, to paste.")
@click.option(
    "--output", "-o", metavar="FOLDER", shell_complete=completing.any_folder,
    help="Write the instance, the observed run, the certificate and the best schedule to this folder.",
)  # fmt: skip
@report_option
@quiet_option
@debug_option
def judge(
    log: str, as_json: bool, markdown: bool, output: str | None, page: str | None, quiet: bool,
    time_limit: float | None, **options: Any,
) -> int:  # fmt: skip
    """How far from optimal a server was, from its LOG alone.

    LOG is a server's log or a benchmark's result with the times of first and last tokens; its format is recognised.
    A linear cost model of iteration times is fitted to them. Under this model the engine's own policy and others are
    simulated, a lower bound is certified, and a better schedule is searched for.
    """
    if as_json and markdown:
        raise UsageError("--json and --markdown exclude each other; give one")
    if time_limit is None:
        raise UsageError("--time-limit: found inf; allowed: a number of seconds")
    check_outputs({"--report": page}, [log])
    with progress(quiet or as_json or markdown, "judging") as line:
        found = mk.judge_log(log, time_limit=time_limit, listen=line.hear, **options)
    written: list[Path | None] = []
    certificate = None
    if output is not None:
        written, certificate = _write(found, output, log)
    if page is not None:
        results = [found.bound.result, found.simulated]
        results += [] if any(found.best is known for known in results) else [found.best]
        with keeping() as keep:
            draw = partial(mk.report, results, instances=[found.instance], observation=found.observation)
            written.append(keep(draw, page, "judge.html"))
    if as_json:
        click.echo(json.dumps(found.document(certificate), ensure_ascii=False, allow_nan=False))
        return 0
    if markdown:
        click.echo(found.markdown)
        return 0
    if not quiet:
        for note in found.notes:
            remark("note", note)
        say(_lines(found), written, output or "")
    return 0


def _write(found: Judgement, folder: str, log: str) -> tuple[list[Path | None], str]:
    """Write what the judgement rests on: the files, and the certificate's name."""
    from modelkit.sources.logs.observed import save_observed

    stem = safe(found.instance.name)
    writers = {
        "json": partial(mk.save_instance, found.instance),
        "observed.json": partial(save_observed, found.observed),
        "certificate.json": partial(mk.save_certificate, found.bound.certificate),
        "best.result.json": partial(mk.save_result, found.best),
    }
    paths = {ending: in_folder(folder, file_name(stem, ending=ending)) for ending in writers}
    check_outputs({f"the {ending}": path for ending, path in paths.items()}, [log])
    with keeping() as keep:
        written = [keep(_path(write), paths[ending], ending) for ending, write in writers.items()]
    return written, paths["certificate.json"]


def _path(write: Any) -> Any:
    """A writer that gives the path it wrote to."""

    def writing(path: str) -> Path | None:
        write(path)
        return Path(path)

    return writing


def _lines(found: Judgement) -> list[str]:
    """The sentence, whether the model explains the log, the cost model, and the table."""
    rows = [("cost model", _law(found))]
    if found.law is not None:
        errors = found.law.errors["decode"]
        rows.append(
            ("error", f"{errors.mape:.2%} on average, of the decode times of {count(errors.points, 'request')}")
        )
        if found.law.untold:
            rows.append(("not told", f"closer than 2 %: {_untold(found.law)}"))
    rows.append(("bound", f"{found.bound.certificate.kind}, certified, recomputed exactly"))
    return [*_wrap(found.sentence), *_wrap(found.verdict), "", *_table(found), "", *two_columns(rows)]


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, 79)


def _law(found: Judgement) -> str:
    clock = found.instance.server.clock
    parts = [
        f"{number(value)} ms {words}"
        for name, words in (
            ("base_ms", "an iteration"), ("prefill_base_ms", "with prompts"),
            ("prefill_per_token_ms", "a prompt token"), ("decode_base_ms", "with decoding"),
            ("decode_per_request_ms", "a request"),
            ("decode_per_kv_token_ms", "a KV token"),
        )
        if (value := getattr(clock, name, 0.0))
    ]  # fmt: skip
    return " + ".join(parts) or "no time"


def _untold(law: Law) -> str:
    """Coefficients that the log does not tell, with what may be added or taken."""
    parts = []
    for name in law.untold:
        value, by = getattr(law.clock, name), law.give_or_take.get(name)
        parts.append(f"{name} (±{by / value:.0%})" if by is not None and value and by < value else name)
    return ", ".join(parts)


def _table(found: Judgement) -> list[str]:
    return _align(found.rows)


def _align(rows: list[tuple[str, list[str]]], most: int = 79) -> list[str]:
    """Names on the left, broken where they are long, and cells on the right, in lines of ``most`` columns."""
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in rows), strict=True)]
    left = min(max(len(name) for name, _ in rows), max(16, most - sum(widths) - 2 * len(widths)))
    lines = []
    for name, cells in rows:
        long = any(len(word) > left - 2 for word in name.split())
        first, *more = textwrap.wrap(name, left, subsequent_indent="  ", break_on_hyphens=long)
        lines.append("  ".join([first.ljust(left), *map(str.rjust, cells, widths)]).rstrip())
        lines += more
    return lines
