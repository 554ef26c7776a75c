"""The commands ``study new``, ``study run``, ``study status``, ``study report`` and ``study export``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from modelkit.cli import completing
from modelkit.cli.live import progress
from modelkit.cli.options import CONTEXT, NamingGroup, debug_option, epilog, quiet_option
from modelkit.cli.output import remark, say, two_columns
from modelkit.cli.saving import check_outputs, file_name, keeping
from modelkit.cli.streams import on_terminal
from modelkit.text import count, join_words

if TYPE_CHECKING:
    from modelkit.experiments.study import Estimate, Status, Step, Study, Verdict

#: Runs that a dry run lists.
SHOWN = 10

study_argument = click.argument("study", metavar="STUDY", shell_complete=completing.studies)
folder_option = click.option(
    "--folder", metavar="PATH", shell_complete=completing.any_folder,
    help="Folder of the results.  [default: NAME.study, in this folder]",
)  # fmt: skip


@click.group(cls=NamingGroup, context_settings=CONTEXT, epilog=epilog("modelkit study run kv-ratio-small --jobs 2"))
def study() -> None:
    """A grid of runs, resumable, on this machine or a cluster.

    A STUDY is a TOML file, or one of the shipped studies by name; `modelkit study list` names them.
    """


@study.command("list", epilog=epilog("modelkit study list", 0))
@debug_option
def list_() -> None:
    """List the shipped studies."""
    from modelkit.experiments.study import load_study, shipped_studies

    click.echo("\n".join(two_columns([(name, load_study(name).description) for name in shipped_studies()])))


@study.command("new", epilog=epilog("modelkit study new mine", 0, 2))
@click.argument("name", metavar="NAME")
@debug_option
def new_(name: str) -> None:
    """Write NAME.toml, a commented study that runs as it stands."""
    from modelkit.experiments.study import new_study

    path = new_study(name)
    click.echo(f"wrote {path}\nnext: modelkit study run {path} --dry-run")


@study.command(epilog=epilog("modelkit study run mine.toml --jobs 4", 0, 2, 4, c4="every run failed"))
@study_argument
@folder_option
@click.option("--jobs", "-j", type=click.IntRange(1, 1024), metavar="N", help="Runs at a time.  [default: processors]")
@click.option(
    "--cluster", metavar="ADDRESS|FILE", shell_complete=completing.any_file,
    help="Dask cluster to run on: tcp://..., or its scheduler file. Two minutes without a worker end the command.",
)  # fmt: skip
@click.option("--again", is_flag=True, help="Rerun failed runs.")
@click.option(
    "--dry-run", is_flag=True,
    help="Say how many runs are left and about how long they take, by a trial of each new policy; keep nothing.",
)  # fmt: skip
@quiet_option
@debug_option
def run(
    study: str, folder: str | None, jobs: int | None, cluster: str | None, again: bool, dry_run: bool, quiet: bool
) -> int:
    """Run the unfinished runs of STUDY; safe to interrupt, rerun to resume."""
    from modelkit.experiments.study import estimate, folder_of, load_study, run_study

    loaded = load_study(study)
    before = _known(loaded, folder)
    if dry_run:
        for cell in before.left[:SHOWN]:
            click.echo(f"{cell.instance.words}: {cell.label}")
        if len(before.left) > SHOWN:
            click.echo(f"... and {len(before.left) - SHOWN:,} more")
        for line in _plan_lines(loaded, before):
            click.echo(line)
        with progress(quiet, "trying each policy"):
            needed = estimate(before.left, before.done, jobs)
        words = f"; {_estimate_words(needed)}" if before.left else ""
        click.echo(f"{count(len(before.left), 'run')} to do, {len(before.done):,} done{words}")
        return 0
    if not quiet:
        if before.stale:
            remark("note", _stale_words(before))
        click.echo(f"{loaded.name}: {count(len(before.left), 'run')} to do, {len(before.done):,} done")
    with _progress(quiet, len(before.planned)) as listen:
        after = run_study(loaded, folder, jobs=jobs, cluster=cluster, again=again, listen=listen)
    if not quiet:
        _tell(loaded, after)
        click.echo(f"  results in {folder_of(loaded, folder)}")
    return 0 if len(after.failed) < max(1, len(after.done)) else 4


@study.command(epilog=epilog("modelkit study status mine.toml", 0, 2))
@study_argument
@folder_option
@click.option("--prune", is_flag=True, help="Delete results that are no longer part of the study.")
@debug_option
def status(study: str, folder: str | None, prune: bool) -> None:
    """Show the progress of STUDY: runs done, failed, left and stale."""
    from modelkit.experiments.study import Store, folder_of, load_study
    from modelkit.experiments.study import status as status_of

    loaded = load_study(study)
    now = status_of(loaded, folder)
    _tell(loaded, now)
    if prune and now.stale:
        with Store(folder_of(loaded, folder), writing=True) as store:
            store.remove(entry.key for entry in now.stale)
        click.echo(f"{count(len(now.stale), 'stale result')} deleted")


@study.command(epilog=epilog("modelkit study export mine.toml -o mine.csv", 0, 2))
@study_argument
@folder_option
@click.option(
    "--output", "-o", metavar="PATH", shell_complete=completing.any_file,
    help="File to write, .csv or .parquet.  [default: NAME.csv]",
)  # fmt: skip
@quiet_option
@debug_option
def export(study: str, folder: str | None, output: str | None, quiet: bool) -> None:
    """Write a table of the finished runs of STUDY, one line each."""
    from modelkit.experiments.study import export as write
    from modelkit.experiments.study import load_study
    from modelkit.experiments.study import status as status_of

    loaded = load_study(study)
    path = output or file_name(loaded.name, ending="csv")
    check_outputs({"--output": path}, [study])
    now = status_of(loaded, folder)
    with keeping() as keep:
        written = keep(lambda path: write(now.done, path, now.planned), path, "study.csv")
        if not quiet:
            say([count(len(now.done), "run")], [written], path)


@study.command(epilog=epilog("modelkit study report mine.toml", 0, 2))
@study_argument
@folder_option
@click.option(
    "--output", "-o", metavar="PATH", shell_complete=completing.any_file,
    help="HTML file to write.  [default: NAME.html]",
)  # fmt: skip
@click.option("--runs", is_flag=True, help="Also a row for each run.")
@quiet_option
@debug_option
def report(study: str, folder: str | None, output: str | None, runs: bool, quiet: bool) -> None:
    """Write an HTML page of the results of STUDY so far: curves, tables over seeds, the papers' figures beside ours."""
    from modelkit.experiments.study import load_study, measure, report_study, verdicts
    from modelkit.experiments.study import status as status_of

    loaded = load_study(study)
    now = status_of(loaded, folder)
    path = output or file_name(loaded.name, ending="html")
    check_outputs({"--output": path}, [study])
    with progress(quiet, "writing the report"), keeping() as keep:
        written = keep(lambda path: report_study(loaded, folder, path, runs=runs), path, "study.html")
        if not quiet:
            lines = _describe_status(loaded, now)
            for verdict in verdicts(loaded.claims, measure(now.done)):
                lines += _verdict_lines(verdict)
            say(lines, [written], path)


# --- what people see ---------------------------------------------------------------------------


def _known(study: Study, folder: str | None) -> Status:
    """What is there before the run; nothing when the folder is new."""
    from modelkit.experiments.study import Status, cells, folder_of
    from modelkit.experiments.study import status as status_of

    if not (folder_of(study, folder) / "study.sqlite").is_file():
        return Status(cells(study), [], [])
    return status_of(study, folder)


def _stale_words(status: Status) -> str:
    return (
        f"{count(len(status.stale), 'result')} stale: no longer part of the study; they are kept on disk and ignored"
        " (`modelkit study status --prune` deletes them)"
    )


def _tell(study: Study, status: Status) -> None:
    click.echo("\n".join(_describe_status(study, status)))


def _describe_status(study: Study, status: Status) -> list[str]:
    rows = [("done", f"{len(status.done):,} of {len(status.planned):,}")]
    if status.failed:
        rows.append(("failed", f"{len(status.failed):,}"))
        rows += [("", f"{entry.label} on {entry.instance}: {entry.message}") for entry in status.failed[:5]]
        rows += [("", f"... and {len(status.failed) - 5:,} more")] if len(status.failed) > 5 else []
    if status.stale:
        rows.append(("stale", _stale_words(status)))
    other = {entry.modelkit for entry in status.done}
    if len(other) > 1:
        rows.append(("versions", f"results of modelkit {', '.join(sorted(other))}"))
    return [study.name, *(f"  {line}" for line in two_columns(rows, 77))]


def _plan_lines(study: Study, status: Status) -> list[str]:
    """The axes of the study, and how many runs of each kind are left."""
    from modelkit.experiments.study import swept_of

    swept = swept_of(study)
    rows = [
        (name, ", ".join(map(str, values[:12])) + (", ..." if len(values) > 12 else ""))
        for name, values in swept.items()
    ]
    methods = dict.fromkeys(cell.method() for cell in status.planned if cell.kind != "bound")
    rows.append(("of", join_words(list(methods), 9)))
    kinds = Counter(cell.kind for cell in status.left)
    rows += [(f"{kind} runs", f"{n:,}") for kind, n in kinds.items()]
    rows.append(("instances", f"{len({cell.instance.key for cell in status.planned}):,}"))
    return two_columns(rows)


def _estimate_words(needed: Estimate) -> str:
    """How long the runs take, and what that rests on."""
    parts = []
    if needed.likely:
        more = "more than" if needed.longer else "about"
        parts.append(f"{more} {_duration(needed.likely)}")
    if needed.at_most:
        more = " more" if parts else ""
        parts.append(f"at most {_duration(needed.at_most)}{more} for runs with a limit of time")
    if needed.unknown:
        parts.append(f"{count(needed.unknown, 'run')} of policies that were not tried")
    return f"{' and '.join(parts)}, {count(needed.jobs, 'run')} at a time"


def _verdict_lines(verdict: Verdict) -> list[str]:
    claim = verdict.claim
    figures = [
        f"{name} {_figure(value)}{' ' + claim.unit if claim.unit else ''}"
        for name, value in (("paper", claim.paper), ("ours", verdict.ours))
        if value is not None
    ]
    if verdict.low is not None and verdict.high is not None:
        figures[-1] += f" (95 %: {_figure(verdict.low)} to {_figure(verdict.high)})"
    words = f"{'; '.join(figures)}; {count(verdict.cases, 'case')}: {verdict.words}"
    return two_columns([("*", claim.says), ("", words)])


def _figure(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@contextmanager
def _progress(quiet: bool, total: int) -> Iterator[Callable[[Any], None] | None]:
    """A live bar on standard error, when that is a terminal."""
    if quiet or not on_terminal():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
        TimeRemainingColumn(), console=Console(stderr=True),
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=total)

        def listen(step: Step) -> None:
            failures = f" · {count(step.failed, 'failure')}" if step.failed else ""
            bar.update(task, completed=step.done, description=f"{step.label[:24]}{failures}")

        yield listen
