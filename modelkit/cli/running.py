"""The commands that run something: ``solve``, ``simulate``, ``bound``."""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import click

import modelkit as mk
from modelkit.cli import completing
from modelkit.cli.live import progress
from modelkit.cli.options import (
    debug_option,
    epilog,
    formulation_option,
    gap_option,
    instance_argument,
    objective_option,
    output_option,
    param_option,
    quiet_option,
    report_option,
    seed_option,
    simulation_options,
    slo_option,
    time_limit_option,
)
from modelkit.cli.output import bound_summary, remark, say, summary, with_this_command
from modelkit.cli.saving import Keeper, check_outputs, file_name, file_stem, in_folder, keeping
from modelkit.errors import UsageError, shown
from modelkit.text import values_in_a_name


@click.command(epilog=epilog("modelkit solve instances/chat-40.json --solver scip --time-limit 120", 0, 2, 3, 4))
@instance_argument
@formulation_option
@param_option
@click.option(
    "--solver", "-s", metavar="NAME", shell_complete=completing.solvers,
    help="Solver.  [default: highs; diagram first where it suits]",
)  # fmt: skip
@time_limit_option("Limit on the whole solve; inf for none.")
@gap_option("Stop at this relative gap, (value - bound) / value.", one=True)
@click.option(
    "--threads", type=click.IntRange(1, 1024), metavar="N", help="Number of threads.  [default: the solver's]"
)
@seed_option
@click.option(
    "--warm-start", default="best", show_default=True, metavar="POLICY|best|none",
    shell_complete=completing.warm_starts,
    help="Schedule to start from: that of POLICY told the true lengths; best: a local search from the best one.",
)  # fmt: skip
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Option of the solver; repeatable.")
@click.option(
    "--relax", is_flag=True,
    help="Solve the linear relaxation alone: its optimum, duals and reduced costs, and a certificate where they prove"
    " the bound. No schedule.",
)  # fmt: skip
@click.option(
    "--objective", type=click.Choice(["goodput"]),
    help="goodput: a schedule in which many requests keep their service levels, by search and with a certified bound."
    "  [default: that of the formulation]",
)  # fmt: skip
@slo_option
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
    """Solve INSTANCE with a formulation, judge the schedule, and write a result."""
    from modelkit.formulation.parameters import parse_parameters

    settings["options"] = dict(_key_value(option) for option in options)
    settings["parameters"] = parse_parameters(params)
    with progress(quiet) as line:
        loaded = mk.load(instance)
        stem = file_stem(instance, loaded.name)
        own = settings["formulation"] if str(settings["formulation"]).endswith(".py") else None
        check_outputs({"--output": output or _name_file(stem), "--report": page}, [instance, own])
        result = with_this_command(mk.solve(loaded, listen=line.hear, **settings))
    mark = values_in_a_name(settings["parameters"])
    relaxed = "relaxed" if settings["relax"] else ""
    path = output or _name_file(stem, result.producer.name, mark, result.producer.solver, relaxed)
    with keeping() as keep:
        written = [
            keep(partial(mk.save_result, result), path, _name_file(stem)),
            _report(keep, [result], loaded, page, settings["formulation"]),
        ]
        if not quiet:
            _say_unused(loaded, result)
            say(summary(result), written, "-" if "-" in (path, page) else path)
    if result.stop == "interrupted":
        return 130
    if result.relaxation is not None:
        return 0
    return {"optimal": 0, "feasible": 0, "infeasible": 3, "no_schedule": 4}[result.status]


def _name_file(*parts: str | None) -> str:
    return file_name(*parts, ending="result.json")


def _report(
    keep: Keeper, results: list[mk.Result], instance: mk.Instance, page: str | None,
    formulation: str | None = None,
) -> Path | None:  # fmt: skip
    """Write the report that was asked for."""
    if page is None:
        return None
    own = [formulation] if formulation else []
    return keep(lambda path: mk.report(results, path, instances=[instance], formulations=own), page, "report.html")


def _say_unused(instance: mk.Instance, result: mk.Result) -> None:
    """Name what the instance says that the formulation has no use for."""
    for key in instance.parameters.keys() - result.producer.parameters.keys():
        remark("note", f"extra.{key} is not used: {result.producer.name} has no such parameter")


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--option takes KEY=VALUE, found {text!r}")
    return key, value


@click.command(epilog=epilog("modelkit simulate instances/chat-40.json --policy mc-sf --policy svf", 0, 2, 3))
@instance_argument
@click.option(
    "--policy", "-p", "policies", multiple=True, required=True, metavar="[FILE.py:]NAME[:OPTION=VALUE,...]",
    shell_complete=completing.policies,
    help="Policy, such as svf, mc-sf:alpha=0.1 or mine.py:my-policy; repeatable. `modelkit list policies` shows the"
    " options.",
)  # fmt: skip
@simulation_options
@slo_option
@seed_option
@click.option(
    "--slots-at", multiple=True, metavar="SECONDS=SLOTS",
    help="From SECONDS on, SLOTS of the server's slots are open; repeatable, in time order.",
)  # fmt: skip
@output_option
@report_option
@quiet_option
@debug_option
def simulate(
    instance: str, policies: tuple[str, ...], slots_at: tuple[str, ...], output: str | None, page: str | None,
    quiet: bool, **settings: Any,
) -> int:  # fmt: skip
    """Run online policies on INSTANCE, judge their schedules, and write a result for each.

    With several policies, --output names a folder; with one, a file, or a folder if it exists or ends in /.
    """
    loaded = mk.load(instance)
    stem = file_stem(instance, loaded.name)
    settings["slots_over_time"] = [_slot_change(c) for c in slots_at] or None
    policies = tuple(dict.fromkeys(policies))
    if not quiet:
        _say_before(loaded, policies, settings)
    paths = _paths(stem, policies, output)
    check_outputs(
        {f"the result of {p}": paths[p] for p in policies if paths[p] != "-"} | {"--report": page}, [instance]
    )
    results = []
    for policy in policies:
        with progress(quiet, policy):
            result = with_this_command(mk.simulate(loaded, policy, **settings))
        with keeping() as keep:
            written = keep(partial(mk.save_result, result), paths[policy], _name_file(stem, _in_a_name(policy)))
            if not quiet:
                say(summary(result), [written], paths[policy])
        results.append(result)
    with keeping() as keep:
        written = _report(keep, results, loaded, page)
        if not quiet:
            say([], [written], output or "")
    return max(0 if result.status in ("optimal", "feasible") else 4 for result in results)


def _paths(stem: str, policies: tuple[str, ...], output: str | None) -> dict[str, str]:
    """Where the result of each policy goes."""
    names = {policy: _name_file(stem, _in_a_name(policy)) for policy in policies}
    if output is None:
        return names
    if output == "-" or (len(policies) == 1 and not output.endswith("/") and not os.path.isdir(output)):
        return dict.fromkeys(policies, output)
    return {policy: in_folder(output, name) for policy, name in names.items()}


def _say_before(instance: mk.Instance, names: tuple[str, ...], settings: dict[str, Any]) -> None:
    """What can be said before anything runs: the load, and policies that let requests wait on purpose."""
    from modelkit.judge.load import load, load_words
    from modelkit.policies import chosen_policy

    limits = {key: settings[key] for key in ("max_batch", "max_batch_tokens", "slots_over_time")}
    share = load(instance, **limits)
    if (words := load_words(share)) is not None:
        remark("warning", words)
    elif share is not None:
        remark("load", f"at least {share:.0%} of capacity")
    for name in names:
        entry, options = chosen_policy(name)
        if entry.lets_wait(options):
            remark(
                "note",
                f"{name} holds requests back on purpose (it is not work-conserving):"
                " it may fall behind at loads that other policies sustain",
            )


def _in_a_name(policy: str) -> str:
    """A policy and its options as part of a file's name."""
    from modelkit.policies.files import split_file

    return split_file(policy)[1].replace(":", ".").replace(",", ".").replace("/", "-")


def _slot_change(text: str) -> tuple[float, int]:
    at, _, count = text.partition("=")
    try:
        change = float(at), int(count)
    except ValueError:
        change = math.nan, 0
    if not math.isfinite(change[0]):
        raise UsageError(f"--slots-at takes SECONDS=SLOTS, such as 60=8; found {shown(text)}")
    return change


@click.command(epilog=epilog("modelkit bound instances/service-hour.json.gz --schedule best.json", 0, 2, 3))
@instance_argument
@objective_option("What to bound.", "goodput", also="; goodput: the requests that keep their service levels")
@slo_option
@time_limit_option("Limit on prices and search; inf for a fixed amount of work.")
@gap_option("Stop at this relative gap, (value - bound) / value.")
@click.option(
    "--schedule", metavar="PATH", shell_complete=completing.any_file,
    help="Also write the best schedule found, as a result.",
)  # fmt: skip
@seed_option
@output_option
@report_option
@quiet_option
@debug_option
def bound(
    instance: str, objective: str | None, time_limit: float | None, gap: float, schedule: str | None, seed: int,
    slo: tuple[str, ...], output: str | None, page: str | None, quiet: bool,
) -> int:  # fmt: skip
    """Compute a lower bound on the objective of INSTANCE that anyone can recheck; write a certificate.

    A schedule close to the bound is found on the way.
    """
    with progress(quiet) as line:
        loaded = mk.load(instance)
        path = output or file_name(file_stem(instance, loaded.name), ending="certificate.json")
        check_outputs({"--output": path, "--schedule": schedule, "--report": page}, [instance])
        found = mk.bound(
            loaded, objective=objective, time_limit=time_limit, gap=gap, seed=seed, slo=slo, listen=line.hear
        )
    result = with_this_command(found.result)
    with keeping() as keep:
        written = [keep(partial(mk.save_certificate, found.certificate), path, "certificate.json")]
        if schedule is not None:
            written.append(keep(partial(mk.save_result, result), schedule, "schedule.result.json"))
        written.append(_report(keep, [result], loaded, page))
        if not quiet:
            say(bound_summary(found), written, "-" if "-" in (path, schedule, page) else path)
    return 130 if result.stop == "interrupted" else 4 if result.status == "no_schedule" else 0
