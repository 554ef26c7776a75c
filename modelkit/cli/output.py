"""What people see."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelkit.cli.options import command_line
from modelkit.cli.streams import on_terminal
from modelkit.text import THIN, brief, count, metric_noun, milliseconds, number, percent, plural, unit_of

if TYPE_CHECKING:
    from modelkit.result import Objective, Result
    from modelkit.solving.certified import CertifiedBound

#: Digits of values and bounds, which one compares.
PRECISE = 8


def with_this_command(result: Result) -> Result:
    """The result with the command line that made it."""
    from modelkit.result import with_command

    return with_command(result, command_line())


def two_columns(rows: list[tuple[str, str]], most: int = 79, *, split_words: bool = True) -> list[str]:
    """Lines of ``most`` columns at most: names on the left, their texts wrapped on the right; paths whole if asked."""
    width = max((len(name) for name, _ in rows), default=0) + 2
    lines = []
    for name, text in rows:
        room = max(30, most - width)
        wrapped = textwrap.wrap(text, room, break_on_hyphens=False, break_long_words=split_words) or [""]
        lines.append(f"{name:<{width}}{wrapped[0]}")
        lines += [" " * width + more for more in wrapped[1:]]
    return lines


def summary(result: Result) -> list[str]:
    """A result in a few lines, for people."""
    return _lines(result, _rows(result))


def bound_summary(found: CertifiedBound) -> list[str]:
    """A bound with the best schedule, what it counts, the other bounds, and why the rest is open."""
    own = _bound_rows(found)
    rows = [row for row in _rows(found.result) if row[0] not in dict(own)]
    at = 1 + next((k for k, (name, _) in enumerate(rows) if name == "lower bound"), 0)
    return _lines(found.result, [*rows[:at], *own, *rows[at:]], "bound" if own else None)


def _bound_rows(found: CertifiedBound) -> list[tuple[str, str]]:
    """What is known of a bound beside its result; nothing where it comes alone."""
    if not found.counts:
        return []
    name, value = found.result.objective.name or "", found.result.objective.value
    if found.certificate.goodput is not None:
        return _goodput_rows(found)
    n = found.result.instance.requests if name.startswith("total_") else 1
    unit, rows = unit_of(name), []
    if n > 1 and value is not None:
        words = {"total_latency": "mean latency", "total_ttft": "mean TTFT"}[name.removesuffix(f"_{unit}")]
        rows.append((words, f"{value / n:,.1f} {unit}; no schedule is below {_down(found.value / n)} {unit}"))
    if value is not None:
        maker = found.result.producer.name
        made = "local search" if maker == "local-search" else f"the policy {maker}, told the true lengths"
        rows.append(("best schedule", f"by {made}"))
    rows.append(("this bound", f"counts {found.counts}"))
    if found.others:
        of = f"for the {'mean' if n > 1 else metric_noun(name)} [{unit}]"
        rows.append(("other bounds", f"{of}: " + ", ".join(f"{other} {_down(v / n)}" for other, v in found.others)))
    if found.open_words:
        rows.append(("about the gap", found.open_words))
    return rows


def _goodput_rows(found: CertifiedBound) -> list[tuple[str, str]]:
    """How many requests can keep their levels at most, and how many do in the best schedule found."""
    n, value = found.result.instance.requests, found.result.objective.value
    served = f"at most {n - found.value:.0f} of {count(n, 'request')}"
    rows = [("goodput", f"{served} can keep the service levels, in any schedule")]
    if value is not None:
        name = found.result.producer.name
        by = "found by a search" if name == "local-search" else f"by the policy {name}"
        rows.append(("best schedule", f"{n - value:.0f} of them do, {by}"))
    return [*rows, ("this bound", f"counts {found.counts}")]


def _down(value: float) -> str:
    """A lower bound on a time, rounded down; 0 is one, too."""
    value = max(0.0, value)
    decimals = 1 if value >= 10 or not value else 4
    return f"{math.floor(value * 10**decimals) / 10**decimals:,.{decimals}f}"


def _lines(result: Result, rows: list[tuple[str, str]], title: str | None = None) -> list[str]:
    """Rows under a title that says who made the result, and of which instance."""
    producer = result.producer
    what = title or producer.name
    if producer.solver:
        what += f" on {producer.solver}" + (f" {producer.solver_version}" if producer.solver_version else "")
    name = f" on {result.instance.name}" if result.instance.name else ""
    heading = printable(f"{what}{name} ({count(result.instance.requests, 'request')})", also="")
    return textwrap.wrap(heading, 79, subsequent_indent="  ") + [f"  {line}" for line in two_columns(rows, 77)]


def _rows(result: Result) -> list[tuple[str, str]]:
    producer, objective = result.producer, result.objective
    rows = [("status", _status_words(result))]
    if producer.parameters:
        rows.append(("parameters", parameters(producer.parameters)))
    words, per = _metric(objective), 1
    if objective.name in _MEANS:  # a total over many requests in ms says nothing
        words, per = _MEANS[objective.name], max(1, result.instance.requests)
    if objective.value is not None:
        rows.append((words, number(objective.value / per, PRECISE)))
    if objective.bound is not None:
        claimed = f"claimed by the {'solver' if producer.solver else 'search'}"
        how = "certified, recomputed exactly" if objective.bound_by == "certificate" else claimed
        gap = "" if objective.gap is None else f"; gap {objective.gap:.2%}"
        rows.append(("lower bound", f"{number(objective.bound / per, PRECISE)} ({how}{gap})"))
    rows += _relaxation(result)
    rows += _times(result)
    peak, used = result.metrics.get("peak_kv_tokens"), result.metrics.get("kv_utilisation")
    if peak and used is not None:
        rows.append(("KV cache", f"peak {count(round(peak), 'token')}, {used:.1%} used on average"))
    found, saved = result.metrics.get("prefix_hit_share"), result.metrics.get("peak_saved_tokens")
    if found is not None and saved is not None:
        rows.append(("prefixes", f"{found:.1%} of prompts found, up to {count(round(saved), 'token')} saved"))
    slots = result.metrics.get("slot_utilisation")
    if slots is not None:
        decoding = result.metrics.get("slot_decode_utilisation")
        rows.append(("slots", f"{slots:.1%} held" + ("" if decoding is None else f", {decoding:.1%} decoding")))
    if result.metrics.get("evictions"):
        rows.append(("evictions", number(result.metrics["evictions"] or 0)))
    if result.start.policy is not None:
        taken = {True: "accepted by the solver", False: "not accepted", None: "not known whether accepted"}
        if result.producer.solver is not None:
            rows.append(("started from", f"{result.start.policy} ({taken[result.start.accepted]})"))
    if result.model is not None:
        m = result.model
        rows.append(
            ("model", f"{count(m.variables, 'variable')} ({m.integers:,} integer), {count(m.constraints, 'row')},"
             f" {m.nonzeros:,} non-zeros")
        )  # fmt: skip
        if m.starts_kept is not None:
            rows.append(("start windows", f"{m.starts_kept:,} starts kept of {m.starts_in_all:,} in all"))
    spent = [f"{n} {s:.2f} s" for n in ("build", "solve", "judge") if (s := getattr(result.seconds, n)) is not None]
    if (total := result.seconds.total) is not None:
        rest = total - sum(getattr(result.seconds, n) or 0.0 for n in ("build", "solve", "judge"))
        if result.seconds.solve is None and rest >= 0.01:  # what is neither has searched
            spent.insert(0, f"search {rest:.2f} s")
        spent.append(f"in all {total:.2f} s")
    if spent:
        rows.append(("time", ", ".join(spent)))
    rows += [("violation", str(v["message"])) for v in result.violations[:5]]
    if len(result.violations) > 5:
        rows.append(("", f"... and {len(result.violations) - 5} more violations"))
    if result.message:
        rows.append(("note", result.message))
    return rows


#: Totals in real time, and what is said of them: their means.
_MEANS = {"total_latency_ms": "mean latency [ms]", "total_ttft_ms": "mean time to first token [ms]"}
#: Times of requests in real time, with their words.
_TIMES = {"latency": "latency", "ttft": "TTFT", "tpot": "TPOT"}


def _times(result: Result) -> list[tuple[str, str]]:
    """How long requests wait and the server runs, and what is within service levels, where there are some."""
    metrics, rows = result.metrics, []
    for key, words in (("mean_latency_rounds", "mean latency"), ("p99_latency_rounds", "p99 latency")):
        if (value := metrics.get(key)) is not None:
            rows.append((words, f"{number(value)} rounds"))
    for key, words in _TIMES.items():
        values = [(name, metrics.get(f"{name}_{key}_ms")) for name in ("mean", "p50", "p90", "p99")]
        if any(value is not None for _, value in values):
            parts = [f"{name} {milliseconds(value)}" for name, value in values if value is not None]
            rows.append((words, ", ".join(parts).replace(THIN, " ")))
    for unit in ("rounds", "ms"):
        made = metrics.get(name := f"makespan_{unit}")
        if made is not None and name != result.objective.name:
            words = f"{number(made)} rounds" if unit == "rounds" else milliseconds(made).replace(THIN, " ")
            rows.append(("makespan", words))
    return rows + _service_rows(result)


def _service_rows(result: Result) -> list[tuple[str, str]]:
    """Share within service levels and goodput, of all and by class."""
    rows = []
    for name, share in result.metrics.items():
        if not name.startswith("within_slo") or share is None:
            continue
        group = name.removeprefix("within_slo")
        served, tokens = (result.metrics.get(f"goodput_{what}_per_second{group}") for what in ("requests", "tokens"))
        words = f"{percent(share)}".replace(THIN, " ")
        if served is not None and tokens is not None:
            words += f"; goodput {number(served)} requests/s, {number(tokens)} tokens/s"
        rows.append((f"within SLO {group}".rstrip(), words))
    return rows


def parameters(values: dict[str, Any]) -> str:
    """Parameters in few words."""
    from modelkit.reporting.goals import whole_numbers

    return ", ".join(f"{name} = {brief(whole_numbers(value))}" for name, value in values.items())


def _relaxation(result: Result) -> list[tuple[str, str]]:
    """Optimum of a relaxation, and of which components it has duals and reduced costs."""
    found = result.relaxation
    if found is None:
        return []
    rows = [("relaxation", f"optimum {number(found.value, PRECISE)}")]
    for words, entries in (("duals", found.duals), ("reduced costs", found.reduced_costs)):
        said = ", ".join(f"{len(of):,} of {name}" for name, of in entries.items())
        rows.append((words, f"other than 0: {said}" if said else "all 0"))
    return rows


def _status_words(result: Result) -> str:
    words = {
        "optimal": "optimal: value and bound agree",
        "feasible": "feasible: a valid schedule, not proven optimal",
        "infeasible": "infeasible: no schedule exists",
        "no_schedule": "no schedule" if result.relaxation is None else "no schedule: the linear relaxation alone",
    }[result.status]
    stops = {"time_limit": "time limit reached", "interrupted": "interrupted", "failed": "not finished"}
    return words + (f" ({stops[result.stop]})" if result.stop in stops else "")


def _metric(objective: Objective) -> str:
    """The objective's name with its unit in brackets: ``total latency [rounds]``."""
    name = objective.name or ""
    unit = plural(objective.unit) if objective.unit else unit_of(name)
    return metric_noun(name) + (f" [{unit}]" if unit not in ("", "1") else "")


def printable(text: str, also: str = "\n") -> str:
    """Text with its control characters but ``also`` written out, so that a name in a file cannot move the cursor."""
    return "".join(c if c.isprintable() or c in also else repr(c)[1:-1] for c in text)


def fit_terminal(text: str) -> str:
    """Text broken between words where a terminal on standard error would break it anywhere."""
    if not on_terminal():
        return text
    return wrap_lines(text, max(40, shutil.get_terminal_size().columns))


def remark(kind: str, words: str) -> None:
    """Say on standard error what a user should know: a ``note`` or a ``warning``, in lines of 80 columns."""
    click.echo(wrap_lines(printable(f"{kind}: {words}", also=""), 79), err=True)


def wrap_lines(text: str, width: int) -> str:
    """Lines broken between words, what follows of each indented further."""
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip(" ")) + 2)
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
            drop_whitespace=True, replace_whitespace=False,
        ) or [""]  # fmt: skip
    return "\n".join(lines)


def say(lines: list[str], written: Iterable[Path | None], path: str) -> None:
    """Print for people, and the files written: on standard error when standard output carries the data."""
    for line in [*lines, *(f"  wrote {file}" for file in written if file is not None)]:
        click.echo(printable(line, also=""), err=path == "-")
