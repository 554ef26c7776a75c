"""The map that ``modelkit`` alone prints."""

from __future__ import annotations

import click

import modelkit as mk

#: Commands by what one wants of them, in few words. Those that there are must stand here; a test sees to it.
_MAP = {
    "get an instance": {
        "generate": "draw one from a named family",
        "import": "make one from a trace or a server's log",
        "calibrate": "fit a server's clock to measurements",
        "library": "named instances with best known values, to be beaten",
    },
    "make a schedule": {
        "solve": "by integer programming: the best schedule, with a bound",
        "simulate": "by online policies",
        "compare": "by all of them, side by side",
    },
    "prove something": {
        "bound": "a lower bound that anyone can recompute, at the size of a trace",
        "judge": "how far from optimal a server was, from its log",
        "verify": "judge a result, or recompute a certificate",
        "diagnose": "why an instance has no schedule",
    },
    "many runs, and pages": {
        "sustain": "the load at which policies keep service levels, and nobody can",
        "study": "a grid of runs that can be stopped and resumed",
        "report": "results as one HTML page",
    },
    "look around": {
        "list": "formulations, policies, solvers, families, formats",
        "show": "the mathematics of one of them",
        "versions": "for bug reports",
        "completion": "complete commands, names and files in your shell",
    },
    "write your own": {
        "new": "a formulation to start from",
        "check": "run the conformance checks on a formulation",
        "export": "models, traces and schedules for other programs",
    },
}


def map_of(cli: click.Group) -> str:
    """The commands by what one wants of them, in lines of 80 columns."""
    title = f"modelkit {mk.__version__}: how far from optimal is this schedule, and can you prove it?"
    width = max(len(name) for names in _MAP.values() for name in names)
    parts = []
    for want, names in _MAP.items():
        there = [f"  {name:<{width}}  {words}" for name, words in names.items() if name in cli.commands]
        parts.append("\n".join([want, *there]) if there else "")
    start = (
        "To start:  modelkit generate chat --requests 40 -o chats.json\n"
        "           modelkit solve chats.json\n"
        "For more:  modelkit COMMAND --help"
    )
    return "\n\n".join(filter(None, [title, *parts, start]))


def list_mapped() -> set[str]:
    """Names on the map."""
    return {name for names in _MAP.values() for name in names}
