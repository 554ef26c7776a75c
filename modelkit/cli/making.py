"""The commands that write instances: ``generate`` and ``import``."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import modelkit as mk
from modelkit.cli.completing import servers, traces
from modelkit.cli.live import progress
from modelkit.cli.options import (
    CONTEXT,
    PREDICTIONS_HELP,
    NamingGroup,
    Number,
    debug_option,
    epilog,
    output_option,
    quiet_option,
)
from modelkit.cli.output import remark, say
from modelkit.cli.saving import check_outputs, file_name, keeping, safe
from modelkit.text import count

if TYPE_CHECKING:
    from modelkit.registry import Generator, Option


#: What stands behind a generator's name in its example.
_SAMPLES: dict[str, tuple[str, ...]] = {
    "generate": ("--seed", "1", "-o", "a.json"),
    "import": ("TRACE", "-o", "a.json"),
}


class _Generators(NamingGroup):
    """A group whose commands are the generators of a registry, loaded when asked for."""

    def __init__(
        self,
        *,
        generators: Callable[[], dict[str, Generator]],
        make: Callable[..., mk.Instance],
        shared: tuple[click.Parameter, ...] = (),
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        self._generators = generators
        self._make = make
        self._shared = shared

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._generators())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        generator = self._generators().get(cmd_name)
        if generator is None:
            return None

        def make(output: str | None, quiet: bool, **options: Any) -> None:
            trace = options.get("trace")
            inputs = [trace, *(str(value) for value in options.values() if os.path.isfile(str(value)))]
            stem = generator.name if trace in (None, "-") else safe(Path(str(trace)).name.partition(".")[0])
            if output is None:  # its name is known when it is made
                check_outputs({"the instance": file_name(stem, "instance", ending="json")})
            else:
                check_outputs({"--output": output}, inputs)
            with progress(quiet, "drawing" if trace is None else f"reading {Path(str(trace)).name}"):
                instance = self._make(generator.name, quiet=quiet, **options)
            _write_instance(instance, output, quiet, inputs)

        command = click.Command(
            generator.name,
            params=[*self._shared, *(_click_option(option) for option in generator.options)],
            callback=make,
            help=f"{generator.summary}.\n\n{generator.reference}.",
            short_help=generator.summary,
            context_settings=CONTEXT,
            epilog=epilog(" ".join(["modelkit", str(self.name), generator.name, *_SAMPLES[str(self.name)]]), 0, 2),
        )
        decorators: list[Callable[[click.Command], click.Command]] = [output_option, quiet_option, debug_option]
        for decorate in decorators:
            decorate(command)  # appends its option
        return command


def _click_option(option: Option) -> click.Option:
    names = [option.flag, option.name]
    if option.kind is bool:
        return click.Option(names, is_flag=True, help=option.help)
    kind: Any = click.Choice(option.choices) if option.choices else option.kind
    if kind is float:
        kind = Number()
    return click.Option(
        names, type=kind, default=option.default, show_default=option.default is not None, help=option.help,
        shell_complete=servers if option.name == "server" else None,
    )  # fmt: skip


def all_families() -> dict[str, Generator]:
    """Imported late."""
    from modelkit.sources.families import families

    return families()


def all_formats() -> dict[str, Generator]:
    """Imported late."""
    from modelkit.sources.traces import trace_formats

    return trace_formats()


def _generate(name: str, *, quiet: bool, **options: Any) -> mk.Instance:
    from modelkit.sources.families import generate

    return generate(name, **options)


def _import(name: str, trace: str, *, quiet: bool, **options: Any) -> mk.Instance:
    from modelkit.sources.traces import import_trace

    return import_trace(name, trace, tell=None if quiet else _note, **options)


def _note(words: str) -> None:
    remark("note", words)


generate = _Generators(
    name="generate",
    generators=all_families,
    make=_generate,
    shared=(click.Option(["--predictions"], metavar="MODEL", help=PREDICTIONS_HELP),),
    help="Write an instance drawn from a named FAMILY.",
    epilog=epilog("modelkit generate chat --requests 40 --seed 1 -o chats.json"),
    subcommand_metavar="FAMILY [OPTIONS]",
)
import_ = _Generators(
    name="import",
    generators=all_formats,
    make=_import,
    shared=(click.Argument(["trace"], shell_complete=traces),),
    help="Turn a public trace into an instance.",
    epilog=epilog("modelkit import azure conv.csv.gz --requests 100 -o a.json"),
    subcommand_metavar="FORMAT TRACE [OPTIONS]",
)


def _write_instance(instance: mk.Instance, output: str | None, quiet: bool, inputs: list[str | None]) -> None:
    path = output or _free_path(instance)
    if output is None:
        check_outputs({"the instance": path}, inputs)
    with keeping() as keep:
        written = keep(partial(_save, instance), path, "instance.json")
        if not quiet:
            _tell(instance, written, path)


def _save(instance: mk.Instance, path: str) -> Path | None:
    mk.save_instance(instance, path)
    return None if path == "-" else Path(path)


def _tell(instance: mk.Instance, written: Path | None, path: str) -> None:
    """Say what was made."""
    _warn_of_oversized(instance)
    limits = ", ".join(
        f"{label} {value:,}"
        for label, value in (("M", instance.server.kv_capacity_tokens), ("slots", instance.server.slots))
        if value is not None
    )
    _warn_of_load(instance)
    last = max(r.arrival for r in instance.requests)
    say(
        [f"{instance.name}: {count(len(instance.requests), 'request')}, last arrival {last:,g}"
         + (f", {limits}" if limits else "")],
        [written],
        path,
    )  # fmt: skip


def _free_path(instance: mk.Instance) -> str:
    """The file of the instance's name, or where that holds another instance one beside it."""
    path = file_name(safe(instance.name), ending="json")
    if not os.path.exists(path):
        return path
    try:
        same = mk.load(path) == instance
    except mk.ModelkitError:
        same = False
    return path if same else file_name(safe(instance.name), instance.sha256[:8], ending="json")


def _warn_of_oversized(instance: mk.Instance) -> None:
    """Say which requests can never fit."""
    from modelkit.sources.traces import oversized_requests

    too_big = oversized_requests(instance)
    if too_big:
        first = too_big[0]
        remark(
            "warning",
            f"{len(too_big)} of {len(instance.requests)} requests can never fit"
            f" {instance.server.kv_capacity_tokens} tokens, the first {first.id!r} with"
            f" {first.prompt_tokens} + {first.output_tokens}; --drop-oversized leaves them out",
        )


def _warn_of_load(instance: mk.Instance) -> None:
    """Say when the requests come faster than the server can serve them."""
    from modelkit.judge.load import load, load_words

    if (words := load_words(load(instance))) is not None:
        remark("warning", words)
