"""The commands ``compare`` and ``report``."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import modelkit as mk
from modelkit.cli import completing
from modelkit.cli.live import Line, progress
from modelkit.cli.options import (
    command_line,
    debug_option,
    epilog,
    gap_option,
    objective_option,
    param_option,
    quiet_option,
    simulation_options,
    slo_option,
    time_limit_option,
)
from modelkit.cli.output import PRECISE, remark, say
from modelkit.cli.saving import check_outputs, in_folder, keeping
from modelkit.errors import UsageError
from modelkit.text import count, number

if TYPE_CHECKING:
    from modelkit.reporting.evidence import Case


@click.command(epilog=epilog("modelkit compare instances/chat-40.json --policy mc-sf --policy svf", 0, 2, 3, 4))
@click.argument(
    "instances", nargs=-1, required=True, metavar="INSTANCE...", shell_complete=completing.json_files
)  # fmt: skip
@click.option(
    "--formulation", "-f", "formulations", multiple=True, metavar="NAME|FILE|none",
    shell_complete=completing.formulations,
    help="Formulation; repeatable.  [default: the first that suits each instance]",
)  # fmt: skip
@click.option(
    "--solver", "-s", "solvers", multiple=True, metavar="NAME", shell_complete=completing.solvers,
    help="Solver; repeatable.  [default: highs]",
)  # fmt: skip
@click.option(
    "--policy", "-p", "policies", multiple=True, metavar="[FILE.py:]NAME[:OPTION=VALUE,...]|none",
    shell_complete=completing.policies,
    help="Policy, such as svf, mc-sf:gate=8,wait=2 or mine.py:my-policy; repeatable.  [default: all that suit each"
    " instance]",
)  # fmt: skip
@simulation_options
@slo_option
@param_option
@click.option("--bound/--no-bound", default=True, show_default=True, help="Also compute the certified bound.")
@objective_option(
    "Objective to compare policies by and to bound.", "goodput", also="; goodput: requests outside their service levels"
)
@time_limit_option("Limit on each solver and bound; inf for none.")
@gap_option("Stop solvers and bounds at this relative gap, (value - bound) / value.")
@click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="Threads of each solver.  [default: shared]")
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(0), help="Seed; repeatable.  [default: 0]")
@click.option("--jobs", "-j", type=click.IntRange(1, 1024), metavar="N", help="Runs at a time.  [default: processors]")
@click.option(
    "--output", "-o", default="compare", show_default=True, metavar="FOLDER", shell_complete=completing.any_folder,
    help="Folder for the results.",
)  # fmt: skip
@click.option(
    "--report", "page", metavar="PATH.html", shell_complete=completing.any_file,
    help="The report.  [default: report.html in the folder]",
)  # fmt: skip
@quiet_option
@debug_option
def compare(
    instances: tuple[str, ...], formulations: tuple[str, ...], solvers: tuple[str, ...], policies: tuple[str, ...],
    params: tuple[str, ...], bound: bool, seeds: tuple[int, ...], jobs: int | None, output: str, page: str | None,
    quiet: bool, **settings: Any,
) -> int:  # fmt: skip
    """Run formulations with solvers, policies and the bound on the same instances, and write a report.

    Runs are parallel processes; one that fails is reported and does not stop the others. The folder holds the
    instances, a result for each run, and the report; with several instances also a page for each of them.
    A parameter goes to every formulation that has it; predictions and limits of the engine go to the policies.
    """
    from modelkit.formulation.parameters import parse_parameters
    from modelkit.reporting.comparison import Comparison
    from modelkit.reporting.evidence import by_instance
    from modelkit.reporting.render import report_comparison

    chosen: dict[str, Any] = {"formulations": _names(formulations), "policies": _names(policies)}
    path = page or in_folder(output, "report.html")
    check_outputs({"--output": in_folder(output, "report.html"), "--report": page}, instances)
    with progress(quiet, "planning") as line:
        runs = _RunsInProgress(line)
        comparison: Comparison = mk.compare(
            instances, output, solvers=solvers or ("highs",), bound=bound, parameters=parse_parameters(params),
            seeds=seeds or (0,), jobs=jobs, command=command_line(), started=runs.started,
            finished=runs.finished, **chosen, **settings,
        )  # fmt: skip
    with keeping() as keep:
        written = keep(lambda place: report_comparison(comparison, place), path, "report.html")
        for words in comparison.left_out:
            remark("left out", words)
        if not quiet:
            for of_one in by_instance(comparison.cases):
                for case in of_one:
                    _print_case(case, titled=len(of_one) > 1 or bool(case.goal.variant))
            click.echo(f"results in {output}{os.sep}")
            if written is not None:
                click.echo(f"report  in {written}")
    if comparison.interrupted:
        remark("note", "only the runs shown were done")
        return 130
    return max(_outcome(of_one) for of_one in by_instance(comparison.cases))


def _outcome(found: list[Case]) -> int:
    """Exit code of what was found on one instance."""
    if any(case.valid for case in found):
        return 0
    return 3 if any(case.infeasible for case in found) else 4


def _names(given: tuple[str, ...]) -> list[str] | None:
    """What was asked for; None for the default, nothing for ``none``."""
    if "none" in given and len(set(given)) > 1:
        raise UsageError("'none' cannot be combined with other names")
    return [] if "none" in given else list(given) or None


@click.command(epilog=epilog("modelkit report chat-40.*.result.json -o chat-40.html", 0, 2))
@click.argument("results", nargs=-1, required=True, metavar="RESULT...", shell_complete=completing.results)
@click.option(
    "--output", "-o", default="report.html", show_default=True, metavar="PATH", shell_complete=completing.any_file,
    help="File to write; - is standard output.",
)  # fmt: skip
@click.option(
    "--instance", "-i", "instances", multiple=True, metavar="INSTANCE", shell_complete=completing.json_files,
    help="An instance that the results are about; repeatable.  [default: found by its hash beside them]",
)  # fmt: skip
@click.option(
    "--formulation", "-f", "formulations", multiple=True, metavar="NAME|FILE",
    shell_complete=completing.formulations,
    help="A formulation whose rules judge its results; repeatable.  [default: those that modelkit finds]",
)  # fmt: skip
@click.option("--title", help="Title of the page.")
@quiet_option
@debug_option
def report(
    results: tuple[str, ...], output: str, instances: tuple[str, ...], formulations: tuple[str, ...],
    title: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Write an HTML report from result and certificate files; nothing is run.

    RESULT is a file, or a folder whose result and certificate files are taken. Results about one instance
    give a page on it; results about several, a summary. Schedules are replayed and certificates recomputed
    where the instance is available; otherwise the page says that it was not. Results of different problems, such as
    those of a variant with an objective of its own, are not compared with each other.
    """
    files = [path for path in results if not os.path.isdir(path)]
    check_outputs({"--output": output}, [*files, *instances])
    with keeping() as keep:
        known = [mk.load(i) for i in instances]
        written = keep(
            lambda path: mk.report(results, path, instances=known, formulations=formulations, title=title),
            output, "report.html",
        )  # fmt: skip
        if not quiet and written is not None:
            say([f"{written.stat().st_size / 1e6:.2f} MB"], [written], output)


# --- what is seen ---------------------------------------------------------------------------------


def _table_width() -> int | None:
    """Columns for a table: what COLUMNS says, else 80; None where a terminal tells."""
    if sys.stdout is not None and sys.stdout.isatty():
        return None
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and 0 < int(columns) < 10_000 else 80


def _print_case(case: Case, titled: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from modelkit.text import percent, seconds

    def plain(text: str) -> Text:
        return Text(text.replace("\u202f", " "))

    console = Console(highlight=False, width=_table_width())
    goal = case.goal
    name = f"{case.name} ({count(case.stamp.requests, 'request')}" + (f", {goal.title})" if titled else ")")
    console.print(plain(f"\n{name}: {case.headline}."))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("run", overflow="fold", min_width=12)
    noun = "\n".join(textwrap.wrap(goal.noun, 14))  # else it takes the place of what follows
    for name in (noun, "bound", "gap", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", overflow="fold")
    for e in sorted(case.entries, key=lambda e: (e.value is None, e.value or 0.0)):
        gap, spent, own = case.gap(e), e.result.seconds.total, e.result.objective
        shown = goal.quantity(own.bound if own.name == goal.objective else None)
        shown += "*" if own.bound_by == "solver" else ""
        cells = (
            e.label, goal.quantity(e.value), shown, "–" if gap is None else percent(gap, "up"),
            "–" if spent is None else seconds(spent), e.words,
        )  # fmt: skip
        table.add_row(*(plain(cell) for cell in cells))
    console.print(table)
    notes = []
    if case.bound is not None:
        notes.append(f"gap: {case.reference_words}")
    if any(e.result.objective.bound_by == "solver" for e in case.entries):
        notes.append("* claimed by the solver, not checked")
    if notes:
        console.print(plain("; ".join(notes)))


class _RunsInProgress:
    """Runs done, failed and in progress, for the line on the terminal."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.running: dict[str, str] = {}
        self.done = self.failed = self.of = 0

    def started(self, run: Any) -> None:
        """One more is in progress."""
        self.running[run.key] = f"{run.label} on {Path(run.instance).name.partition('.json')[0]}"
        self.show()

    def finished(self, done: Any, of: int) -> None:
        """One is over."""
        self.running.pop(done.run.key, None)
        self.done, self.of = self.done + 1, of
        self.failed += done.result.status in ("no_schedule", "infeasible")
        value = done.result.objective.value
        self.line.above(f"{done.run.label}: {done.result.status}, {'–' if value is None else number(value, PRECISE)}")
        self.show()

    def show(self) -> None:
        """Say it."""
        words = f"{self.done}/{self.of} runs" if self.of else "running"
        failed = [f"{self.failed} without a schedule"] if self.failed else []
        self.line.says(words, *failed, *list(self.running.values())[:3])
