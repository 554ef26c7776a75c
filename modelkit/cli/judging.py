"""The command ``judge``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import modelkit as mk
from modelkit.cli import completing
from modelkit.cli.live import progress
from modelkit.cli.options import debug_option, epilog, quiet_option, report_option, seed_option, time_limit_option
from modelkit.cli.output import remark, say, two_columns
from modelkit.cli.saving import check_outputs, in_folder, keeping, safe
from modelkit.errors import UsageError
from modelkit.text import file_name, number

if TYPE_CHECKING:
    from modelkit.experiments.logs import Judgement


@click.command(epilog=epilog("modelkit judge requests.jsonl --max-batch 128", 0, 2, 3))
@click.argument("log", shell_complete=completing.logs)
@click.option(
    "--format", metavar="NAME", shell_complete=completing.formats,
    help="Format of LOG.  [default: the one whose keys it has]",
)  # fmt: skip
@click.option(
    "--server", metavar="NAME|FILE", shell_complete=completing.servers,
    help="Server whose clock is used.  [default: the law that the log's stamps tell]",
)  # fmt: skip
@click.option("--model", metavar="NAME", shell_complete=completing.any_file, help="Only requests to this model.")
@click.option("--requests", "--first", "requests", type=click.IntRange(1), help="Take at most this many requests.")
@click.option("--skip", type=click.IntRange(0), default=0, help="Skip this many requests at the beginning.")
@click.option("--from", "from_", type=float, metavar="SECONDS", help="Leave out requests before this moment.")
@click.option("--until", type=float, metavar="SECONDS", help="Leave out requests from this moment on.")
@click.option("--kv-capacity", type=click.IntRange(1), metavar="TOKENS", help="KV capacity, where the log is silent.")
@click.option("--max-batch", type=click.IntRange(1), metavar="N", help="Requests that an engine takes at once.")
@click.option(
    "--max-batch-tokens", type=click.IntRange(1), metavar="N", help="Tokens that an iteration of an engine takes."
)
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
    A law of iteration times is fitted to these stamps. On it the engine's own policy is simulated, other policies too,
    a lower bound is certified, and a better schedule is searched for.
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
            draw = partial(mk.report, results, instances=[found.instance], title=found.sentence)
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
    """The sentence, whether the model explains the log, the law, and the table."""
    rows = [("law", _law(found))]
    if found.law is not None:
        errors = found.law.errors["decode"]
        rows.append(("error", f"{errors.mape:.2%} on average, of the decode times of {errors.points:,} requests"))
        if found.law.untold:
            rows.append(("not told", ", ".join(found.law.untold)))
    rows.append(("bound", f"{found.bound.certificate.kind}, certified, recomputed exactly"))
    return [*_wrapped(found.sentence), *_wrapped(found.verdict), "", *_table(found), "", *two_columns(rows)]


def _wrapped(text: str) -> list[str]:
    import textwrap

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


def _table(found: Judgement) -> list[str]:
    """Observed, simulated, policies, best and bound, with their metrics [s]."""
    from modelkit.experiments.logs import ENGINE, TABLE
    from modelkit.sources.logs.observed import AS_LOGGED

    others = sorted(
        ((name, r) for name, r in found.policies.items() if name != ENGINE),
        key=lambda pair: pair[1].metrics["mean_latency_ms"] or 0.0,
    )
    lines: list[tuple[str, dict[str, Any]]] = [(AS_LOGGED, dict(found.observed.metrics))]
    lines.append((f"{ENGINE}, simulated", found.simulated.metrics))
    lines += [(name, result.metrics) for name, result in others]
    lines.append((f"best found ({found.best.producer.name})", found.best.metrics))
    lines.append(("no schedule below", {"mean_latency_ms": found.least_ms}))
    cells = [["[s]", *TABLE.values()]]
    for name, metrics in lines:
        cells.append([name, *(_cell(key, metrics.get(key)) for key in TABLE)])
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in cells
    ]


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if "tpot" in key else f"{value / 1000:.2f}"
