"""What the commands share: options, settings of Click, the exit codes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

EXIT_CODES = """\b
Exit codes: 0 a valid schedule or a verified file, 1 an unexpected fault,
2 usage or bad input, 3 proven infeasible, 4 stopped without a schedule,
5 verify found the file wrong, 130 interrupted (what was found is written)."""


def _set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().obj["debug"] = True


def _unlimited(_: click.Context, __: click.Parameter, seconds: float) -> float | None:
    return None if seconds == float("inf") else seconds


def time_limit_option(words: str) -> Callable[[F], F]:
    """``--time-limit``, None for inf; ``words`` say what it limits."""
    return click.option(
        "--time-limit", default=60.0, show_default=True, type=click.FloatRange(0), metavar="SECONDS",
        callback=_unlimited, help=words,
    )  # fmt: skip


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show the traceback of an error."
)
output_option = click.option(
    "--output", "-o", metavar="PATH", help="File to write; - is standard output.  [default: named after the run]"
)
report_option = click.option("--report", "page", metavar="PATH.html", help="Write an HTML report too.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
seed_option = click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the run.")
param_option = click.option(
    "--param", "-P", "params", multiple=True, metavar="NAME=VALUE",
    help="Parameter of the formulation, the value as JSON; repeatable.  [default: the instance's extra]",
)  # fmt: skip
formulation_option = click.option(
    "--formulation", "-f", metavar="NAME|FILE", help="Formulation.  [default: the first that suits]"
)

PREDICTIONS_HELP = (
    "What policies see of output lengths: exact, noise:0.2, interval:0.3, class:100 or class:64,128,256."
    "  [default: what the instance says]"
)


def command_line() -> str:
    """The command as it was typed, for the record."""
    return shlex.join(["modelkit", *sys.argv[1:]])
