"""The command line: parse, call, print, exit code; nothing else.

Everything but Click is imported when a command needs it, so that help appears at once.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import modelkit as mk
from modelkit.errors import ModelkitError, UsageError

if TYPE_CHECKING:
    from modelkit.registry import Maker, Option
    from modelkit.result import Result

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

EXIT_CODES = """\b
Exit codes: 0 a valid schedule or a verified file, 1 an unexpected fault,
2 usage or bad input, 3 proven infeasible, 4 stopped without a schedule,
5 verify found the file wrong, 130 interrupted (what was found is written)."""


def main() -> None:
    """Entry point of the console script."""
    settings: dict[str, Any] = {}
    try:
        code = cli.main(obj=settings, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        code = _report(error, debug=bool(settings.get("debug")))
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if isinstance(error, ModelkitError):
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    click.echo(f"unexpected fault: {type(error).__name__}: {error}", err=True)
    if not debug:
        click.echo(
            "This is a bug in modelkit. --debug shows where; `modelkit versions` belongs in the report.", err=True
        )
    return 1


def _set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().obj["debug"] = True


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show the traceback of an error."
)
output_option = click.option(
    "--output", "-o", metavar="PATH", help="File to write; - is standard output.  [default: named after the run]"
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
seed_option = click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the run.")


@click.group(context_settings=CONTEXT, epilog=EXIT_CODES)
@click.version_option(mk.__version__, prog_name="modelkit")
def cli() -> None:
    """How far from optimal is this LLM inference schedule, and can you prove it?

    An INSTANCE is a JSON file (.json or .json.gz), or - for standard input.
    """


# --- solve -------------------------------------------------------------------------------------


@cli.command(epilog=EXIT_CODES)
@click.argument("instance")
@click.option("--formulation", "-f", metavar="NAME|FILE", help="Formulation.  [default: the first that suits]")
@click.option("--solver", "-s", default="highs", show_default=True, metavar="NAME", help="Solver.")
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
    with _progress(quiet) as listen:
        result = mk.solve(loaded, listen=listen, **settings)
    stem = _stem(instance, loaded.name)
    path = output or f"{stem}.{result.producer.name}.{result.producer.solver}.result.json"
    written = _keep(result, path)
    if not quiet:
        _say(_summary(result), written, path)
    if result.stop == "interrupted":
        return 130
    return {"optimal": 0, "feasible": 0, "infeasible": 3, "no_schedule": 4}[result.status]


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--option takes KEY=VALUE, found {text!r}")
    return key, value


# --- simulate ----------------------------------------------------------------------------------


@cli.command(epilog=EXIT_CODES)
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
    stem = _stem(instance, loaded.name)
    codes = []
    for policy in dict.fromkeys(policies):
        result = mk.simulate(loaded, policy, seed=seed, slots_over_time=[_slot_change(c) for c in slots_at] or None)
        path = f"{stem}.{policy}.result.json"
        if output is not None:
            path = output
            if len(policies) > 1 and output != "-":
                Path(output).mkdir(parents=True, exist_ok=True)
                path = str(Path(output) / f"{stem}.{policy}.result.json")
        written = _keep(result, path)
        if not quiet:
            _say(_summary(result), written, path)
        codes.append(0 if result.status in ("optimal", "feasible") else 4)
    return max(codes)


def _slot_change(text: str) -> tuple[float, int]:
    at, _, count = text.partition("=")
    try:
        return float(at), int(count)
    except ValueError:
        raise UsageError(f"--slots-at takes SECONDS=SLOTS, found {text!r}") from None


# --- bound -------------------------------------------------------------------------------------


@cli.command(epilog=EXIT_CODES)
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
    with _progress(quiet) as listen:
        limit = None if time_limit == float("inf") else time_limit
        found = mk.bound(loaded, time_limit=limit, gap=gap, seed=seed, listen=listen)
    path = output or f"{_stem(instance, loaded.name)}.certificate.json"
    written = mk.save_certificate(found.certificate, path)
    if not quiet:
        _say(_summary(found.result), written, path)
    if schedule is not None:
        kept = mk.save_result(found.result, schedule)
        if not quiet:
            _say([], kept, schedule if path != "-" else "-")


# --- verify ------------------------------------------------------------------------------------


@cli.command(epilog=EXIT_CODES)
@click.argument("file")
@click.option(
    "--instance", "-i", metavar="INSTANCE",
    help="The instance.  [default: the one with the right hash beside FILE or shipped with modelkit]",
)  # fmt: skip
@quiet_option
@debug_option
def verify(file: str, instance: str | None, quiet: bool) -> int:
    """Judge the result in FILE again from its instance, or recompute the bound of a certificate exactly.

    Nothing in the file is believed.
    """
    claim = mk.load_claim(file)
    found = mk.load(instance) if instance is not None else _instance_of(claim, Path(file).parent)
    if isinstance(claim, mk.Certificate):
        verification = mk.verify_certificate(claim, found)
    else:
        verification = mk.verify_result(claim, found)
    if not quiet or not verification.holds:
        for mark, lines in (
            ("ok", verification.confirmed), ("not checked", verification.unconfirmed), ("WRONG", verification.faults)
        ):  # fmt: skip
            for line in lines[:20]:
                click.echo(f"{mark}: {line}")
            if len(lines) > 20:
                click.echo(f"{mark}: ... and {len(lines) - 20} more")
        click.echo(f"{file}: " + ("verified" if verification.holds else "refused"))
    return 0 if verification.holds else 5


def _instance_of(result: Result | mk.Certificate, folder: Path) -> mk.Instance:
    """The instance that a result is about, by its hash."""
    from modelkit.plugins import bundled

    for place in (folder, bundled("instances")):
        for path in sorted([*place.glob("*.json"), *place.glob("*.json.gz")]):
            if path.name.endswith((".result.json", ".certificate.json")):
                continue
            try:
                candidate = mk.load(path)
            except ModelkitError:
                continue
            if candidate.sha256 == result.instance.sha256:
                return candidate
    raise UsageError(
        f"no instance with the hash {result.instance.sha256[:16]}... lies beside the result; say which with --instance"
    )


# --- generate and import -----------------------------------------------------------------------


class _Makers(click.Group):
    """A group whose commands are the makers of a registry, loaded when asked for."""

    def __init__(self, *, makers: Callable[[], dict[str, Maker]], arguments: tuple[str, ...] = (), **rest: Any) -> None:
        super().__init__(**rest)
        self._makers = makers
        self._arguments = arguments

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._makers())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        maker = self._makers().get(cmd_name)
        if maker is None:
            return None

        def make(output: str | None, quiet: bool, **options: Any) -> None:
            arguments = [options.pop(name) for name in self._arguments]
            _write_instance(maker.make(*arguments, **options), output, quiet)

        command = click.Command(
            maker.name,
            params=[
                *(click.Argument([name]) for name in self._arguments),
                *(_click_option(option) for option in maker.options),
            ],
            callback=make,
            help=f"{maker.summary}.\n\n{maker.reference}.",
            short_help=maker.summary,
            context_settings=CONTEXT,
        )
        decorators: list[Callable[[click.Command], click.Command]] = [output_option, quiet_option, debug_option]
        for decorate in decorators:
            decorate(command)  # appends its option
        return command


def _click_option(option: Option) -> click.Option:
    flag = f"--{option.name.replace('_', '-')}"
    if option.kind is bool:
        return click.Option([flag], is_flag=True, help=option.help)
    kind: Any = click.Choice(option.choices) if option.choices else option.kind
    return click.Option(
        [flag], type=kind, default=option.default, show_default=option.default is not None, help=option.help
    )


def _families() -> dict[str, Maker]:
    from modelkit.families import families

    return families()


def _trace_formats() -> dict[str, Maker]:
    from modelkit.traces import trace_formats

    return trace_formats()


cli.add_command(
    _Makers(
        name="generate",
        makers=_families,
        help="Write an instance drawn from a named FAMILY.",
        subcommand_metavar="FAMILY [OPTIONS]",
    )
)
cli.add_command(
    _Makers(
        name="import",
        makers=_trace_formats,
        arguments=("trace",),
        help="Turn a public trace into an instance.",
        subcommand_metavar="FORMAT TRACE [OPTIONS]",
    )
)


def _write_instance(instance: mk.Instance, output: str | None, quiet: bool) -> None:
    path = output or f"{instance.name}.json"
    mk.save_instance(instance, path)
    if not quiet:
        _warn_of_oversized(instance)
        limits = ", ".join(
            f"{label} {value:,}"
            for label, value in (("M", instance.server.kv_capacity_tokens), ("slots", instance.server.slots))
            if value is not None
        )
        last = max(r.arrival for r in instance.requests)
        _say(
            [f"{instance.name}: {_count(len(instance.requests), 'request')}, last arrival {last:,g}"
             + (f", {limits}" if limits else "")],
            None if path == "-" else Path(path),
            path,
        )  # fmt: skip


def _warn_of_oversized(instance: mk.Instance) -> None:
    """Say which requests can never fit."""
    from modelkit.traces import oversized

    too_big = oversized(instance)
    if too_big:
        first = too_big[0]
        click.echo(
            f"warning: {len(too_big)} of {len(instance.requests)} requests can never fit"
            f" {instance.server.kv_capacity_tokens} tokens, the first {first.id!r} with"
            f" {first.prompt_tokens} + {first.output_tokens}; --drop-oversized leaves them out",
            err=True,
        )


# --- list and versions -------------------------------------------------------------------------


@cli.command("list")
@click.argument("kind", type=click.Choice(["formulations", "policies", "solvers", "families", "formats"]))
@debug_option
def list_(kind: str) -> None:
    """What there is, whether it can be used here, and why not."""
    rows: dict[str, Callable[[], list[tuple[str, str]]]] = {
        "formulations": _formulation_rows,
        "policies": _policy_rows,
        "solvers": _solver_rows,
        "families": lambda: [(e.name, e.summary) for e in _families().values()],
        "formats": lambda: [(e.name, e.summary) for e in _trace_formats().values()],
    }
    click.echo("\n".join(_two_columns(rows[kind]())))


def _formulation_rows() -> list[tuple[str, str]]:
    from modelkit.plugins import found_formulations

    return [
        (e.name, f"{e.formulation.claim}: {e.formulation.summary}" if e.formulation else f"BROKEN: {e.error}")
        for e in found_formulations()
    ]


def _policy_rows() -> list[tuple[str, str]]:
    from modelkit.policies import policies

    return [(e.name, e.summary) for e in policies().values()]


def _solver_rows() -> list[tuple[str, str]]:
    from modelkit.backends import backends

    rows = []
    for name, engine in backends().items():
        available, words = engine.availability()
        rows.append((name, f"available: {words}" if available else f"not available: {words}"))
    return rows


@cli.command()
@debug_option
def versions() -> None:
    """Versions of modelkit, Python, Pyomo and the solvers, for bug reports."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    rows = [("modelkit", mk.__version__), ("python", platform.python_version()), ("system", platform.platform())]
    for package in ("pyomo", "highspy", "pyscipopt", "numpy", "scipy", "numba", "pydantic", "networkx", "click"):
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            rows.append((package, "not installed"))
    click.echo("\n".join(_two_columns(rows)))


# --- what people see ---------------------------------------------------------------------------


def _two_columns(rows: list[tuple[str, str]]) -> list[str]:
    import textwrap

    width = max((len(name) for name, _ in rows), default=0) + 2
    lines = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, max(30, 79 - width)) or [""]
        lines.append(f"{name:<{width}}{wrapped[0]}")
        lines += [" " * width + more for more in wrapped[1:]]
    return lines


def _summary(result: Result) -> list[str]:
    """A result in a few lines, for people."""
    producer, objective = result.producer, result.objective
    what = producer.name
    if producer.solver:
        what += f" on {producer.solver}" + (f" {producer.solver_version}" if producer.solver_version else "")
    name = f" on {result.instance.name}" if result.instance.name else ""
    rows = [("status", _status_words(result))]
    if objective.value is not None:
        rows.append((_words(objective.name or ""), _number(objective.value)))
    if objective.bound is not None:
        how = "certified, recomputed exactly" if objective.bound_by == "certificate" else "claimed by the solver"
        gap = "" if objective.gap is None else f"; gap {objective.gap:.2%}"
        rows.append(("lower bound", f"{_number(objective.bound)} ({how}{gap})"))
    for key, words in (("mean_latency", "mean latency"), ("p99_latency", "p99 latency"), ("makespan", "makespan")):
        for unit in ("rounds", "ms"):
            value = result.metrics.get(f"{key}_{unit}")
            if value is not None:
                rows.append((words, f"{_number(value)} {unit}"))
    peak, used = result.metrics.get("peak_kv_tokens"), result.metrics.get("kv_utilisation")
    if peak and used is not None:
        rows.append(("KV cache", f"peak {_number(peak)} tokens, {used:.1%} used on average"))
    slots = result.metrics.get("slot_utilisation")
    if slots is not None:
        decoding = result.metrics.get("slot_decode_utilisation")
        rows.append(("slots", f"{slots:.1%} held" + ("" if decoding is None else f", {decoding:.1%} decoding")))
    if result.metrics.get("evictions"):
        rows.append(("evictions", _number(result.metrics["evictions"] or 0)))
    if result.start.policy is not None:
        taken = {True: "taken by the solver", False: "not taken", None: "whether taken is not known"}
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
    return [f"{what}{name} ({_count(result.instance.requests, 'request')})"] + [
        f"  {line}" for line in _two_columns(rows)
    ]


def _status_words(result: Result) -> str:
    words = {
        "optimal": "optimal: value and bound agree",
        "feasible": "feasible: a valid schedule, not proven optimal",
        "infeasible": "infeasible: no schedule exists",
        "no_schedule": "no schedule",
    }[result.status]
    stops = {"time_limit": "time limit reached", "interrupted": "interrupted", "failed": "not finished"}
    return words + (f" ({stops[result.stop]})" if result.stop in stops else "")


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _words(metric: str) -> str:
    stem, _, unit = metric.rpartition("_")
    return f"{stem.replace('_', ' ')} [{unit}]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def _say(lines: list[str], written: Path | None, path: str) -> None:
    """Print for people: on standard error when standard output carries the data."""
    for line in lines:
        click.echo(line, err=path == "-")
    if written is not None:
        click.echo(f"  wrote {written}")


def _keep(result: Result, path: str) -> Path | None:
    """Write a result; when that fails, elsewhere, so that nothing is lost."""
    try:
        return mk.save_result(result, path)
    except UsageError as error:
        rescue = Path(tempfile.gettempdir()) / Path(path).name
        if result.schedule is None or rescue.resolve() == Path(path).resolve():
            raise
        try:
            mk.save_result(result, rescue)
        except UsageError:
            for line in _summary(result):
                click.echo(line, err=True)
            raise error from None
        raise UsageError(f"{error}\n  the result is kept in {rescue}") from None


def _stem(instance: str, name: str) -> str:
    """The beginning of the names of files about an instance."""
    if instance == "-":
        safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip(".-")
        return safe or "instance"
    return Path(instance).name.removesuffix(".gz").removesuffix(".json")


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[Any], None] | None]:
    """A live line on standard error, when that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status("loading") as status:

        def listen(news: Any) -> None:
            parts = [f"{news.phase} {news.seconds:.0f} s"]
            if news.incumbent is not None:
                parts.append(f"incumbent {_number(news.incumbent)}")
            if news.bound is not None:
                parts.append(f"bound {_number(news.bound)}")
            if news.gap is not None:
                parts.append(f"gap {news.gap:.2%}")
            status.update(" · ".join(parts))

        yield listen


if __name__ == "__main__":
    main()
