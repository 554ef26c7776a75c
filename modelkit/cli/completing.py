"""Completion in the shell: names from the registries, files of the right kind. No file's code is run for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from modelkit.cli.guiding import commands_of
from modelkit.cli.options import debug_option, exit_codes
from modelkit.errors import UsageError

_VARIABLE = "_MODELKIT_COMPLETE"


@click.command(epilog=exit_codes(0, 2))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
@debug_option
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes commands, options, names and files.

    To enable it permanently, put the line of the example in ~/.bashrc or ~/.zshrc; for fish, the script itself as
    ~/.config/fish/completions/modelkit.fish.
    """
    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"this version of Click does not complete in {shell}")
    click.echo(found(context.find_root().command, {}, "modelkit", _VARIABLE).source())


class _Completed(click.ParamType):  # type: ignore[type-arg]  # not generic in older versions
    """Any text, with completions."""

    name = "text"

    def __init__(self, items: Callable[[str], Iterable[CompletionItem]]) -> None:
        self._items = items

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            return list(self._items(incomplete))
        except Exception:  # a traceback in the middle of the command line helps nobody
            return []


def _of(names: Callable[[], Iterable[str]]) -> Callable[[str], Iterable[CompletionItem]]:
    return lambda incomplete: [CompletionItem(name) for name in sorted(names()) if name.startswith(incomplete)]


def _files(*endings: str) -> Callable[[str], Iterable[CompletionItem]]:
    def items(incomplete: str) -> list[CompletionItem]:
        folder, _, start = incomplete.rpartition("/")
        place = Path(folder or ("/" if incomplete.startswith("/") else "."))
        found = sorted(path.name for path in place.iterdir() if path.name.startswith(start))
        right = [name for name in found if name.endswith(endings)]
        prefix = incomplete[: len(incomplete) - len(start)]
        return [CompletionItem(prefix + name) for name in right] or [CompletionItem(incomplete, type="file")]

    return items


def _both(*parts: Callable[[str], Iterable[CompletionItem]]) -> Callable[[str], Iterable[CompletionItem]]:
    return lambda incomplete: [item for part in parts for item in part(incomplete)]


def _formulations() -> Iterable[str]:
    from modelkit.formulation.loading import formulation_files

    return formulation_files()


def _policies() -> Iterable[str]:
    from modelkit.policies import policies

    return policies()


def _solvers() -> Iterable[str]:
    from modelkit.backends import backends

    return backends()


def _studies() -> Iterable[str]:
    from modelkit.experiments.study import shipped_studies

    return shipped_studies()


_INSTANCES = _files(".json", ".json.gz")

#: What completes a parameter, by its name in Click.
_BY_PARAMETER: dict[str, Callable[[str], Iterable[CompletionItem]]] = {
    "instance": _INSTANCES,
    "instances": _INSTANCES,
    "file": _INSTANCES,
    "results": _files(".result.json", ".result.json.gz"),
    "formulation": _both(_of(_formulations), _files(".py")),
    "formulations": _both(_of(_formulations), _files(".py")),
    "policy": _of(_policies),
    "policies": _of(_policies),
    "solver": _of(_solvers),
    "solvers": _of(_solvers),
    "warm_start": _of(lambda: ["best", "none", *_policies()]),
    "study": _both(_of(_studies), _files(".toml")),
    "trace": _files(".csv", ".csv.gz", ".jsonl", ".jsonl.gz"),
}


def add_completion(cli: click.Group) -> None:
    """Let the parameters of every command that take any text complete by their names."""
    for _, command in commands_of(cli):
        complete(command.params)


def complete(parameters: Iterable[Any]) -> None:
    """Let these parameters complete by their names."""
    for parameter in parameters:
        items = _BY_PARAMETER.get(parameter.name)
        if items is not None and isinstance(parameter.type, type(click.STRING)):
            parameter.type = _Completed(items)
