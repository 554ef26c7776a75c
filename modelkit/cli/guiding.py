"""The map that ``modelkit`` alone prints, and an example in each command's help."""

from __future__ import annotations

from collections.abc import Iterator

import click

import modelkit as mk

#: Commands by what one wants of them, in few words. Those that there are must stand here; a test sees to it.
_MAP = {
    "get an instance": {
        "generate": "draw one from a named family",
        "import": "make one from a public trace",
        "calibrate": "fit a server's clock to measurements",
    },
    "make a schedule": {
        "solve": "by integer programming: the best schedule, with a bound",
        "simulate": "by online policies",
        "compare": "by all of them, side by side",
    },
    "prove something": {
        "bound": "a lower bound that anyone can recompute, at the size of a trace",
        "verify": "judge a result, or recompute a certificate",
        "diagnose": "why an instance has no schedule",
    },
    "many runs, and pages": {
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
        "export": "the model, for other solvers",
    },
}

#: An example of each command, by the words after ``modelkit``.
EXAMPLES = {
    "solve": "modelkit solve instances/chat-40.json --solver scip --time-limit 120",
    "simulate": "modelkit simulate instances/chat-40.json --policy mc-sf --policy svf",
    "bound": "modelkit bound instances/service-hour.json.gz --schedule best.json",
    "verify": "modelkit verify chat-40.mc-sf.result.json",
    "generate": "modelkit generate chat --requests 40 --seed 1 -o chats.json",
    "import": "modelkit import azure conv.csv.gz --requests 100 -o a.json",
    "compare": "modelkit compare instances/chat-40.json --policy mc-sf --policy svf",
    "report": "modelkit report chat-40.*.result.json -o chat-40.html",
    "calibrate": "modelkit calibrate timings.csv -o server.json",
    "new": "modelkit new formulation kv-mine",
    "new formulation": "modelkit new formulation kv-mine --extends kv-hindsight",
    "check": "modelkit check kv_mine.py",
    "show": "modelkit show kv-hindsight",
    "diagnose": "modelkit diagnose instances/chat-40.json",
    "export": "modelkit export instances/chat-40.json --format lp -o chat-40.lp",
    "list": "modelkit list policies",
    "versions": "modelkit versions",
    "completion": 'eval "$(modelkit completion bash)"',
    "study": "modelkit study run kv-ratio-small --jobs 2",
    "study list": "modelkit study list",
    "study run": "modelkit study run mine.toml --jobs 4",
    "study status": "modelkit study status mine.toml",
    "study export": "modelkit study export mine.toml -o mine.csv",
    "study report": "modelkit study report mine.toml",
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


def commands_of(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command with the words that call it, groups included; not what a registry makes."""
    for name, command in group.commands.items():
        yield " ".join((*words, name)), command
        if isinstance(command, click.Group):
            yield from commands_of(command, (*words, name))


def mapped() -> set[str]:
    """Names on the map."""
    return {name for names in _MAP.values() for name in names}


def with_example(example: str, epilog: str | None = None) -> str:
    """An epilog that begins with an example."""
    return f"\b\nExample:\n  {example}" + (f"\n\n{epilog}" if epilog else "")


def add_examples(cli: click.Group) -> None:
    """Put its example into the help of each command."""
    for words, command in commands_of(cli):
        if words in EXAMPLES:
            command.epilog = with_example(EXAMPLES[words], command.epilog)
