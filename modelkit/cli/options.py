"""What the commands share: options, settings of Click, the exit codes."""

from __future__ import annotations

import math
import shlex
import sys
import textwrap
from collections.abc import Callable
from typing import Any, TypeVar

import click

from modelkit.cli import completing
from modelkit.errors import did_you_mean, shown

F = TypeVar("F", bound=Callable[..., Any])

#: Longest time limit [s]: a thousand years, which every clock and solver stands.
MOST_SECONDS = 3e10

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

#: What the exit codes mean; `epilog` says which of them a command has.
_MEANINGS = {
    0: "done",
    1: "an unexpected fault",
    2: "usage, bad input, or a file that cannot be written",
    3: "proven infeasible",
    4: "stopped without a schedule",
    5: "found wrong",
    130: "interrupted by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP; what was found is written",
}


def epilog(example: str | None, *codes: int, **meanings: str) -> str:
    """The end of a help text: an example, and what the exit codes mean.

    Parameters
    ----------
    codes
        Those that the command can return; 1 and 130 any can. None of a group, which returns those of its commands.
    meanings
        Other words: ``c0="a valid schedule"``.
    """
    parts = [f"\b\nExample:\n  {example}"] if example else []
    if codes:
        words = {code: meanings.get(f"c{code}", _MEANINGS[code]) for code in sorted({*codes, 1, 130})}
        text = f"Exit codes: {'; '.join(f'{code} {meaning}' for code, meaning in words.items())}."
        parts.append("\b\n" + textwrap.fill(text, 76, subsequent_indent="  "))
    return "\n\n".join(parts)


def _set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().obj["debug"] = True


class Number(click.ParamType):  # type: ignore[type-arg]  # not generic in older versions
    """A finite number in a range.

    Parameters
    ----------
    least, most
        Both allowed.
    allowed
        The range in words.
    """

    name = "float"

    def __init__(self, least: float = -math.inf, most: float = math.inf, allowed: str = "a finite number") -> None:
        self._least, self._most, self._allowed = least, most, allowed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and self._least <= number <= self._most):
            self.fail(f"found {shown(str(value))}; allowed: {self._allowed}", param, ctx)
        return number


class _Seconds(Number):
    """A time limit: a number of seconds, or None for ``inf``."""

    def __init__(self) -> None:
        super().__init__(0, MOST_SECONDS, f"0 to {MOST_SECONDS:,.0f} seconds, or inf for no limit")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        unlimited = isinstance(value, str) and value.strip().lower() in ("inf", "infinity")
        return None if unlimited else super().convert(value, param, ctx)


class NamingGroup(click.Group):
    """A group that names the nearest of its commands for one that it does not have."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            known = self.list_commands(ctx)
            near = did_you_mean(name, known) or f"; there is {', '.join(known)}"
            ctx.fail(f"No such command {shown(name)}{near}")
        return super().resolve_command(ctx, args)


def time_limit_option(words: str, default: float | str = 60.0) -> Callable[[F], F]:
    """``--time-limit``, None for inf; ``words`` say what it limits."""
    return click.option(
        "--time-limit", default=default, show_default=True, type=_Seconds(), metavar="SECONDS", help=words
    )


def gap_option(words: str, *, one: bool = False) -> Callable[[F], F]:
    """``--gap``; whether it may be ``one``."""
    kind = Number(0, 1, "0 to 1") if one else Number(0, math.nextafter(1, 0), "0 or more, less than 1")
    return click.option("--gap", default=0.0, show_default=True, type=kind, metavar="REL", help=words)


def objective_option(words: str, *more: str, also: str = "") -> Callable[[F], F]:
    """``--objective``; ``words`` say what it is for, ``also`` what ``more`` objectives are."""
    return click.option(
        "--objective", type=click.Choice(["latency", "makespan", "ttft", *more]),
        help=f"{words} Total latency, makespan, or total time to first token{also}.  [default: latency, or the makespan"
        " of slots in stages]",
    )  # fmt: skip


instance_argument = click.argument("instance", shell_complete=completing.json_files)
debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show the traceback of an error."
)
output_option = click.option(
    "--output", "-o", metavar="PATH", shell_complete=completing.any_file,
    help="File to write; - is standard output.  [default: named after the run]",
)  # fmt: skip
report_option = click.option(
    "--report", "page", metavar="PATH.html", shell_complete=completing.any_file, help="Also write an HTML report."
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print only errors.")
seed_option = click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Random seed.")
param_option = click.option(
    "--param", "-P", "params", multiple=True, metavar="NAME=VALUE",
    help="Parameter of the formulation, the value as JSON; repeatable.  [default: the instance's extra]",
)  # fmt: skip
formulation_option = click.option(
    "--formulation", "-f", metavar="NAME|FILE", shell_complete=completing.formulations,
    help="Formulation.  [default: the first that suits]",
)  # fmt: skip

PREDICTIONS_HELP = (
    "What policies see of output lengths: exact, noise:0.2, interval:0.3, class:100 or class:64,128,256."
    "  [default: what the instance says]"
)


def simulation_options(command: F) -> F:
    """What policies see, and what limits the engine that they run on: for every command that runs policies."""
    for option in reversed((
        click.option("--predictions", metavar="MODEL", help=PREDICTIONS_HELP),
        click.option("--max-batch", type=click.IntRange(1), metavar="N", help="At most N requests in progress."),
        click.option(
            "--max-batch-tokens", type=click.IntRange(1), metavar="N",
            help="At most N tokens in an iteration: prompt tokens plus one for each decoding request.",
        ),
        click.option(
            "--chunked-prefill", is_flag=True, help="Split prompts to fill iterations up to --max-batch-tokens."
        ),
    )):  # fmt: skip
        command = option(command)
    return command


slo_option = click.option(
    "--slo", multiple=True, metavar="[CLASS:]LIMITS", shell_complete=completing.service_levels,
    help="Service levels: ttft=450ms,tpot=40ms,latency=20s, any of them, or mlperf:NAME; after CLASS: for the requests"
    " of a class; repeatable.  [default: the instance's]",
)  # fmt: skip


def command_line() -> str:
    """The command as it was typed, for the record."""
    return shlex.join(["modelkit", *sys.argv[1:]])
