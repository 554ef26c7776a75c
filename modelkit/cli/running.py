"""The commands that run something: ``solve``, ``simulate``, ``bound``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import modelkit as mk
from modelkit.cli.options import EXIT_CODES, debug_option, output_option, quiet_option, seed_option
from modelkit.cli.output import file_stem, keep, progress, say, summary
from modelkit.errors import UsageError


@click.command(epilog=EXIT_CODES)
@click.argument("instance")
@click.option("--formulation", "-f", metavar="NAME|FILE", help="Formulation.  [default: the first that suits]")
@click.option("--solver", "-s", metavar="NAME", help="Solver.  [default: highs; diagram first where it suits]")
@click.option(
    "--time-limit", default=60.0, show_default=True, type=click.FloatRange(0), metavar="SECONDS",
    help="Limit of the solver; inf for none.",
)  # fmt: skip
@click.option(
    "--gap", default=0.0, show_default=True, type=click.FloatRange(0, 1), metavar="REL",
    help="Stop at this gap (value - bound) / value.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="Threads.  [default: the solver's]")
@seed_option
@click.option(
    "--warm-start", default="best", show_default=True, metavar="POLICY|best|none",
    help="Policy to start from in hindsight; best: a local search from the best of them.",
)  # fmt: skip
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Option of the solver; repeatable.")
@output_option
@quiet_option
@debug_option
def solve(instance: str, options: tuple[str, ...], output: str | None, quiet: bool, **settings: Any) -> int:
    """Solve INSTANCE with a formulation, judge the schedule, write a result."""
    loaded = mk.load(instance)
    settings["options"] = dict(_key_value(option) for option in options)
    if settings["time_limit"] == float("inf"):
        settings["time_limit"] = None
    with progress(quiet) as listen:
        result = mk.solve(loaded, listen=listen, **settings)
    stem = file_stem(instance, loaded.name)
    path = output or f"{stem}.{result.producer.name}.{result.producer.solver}.result.json"
    written = keep(result, path)
    if not quiet:
        say(summary(result), written, path)
    if result.stop == "interrupted":
        return 130
    return {"optimal": 0, "feasible": 0, "infeasible": 3, "no_schedule": 4}[result.status]


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--option takes KEY=VALUE, found {text!r}")
    return key, value


@click.command(epilog=EXIT_CODES)
@click.argument("instance")
@click.option("--policy", "-p", "policies", multiple=True, required=True, metavar="NAME", help="Policy; repeatable.")
@seed_option
@click.option(
    "--slots-at", multiple=True, metavar="SECONDS=SLOTS",
    help="From then on so many of the server's slots are open; repeatable, in time order.",
)  # fmt: skip
@output_option
@quiet_option
@debug_option
def simulate(
    instance: str, policies: tuple[str, ...], seed: int, slots_at: tuple[str, ...], output: str | None, quiet: bool
) -> int:
    """Run online policies on INSTANCE, judge them, write a result each.

    With several policies, --output names a folder.
    """
    loaded = mk.load(instance)
    stem = file_stem(instance, loaded.name)
    codes = []
    for policy in dict.fromkeys(policies):
        result = mk.simulate(loaded, policy, seed=seed, slots_over_time=[_slot_change(c) for c in slots_at] or None)
        path = f"{stem}.{policy}.result.json"
        if output is not None:
            path = output
            if len(policies) > 1 and output != "-":
                Path(output).mkdir(parents=True, exist_ok=True)
                path = str(Path(output) / f"{stem}.{policy}.result.json")
        written = keep(result, path)
        if not quiet:
            say(summary(result), written, path)
        codes.append(0 if result.status in ("optimal", "feasible") else 4)
    return max(codes)


def _slot_change(text: str) -> tuple[float, int]:
    at, _, count = text.partition("=")
    try:
        return float(at), int(count)
    except ValueError:
        raise UsageError(f"--slots-at takes SECONDS=SLOTS, found {text!r}") from None


@click.command(epilog=EXIT_CODES)
@click.argument("instance")
@click.option(
    "--time-limit", default=60.0, show_default=True, type=click.FloatRange(0), metavar="SECONDS",
    help="For prices and local search; inf for a fixed amount of work.",
)  # fmt: skip
@click.option(
    "--gap", default=0.0, show_default=True, type=click.FloatRange(0, 1, max_open=True), metavar="REL",
    help="Stop at this gap (value - bound) / value.",
)  # fmt: skip
@click.option("--schedule", metavar="PATH", help="Write the best schedule found too, as a result.")
@seed_option
@output_option
@quiet_option
@debug_option
def bound(
    instance: str, time_limit: float, gap: float, schedule: str | None, seed: int, output: str | None, quiet: bool
) -> None:
    """Compute a lower bound on the total latency of INSTANCE that anyone can recheck; write a certificate.

    A schedule close to the bound is found on the way.
    """
    loaded = mk.load(instance)
    with progress(quiet) as listen:
        limit = None if time_limit == float("inf") else time_limit
        found = mk.bound(loaded, time_limit=limit, gap=gap, seed=seed, listen=listen)
    path = output or f"{file_stem(instance, loaded.name)}.certificate.json"
    written = mk.save_certificate(found.certificate, path)
    if not quiet:
        say(summary(found.result), written, path)
    if schedule is not None:
        kept = mk.save_result(found.result, schedule)
        if not quiet:
            say([], kept, schedule if path != "-" else "-")
