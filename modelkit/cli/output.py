"""What people see, and where results go when the disk refuses them."""

from __future__ import annotations

import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import modelkit as mk
from modelkit.cli.options import command_line
from modelkit.errors import UsageError
from modelkit.interrupts import interrupts_held

if TYPE_CHECKING:
    from modelkit.result import Result


def recorded(result: Result) -> Result:
    """The result with the command line that made it."""
    from modelkit.result import recorded as with_command

    return with_command(result, command_line())


def two_columns(rows: list[tuple[str, str]]) -> list[str]:
    """Lines of 80 columns at most: names on the left, their texts wrapped on the right."""
    width = max((len(name) for name, _ in rows), default=0) + 2
    lines = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, max(30, 79 - width)) or [""]
        lines.append(f"{name:<{width}}{wrapped[0]}")
        lines += [" " * width + more for more in wrapped[1:]]
    return lines


def summary(result: Result) -> list[str]:
    """A result in a few lines, for people."""
    producer, objective = result.producer, result.objective
    what = producer.name
    if producer.solver:
        what += f" on {producer.solver}" + (f" {producer.solver_version}" if producer.solver_version else "")
    name = f" on {result.instance.name}" if result.instance.name else ""
    rows = [("status", _status_words(result))]
    if producer.parameters:
        rows.append(("parameters", parameters(producer.parameters)))
    if objective.value is not None:
        rows.append((_metric(objective.name or ""), number(objective.value)))
    if objective.bound is not None:
        how = "certified, recomputed exactly" if objective.bound_by == "certificate" else "claimed by the solver"
        gap = "" if objective.gap is None else f"; gap {objective.gap:.2%}"
        rows.append(("lower bound", f"{number(objective.bound)} ({how}{gap})"))
    for key, words in (("mean_latency", "mean latency"), ("p99_latency", "p99 latency"), ("makespan", "makespan")):
        for unit in ("rounds", "ms"):
            value = result.metrics.get(f"{key}_{unit}")
            if value is not None and f"{key}_{unit}" != objective.name:
                rows.append((words, f"{number(value)} {unit}"))
    peak, used = result.metrics.get("peak_kv_tokens"), result.metrics.get("kv_utilisation")
    if peak and used is not None:
        rows.append(("KV cache", f"peak {number(peak)} tokens, {used:.1%} used on average"))
    slots = result.metrics.get("slot_utilisation")
    if slots is not None:
        decoding = result.metrics.get("slot_decode_utilisation")
        rows.append(("slots", f"{slots:.1%} held" + ("" if decoding is None else f", {decoding:.1%} decoding")))
    if result.metrics.get("evictions"):
        rows.append(("evictions", number(result.metrics["evictions"] or 0)))
    if result.start.policy is not None:
        taken = {True: "taken by the solver", False: "not taken", None: "whether taken is not known"}
        if result.producer.solver is not None:
            rows.append(("started from", f"{result.start.policy} ({taken[result.start.accepted]})"))
    if result.model is not None:
        m = result.model
        rows.append(
            ("model", f"{m.variables:,} variables ({m.integers:,} integer), {m.constraints:,} rows,"
             f" {m.nonzeros:,} non-zeros")
        )  # fmt: skip
        if m.starts_kept is not None:
            rows.append(("start windows", f"{m.starts_kept:,} starts kept of {m.starts_in_all:,} in all"))
    spent = [f"{n} {s:.2f} s" for n in ("build", "solve", "judge") if (s := getattr(result.seconds, n)) is not None]
    if spent:
        rows.append(("time", ", ".join(spent)))
    rows += [("violation", str(v["message"])) for v in result.violations[:5]]
    if len(result.violations) > 5:
        rows.append(("", f"... and {len(result.violations) - 5} more violations"))
    if result.message:
        rows.append(("note", result.message))
    return [f"{what}{name} ({count(result.instance.requests, 'request')})"] + [
        f"  {line}" for line in two_columns(rows)
    ]


def parameters(values: dict[str, Any]) -> str:
    """Parameters in few words."""
    return ", ".join(
        f"{name} of {count(len(value), 'request')}" if isinstance(value, dict) else f"{name} = {value:g}"
        for name, value in values.items()
    )


def _status_words(result: Result) -> str:
    words = {
        "optimal": "optimal: value and bound agree",
        "feasible": "feasible: a valid schedule, not proven optimal",
        "infeasible": "infeasible: no schedule exists",
        "no_schedule": "no schedule",
    }[result.status]
    stops = {"time_limit": "time limit reached", "interrupted": "interrupted", "failed": "not finished"}
    return words + (f" ({stops[result.stop]})" if result.stop in stops else "")


def count(n: int, noun: str) -> str:
    """``1 request``, ``2 requests``."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _metric(metric: str) -> str:
    stem, _, unit = metric.rpartition("_")
    return f"{stem.replace('_', ' ')} [{unit}]"


def number(value: float) -> str:
    """With separators; two decimals unless it is whole."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def printable(text: str, also: str = "\n") -> str:
    """Text with its control characters but ``also`` written out, so that a name in a file cannot move the cursor."""
    return "".join(c if c.isprintable() or c in also else repr(c)[1:-1] for c in text)


def fitted(text: str) -> str:
    """Text broken between words where a terminal on standard error would break it anywhere."""
    if sys.stderr is None or not sys.stderr.isatty():
        return text
    width = max(40, shutil.get_terminal_size().columns)
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip(" ")) + 2)
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
            drop_whitespace=True, replace_whitespace=False,
        ) or [""]  # fmt: skip
    return "\n".join(lines)


def say(lines: list[str], written: Path | None, path: str) -> None:
    """Print for people: on standard error when standard output carries the data."""
    for line in lines:
        click.echo(printable(line, also=""), err=path == "-")
    if written is not None:
        click.echo(printable(f"  wrote {written}", also=""), err=path == "-")


def keep(result: Result, path: str) -> Path | None:
    """Write a result; when that fails, elsewhere, so that nothing is lost. Ctrl-C waits until it is written."""
    with interrupts_held() as held:
        written = _kept(result, path)
    if held.pressed:
        raise KeyboardInterrupt
    return written


def _kept(result: Result, path: str) -> Path | None:
    try:
        return mk.save_result(result, path)
    except UsageError as error:
        rescue = Path(tempfile.gettempdir()) / Path(path).name
        if result.schedule is None or rescue.resolve() == Path(path).resolve():
            raise
        try:
            mk.save_result(result, rescue)
        except UsageError:
            for line in summary(result):
                click.echo(line, err=True)
            raise error from None
        raise UsageError(f"{error}\n  the result is kept in {rescue}") from None


def file_stem(instance: str, name: str) -> str:
    """The beginning of the names of files about an instance."""
    if instance == "-":
        safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip(".-")
        return safe or "instance"
    return Path(instance).name.removesuffix(".gz").removesuffix(".json")


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[Any], None] | None]:
    """A live line on standard error, when that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status("loading") as status:

        def listen(news: Any) -> None:
            parts = [f"{news.phase} {news.seconds:.0f} s"]
            if news.incumbent is not None:
                parts.append(f"incumbent {number(news.incumbent)}")
            if news.bound is not None:
                parts.append(f"bound {number(news.bound)}")
            if news.gap is not None:
                parts.append(f"gap {news.gap:.2%}")
            status.update(" · ".join(parts))

        yield listen
