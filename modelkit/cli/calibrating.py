"""The command ``calibrate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelkit.cli import completing
from modelkit.cli.live import progress
from modelkit.cli.options import debug_option, epilog, quiet_option
from modelkit.cli.output import say, two_columns
from modelkit.cli.saving import check_outputs, file_name, keeping
from modelkit.errors import UsageError
from modelkit.text import count, number

if TYPE_CHECKING:
    from modelkit.sources.calibrate import Calibration


@click.command(epilog=epilog("modelkit calibrate timings.csv -o server.json", 0, 2))
@click.argument("timings", shell_complete=completing.tables)
@click.option(
    "--where", multiple=True, metavar="COLUMN=VALUE", help="Use only rows with this value in this column; repeatable."
)
@click.option(
    "--max-prompt-tokens", type=click.IntRange(1), metavar="N",
    help="Use only iterations with at most N prompt tokens.",
)  # fmt: skip
@click.option(
    "--max-batch", type=click.IntRange(1), metavar="N", help="Use only iterations with at most N decoding requests."
)
@click.option(
    "--kv-capacity", type=click.IntRange(1), metavar="TOKENS",
    help="KV capacity of the engine, where a log has only the share in use.",
)  # fmt: skip
@click.option(
    "--output", "-o", metavar="PATH", shell_complete=completing.any_file,
    help="File to write the clock to, as an instance has it; - is standard output.  [default: TIMINGS.clock.json]",
)  # fmt: skip
@quiet_option
@debug_option
def calibrate(
    timings: str,
    where: tuple[str, ...],
    max_prompt_tokens: int | None,
    max_batch: int | None,
    kv_capacity: int | None,
    output: str | None,
    quiet: bool,
) -> None:
    """Fit a linear cost model of iteration times to TIMINGS, a table or a log, and write it as a clock.

    TIMINGS has the columns phase (prefill, decode or mixed), batch_size, prompt_tokens, kv_tokens_per_request or
    kv_tokens, and iteration_ms; or those of Splitwise's performance table. Or it is a log of iterations: forward-pass
    metrics (Dynamo, SGLang) or TensorRT-LLM's iteration statistics as JSON, or a server's log with the iteration lines
    of vLLM or TensorRT-LLM. The clock serves as `--server` of generate and import.

    The part that every iteration pays once (base_ms) needs iterations of all three phases; without them it is 0, and
    a note says so.
    """
    from modelkit.io import write_text
    from modelkit.sources.calibrate import calibrate as fit

    stem = "timings" if timings == "-" else Path(timings).name.partition(".")[0]
    path = output or file_name(stem, ending="clock.json")
    check_outputs({"--output": path}, [timings])
    kept = dict(_choice(w) for w in where)
    with progress(quiet, "fitting"):
        found = fit(
            timings, where=kept, max_prompt_tokens=max_prompt_tokens, max_batch=max_batch, kv_capacity=kv_capacity
        )
    text = json.dumps(found.document(), indent=1) + "\n"
    with keeping() as keep:
        written = keep(lambda path: write_text(path, text), path, "clock.json")
        if not quiet:
            say(_lines(found), [written], path)


def _choice(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not equals or not column:
        raise UsageError(f"--where takes COLUMN=VALUE, found {text!r}")
    return column.strip(), value.strip()


def _lines(found: Calibration) -> list[str]:
    clock = found.clock
    rows = []
    if found.base_error_ms is not None:
        rows.append(("every iteration", f"{clock.base_ms:g} ms, give or take {found.base_error_ms:.2g} ms"))
    rows += [
        ("prefill", f"{clock.prefill_base_ms:g} ms + {clock.prefill_per_token_ms:g} ms per prompt token"),
        (
            "decode",
            f"{clock.decode_base_ms:g} ms + {clock.decode_per_request_ms:g} ms per request"
            f" + {clock.decode_per_kv_token_ms:g} ms per KV token",
        ),
    ]
    for phase, errors in found.errors.items():
        rows.append(
            (
                f"{phase} error",
                f"{errors.mape:.1%} on average, {errors.worst:.1%} at worst, RMSE {errors.rmse_ms:.1f} ms"
                f" ({count(errors.points, 'point')})",
            )
        )
    spans = [f"{number(low)} to {number(high)} {name}" for name, (low, high) in found.ranges.items()]
    rows += [("valid for", span) for span in spans]
    if found.untold:
        rows.append(("not told", ", ".join(found.untold)))
    rows += [("note", note) for note in found.notes]
    return two_columns(rows)
