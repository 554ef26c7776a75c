"""What completes a parameter in the shell: names from the registries, files of the right kind; no file's code is run.

Each is given to Click as a parameter's ``shell_complete``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def completer(names: Callable[[], Iterable[str]] = tuple, endings: tuple[str, ...] = ()) -> Completer:
    """Completes names, and files with these endings; any file where there is none of them."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            known = [CompletionItem(name) for name in sorted(names()) if name.startswith(incomplete)]
            return known + (_files(incomplete, endings) if endings else [])
        except Exception:  # a traceback in the middle of the command line is no help
            return []

    return complete


def _files(incomplete: str, endings: tuple[str, ...]) -> list[CompletionItem]:
    folder, _, start = incomplete.rpartition("/")
    place = Path(folder or ("/" if incomplete.startswith("/") else "."))
    found = sorted(path.name for path in place.iterdir() if path.name.startswith(start))
    prefix = incomplete[: len(incomplete) - len(start)]
    right = [CompletionItem(prefix + name) for name in found if name.endswith(endings)]
    return right or [CompletionItem(incomplete, type="file")]


def _formulations() -> Iterable[str]:
    from modelkit.formulation.loading import formulation_files

    return formulation_files()


def _policies() -> Iterable[str]:
    from modelkit.policies import policies

    return policies()


def policies(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Policies and files of such, and after ``NAME:`` the options of one."""
    if ":" in incomplete:
        return completer(lambda: _policy_options(incomplete))(context, parameter, incomplete)
    known = completer(_policies)(context, parameter, incomplete)
    return known or completer(endings=(".py",))(context, parameter, incomplete)


def _policy_options(incomplete: str) -> Iterable[str]:
    """What may stand for the last option of a policy: its name, and the words it takes."""
    from modelkit.policies import get_policy

    name, _, rest = incomplete.partition(":")
    before, comma, part = rest.rpartition(",")
    for option in get_policy(name).options:
        texts = [f"{option.name}={word}" for word in ("", *(option.choices or ()))]
        yield from (f"{name}:{before}{comma}{text}" for text in texts if text != part)


def _solvers() -> Iterable[str]:
    from modelkit.backends import backends

    return ["diagram", *backends()]


def _studies() -> Iterable[str]:
    from modelkit.experiments.study import shipped_studies

    return shipped_studies()


def _families() -> Iterable[str]:
    from modelkit.sources.families import families

    return families()


def _library() -> Iterable[str]:
    from modelkit.sources.library import library_entries

    return library_entries()


def _library_families() -> Iterable[str]:
    from modelkit.sources.library import library_entries

    return {entry.family for entry in library_entries().values()}


def _servers() -> Iterable[str]:
    from modelkit.sources.servers import presets

    return presets()


def _formats() -> Iterable[str]:
    from modelkit.sources.logs import log_formats
    from modelkit.sources.traces import trace_formats

    return [*trace_formats(), *log_formats()]


def _shown() -> Iterable[str]:
    from modelkit.sources.families import families

    return [*_formulations(), *_policies(), *families(), *_formats()]


def service_levels(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Presets of service levels, and names of limits after the ones that stand there."""
    from modelkit.judge.slo import LIMITS, MLPERF, PRESET

    before, comma, part = incomplete.rpartition(",")
    given = {text.partition("=")[0] for text in before.split(",")}
    texts = [f"{name}=" for name in LIMITS if name not in given] + [f"{PRESET}{name}" for name in MLPERF]
    return [CompletionItem(before + comma + text) for text in texts if text.startswith(part)]


def any_file(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shell's own completion of files."""
    return [CompletionItem(incomplete, type="file")]


def any_folder(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shell's own completion of folders."""
    return [CompletionItem(incomplete, type="dir")]


instances_and_families = completer(_families, (".json", ".json.gz"))
json_files = completer(endings=(".json", ".json.gz"))
results = completer(endings=(".result.json", ".result.json.gz", ".certificate.json", ".certificate.json.gz"))
formulations = completer(_formulations, (".py",))
solvers = completer(_solvers)
warm_starts = completer(lambda: ["best", "none", *_policies()])
library = completer(_library)
library_families = completer(_library_families)
studies = completer(_studies, (".toml",))
servers = completer(_servers, (".json",))
formats = completer(_formats)
logs = completer(endings=(".json", ".json.gz", ".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".log"))
traces = tables = logs
shown = completer(_shown, (".py",))
