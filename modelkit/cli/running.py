"""The commands that run something: ``solve``, ``simulate``, ``bound``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import modelkit as mk
from modelkit.cli.options import (
    EXIT_CODES,
    PREDICTIONS_HELP,
    debug_option,
    formulation_option,
    output_option,
    param_option,
    quiet_option,
    report_option,
    seed_option,
    time_limit_option,
)
from modelkit.cli.output import file_stem, keep, progress, recorded, say, summary
from modelkit.errors import UsageError
from modelkit.interrupts import interrupts_held


@click.command(epilog=EXIT_CODES)
@click.argument("instance")
@formulation_option
@param_option
@click.option("--solver", "-s", metavar="NAME", help="Solver.  [default: highs; diagram first where it suits]")
@time_limit_option("For the whole solve; inf for none.")
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
@report_option
@quiet_option
@debug_option
def solve(
    instance: str,
    options: tuple[str, ...],
    params: tuple[str, ...],
    output: str | None,
    page: str | None,
    quiet: bool,
    **settings: Any,
) -> int:
    """Solve INSTANCE with a formulation, judge the schedule, write a result."""
    from modelkit.parameters import parsed_parameters

    loaded = mk.load(instance)
    settings["options"] = dict(_key_value(option) for option in options)
    settings["parameters"] = parsed_parameters(params)
    with progress(quiet) as listen:
        result = recorded(mk.solve(loaded, listen=listen, **settings))
    names = (file_stem(instance, loaded.name), result.producer.name, result.producer.solver)
    path = output or ".".join(name for name in names if name) + ".result.json"
    written = keep(result, path)
    if not quiet:
        say(summary(result), written, path)
    _report([result], loaded, page, quiet, path)
    if result.stop == "interrupted":
        return 130
    return {"optimal": 0, "feasible": 0, "infeasible": 3, "no_schedule": 4}[result.status]


def _report(results: list[mk.Result], instance: mk.Instance, page: str | None, quiet: bool, path: str) -> None:
    """Write the report that was asked for."""
    if page is not None:
        written = mk.report(results, page, instances=[instance])
        if not quiet:
            say([], written, path)


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--option takes KEY=VALUE, found {text!r}")
    return key, value


@click.command(epilog=EXIT_CODES)
@click.argument("instance")
@click.option(
    "--policy", "-p", "policies", multiple=True, required=True, metavar="NAME[:OPTION=VALUE,...]",
    help="Policy, such as svf or mc-sf:alpha=0.1; repeatable. `modelkit list policies` shows the options.",
)  # fmt: skip
@click.option("--predictions", metavar="MODEL", help=PREDICTIONS_HELP)
@click.option("--max-batch", type=click.IntRange(1), metavar="N", help="At most so many requests in progress.")
@click.option(
    "--max-batch-tokens", type=click.IntRange(1), metavar="N",
    help="At most so many tokens in an iteration: one for each request that decodes, and prompts.",
)  # fmt: skip
@click.option("--chunked-prefill", is_flag=True, help="Split prompts to fill iterations up to --max-batch-tokens.")
@seed_option
@click.option(
    "--slots-at", multiple=True, metavar="SECONDS=SLOTS",
    help="From then on so many of the server's slots are open; repeatable, in time order.",
)  # fmt: skip
@output_option
@report_option
@quiet_option
@debug_option
def simulate(
    instance: str, policies: tuple[str, ...], slots_at: tuple[str, ...], output: str | None, page: str | None,
    quiet: bool, **settings: Any,
) -> int:  # fmt: skip
    """Run online policies on INSTANCE, judge them, write a result each.

    With several policies, --output names a folder.
    """
    loaded = mk.load(instance)
    stem = file_stem(instance, loaded.name)
    settings["slots_over_time"] = [_slot_change(c) for c in slots_at] or None
    policies = tuple(dict.fromkeys(policies))
    if not quiet:
        _say_before(loaded, policies)
    results = []
    for policy in policies:
        result = recorded(mk.simulate(loaded, policy, **settings))
        path = f"{stem}.{_in_a_name(policy)}.result.json"
        if output is not None:
            path = output
            if len(policies) > 1 and output != "-":
                Path(output).mkdir(parents=True, exist_ok=True)
                path = str(Path(output) / f"{stem}.{_in_a_name(policy)}.result.json")
        written = keep(result, path)
        if not quiet:
            say(summary(result), written, path)
        results.append(result)
    _report(results, loaded, page, quiet, output or "")
    return max(0 if result.status in ("optimal", "feasible") else 4 for result in results)


def _say_before(instance: mk.Instance, names: tuple[str, ...]) -> None:
    """What can be said before anything runs: the load, and policies that let requests wait on purpose."""
    from modelkit.policies import chosen_policy
    from modelkit.stability import load, load_words

    share = load(instance)
    if (words := load_words(share)) is not None:
        click.echo(f"warning: {words}", err=True)
    elif share is not None:
        click.echo(f"load: {share:.0%} of the server at least", err=True)
    for name in names:
        entry, _ = chosen_policy(name)
        if not entry.work_conserving:
            click.echo(
                f"note: {entry.name} lets requests wait on purpose (it is not work-conserving):"
                " it may fall behind under loads that others serve",
                err=True,
            )


def _in_a_name(policy: str) -> str:
    """A policy and its options as part of a file's name."""
    return policy.replace(":", ".").replace(",", ".")


def _slot_change(text: str) -> tuple[float, int]:
    at, _, count = text.partition("=")
    try:
        return float(at), int(count)
    except ValueError:
        raise UsageError(f"--slots-at takes SECONDS=SLOTS, found {text!r}") from None


@click.command(epilog=EXIT_CODES)
@click.argument("instance")
@time_limit_option("For prices and local search; inf for a fixed amount of work.")
@click.option(
    "--gap", default=0.0, show_default=True, type=click.FloatRange(0, 1, max_open=True), metavar="REL",
    help="Stop at this gap (value - bound) / value.",
)  # fmt: skip
@click.option("--schedule", metavar="PATH", help="Write the best schedule found too, as a result.")
@seed_option
@output_option
@report_option
@quiet_option
@debug_option
def bound(
    instance: str, time_limit: float | None, gap: float, schedule: str | None, seed: int, output: str | None,
    page: str | None, quiet: bool,
) -> int:  # fmt: skip
    """Compute a lower bound on the total latency of INSTANCE that anyone can recheck; write a certificate.

    A schedule close to the bound is found on the way.
    """
    loaded = mk.load(instance)
    with progress(quiet) as listen:
        found = mk.bound(loaded, time_limit=time_limit, gap=gap, seed=seed, listen=listen)
    path = output or f"{file_stem(instance, loaded.name)}.certificate.json"
    result = recorded(found.result)
    with interrupts_held():
        written = mk.save_certificate(found.certificate, path)
        kept = None if schedule is None else mk.save_result(result, schedule)
    if not quiet:
        say(summary(result), written, path)
        if schedule is not None:
            say([], kept, schedule if path != "-" else "-")
    _report([result], loaded, page, quiet, path)
    return 130 if result.stop == "interrupted" else 0
