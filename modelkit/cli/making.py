"""The commands that write instances: ``generate`` and ``import``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

import modelkit as mk
from modelkit.cli.completing import formats, servers, traces
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
from modelkit.text import count, number

if TYPE_CHECKING:
    from modelkit.registry import Generator, Option
    from modelkit.sources.logs.observed import Observed


#: What stands behind a generator's name in its example.
_SAMPLES: dict[str, tuple[str, ...]] = {
    "generate": ("--seed", "1", "-o", "a.json"),
    "import": ("TRACE", "-o", "a.json"),
}


class Made(NamedTuple):
    """What a generator or a reader made; ``observed`` is the run that a log shows."""

    instance: mk.Instance
    observed: Observed | None = None


class _Generators(NamingGroup):
    """A group whose commands are the generators of a registry, loaded when asked for."""

    def __init__(
        self,
        *,
        generators: Callable[[], dict[str, Generator]],
        make: Callable[..., Made],
        shared: tuple[click.Parameter, ...] = (),
        also: dict[str, tuple[str, ...]] | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        self._also = also or {}
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
                made = self._make(generator.name, quiet=quiet, **options)
            _write_instance(made, output, quiet, inputs)

        command = click.Command(
            generator.name,
            params=[*self._shared, *(_click_option(o, *self._also.get(o.name, ())) for o in generator.options)],
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


class _Importers(_Generators):
    """The readers of instances from files, and FILE in place of a format's name: then its keys say which it is."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, args = _format_of(args)
        name = ctx.params.get("format") or name
        if name is None and args and args[0] not in self._generators() and _is_path(args[0]):
            from modelkit.sources.logs import recognised

            name = recognised(args[0])
        return super().resolve_command(ctx, args if name is None else [name, *args])


def _format_of(args: list[str]) -> tuple[str | None, list[str]]:
    """The value of ``--format`` among the words behind a file, and the other words."""
    for i, word in enumerate(args):
        if word == "--format" and i + 1 < len(args):
            return args[i + 1], args[:i] + args[i + 2 :]
        if word.startswith("--format="):
            return word.partition("=")[2], args[:i] + args[i + 1 :]
    return None, args


def _is_path(word: str) -> bool:
    """Whether a word is a file rather than the name of a format."""
    return word == "-" or os.path.exists(word) or "." in word or "/" in word


def _click_option(option: Option, *others: str) -> click.Option:
    """An option of a generator, with other names for the command line."""
    names = [option.flag, *others, option.name]
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
    """Traces and logs; imported late."""
    from modelkit.sources.logs.importing import log_importers
    from modelkit.sources.traces import trace_formats

    return dict(sorted({**trace_formats(), **log_importers()}.items()))


def _generate(name: str, *, quiet: bool, extra: tuple[str, ...], attributes: tuple[str, ...], **options: Any) -> Made:
    from modelkit.sources.attaching import parse_attributes, parse_extra
    from modelkit.sources.families import generate

    return Made(generate(name, extra=parse_extra(extra), attributes=parse_attributes(attributes), **options))


def _import(
    name: str,
    trace: str,
    *,
    quiet: bool,
    extra: tuple[str, ...],
    replicas: int,
    pause: str | None = None,
    **options: Any,
) -> Made:
    from modelkit.sources.attaching import parse_extra, with_extra, with_pause
    from modelkit.sources.logs import log_formats
    from modelkit.sources.logs.importing import import_log
    from modelkit.sources.traces import import_trace

    if name not in log_formats():
        tell = None if quiet else _note
        server: dict[str, Any] = {"replicas": replicas, "pause": pause}
        return Made(import_trace(name, trace, tell=tell, extra=parse_extra(extra), **server, **options))
    if replicas > 1:
        raise mk.UsageError(
            "--replicas is for traces: a log shows one server, and what its iterations last is fitted to that"
        )
    said = parse_extra(extra)
    found = import_log(trace, name, **options)
    for note in () if quiet else found.notes:
        _note(note)
    instance = with_extra(with_pause(found.instance, pause), said)
    return Made(instance, None if found.observed is None else replace(found.observed, instance=instance))


def _note(words: str) -> None:
    remark("note", words)


def _replicas_option() -> click.Option:
    return click.Option(
        ["--replicas"], type=int, default=1, show_default=True, help="Servers alike that serve the requests."
    )


def _pause_option() -> click.Option:
    return click.Option(
        ["--pause"], type=click.Choice(["held", "swapped"]),
        help="Requests may be paused; their tokens stay in the KV cache, or are copied out of it.",
    )  # fmt: skip


def _extra_option() -> click.Option:
    return click.Option(
        ["--extra"], multiple=True, metavar="KEY=VALUE|@FILE",
        help="Data of your own in the instance's extra, such as parameters of a formulation: JSON, or a file of it;"
        " repeatable.",
    )  # fmt: skip


generate = _Generators(
    name="generate",
    generators=all_families,
    make=_generate,
    shared=(
        click.Option(["--predictions"], metavar="MODEL", help=PREDICTIONS_HELP),
        click.Option(
            ["--attribute", "attributes"],
            multiple=True,
            metavar="NAME=VALUE:WEIGHT,...",
            help="Draw class, session, priority or a datum of your own for each request, such as class=chat:3,code:1;"
            " repeatable.",
        ),
        _extra_option(),
        _replicas_option(),
        _pause_option(),
    ),
    help="Write an instance drawn from a named FAMILY.",
    epilog=epilog("modelkit generate chat --requests 40 --seed 1 -o chats.json"),
    subcommand_metavar="FAMILY [OPTIONS]",
)
import_ = _Importers(
    name="import",
    generators=all_formats,
    make=_import,
    shared=(click.Argument(["trace"], shell_complete=traces), _extra_option(), _replicas_option(), _pause_option()),
    also={"requests": ("--first",)},
    params=[
        click.Option(
            ["--format"],
            metavar="NAME",
            expose_value=True,
            shell_complete=formats,
            help="Format of FILE.  [default: recognised by its keys]",
        )
    ],
    help="""Turn a trace, a server's log or a benchmark's result into an instance.

    The format of FILE is recognised by its keys; its options are those of `modelkit import FORMAT --help`. If a log has
    the times of first and last tokens, a linear cost model of iteration times is fitted to them, unless --server names
    a server, and the observed run is written beside the instance.
    """,
    epilog=epilog("modelkit import azure conv.csv.gz --requests 100 -o a.json"),
    subcommand_metavar="[FORMAT] FILE [OPTIONS]",
)


def _write_instance(made: Made, output: str | None, quiet: bool, inputs: list[str | None]) -> None:
    instance = made.instance
    path = output or _free_path(made)
    beside = _beside(path) if made.observed is not None else None
    if output is None or beside is not None:
        check_outputs({"the instance": path if output is None else None, "the observed run": beside}, inputs)
    with keeping() as keep:
        written = [keep(partial(_save, instance), path, "instance.json")]
        if made.observed is not None and beside is not None:
            from modelkit.sources.logs.observed import save_observed

            written.append(keep(partial(save_observed, made.observed), beside, "observed.json"))
        if not quiet:
            _tell(instance, written, path, _observed_words(made.observed))


def _beside(path: str) -> str | None:
    """The file of an observed run beside its instance; None beside standard output."""
    if path == "-":
        return None
    stem = path.removesuffix(".gz").removesuffix(".json")
    return f"{stem}.observed.json"


def _observed_words(observed: Observed | None) -> list[str]:
    """A run in a line."""
    if observed is None:
        return []
    from modelkit.sources.logs.observed import AS_LOGGED

    found = observed.metrics
    parts = [
        f"{words} {number(value / 1000)} s"
        for words, key in (("mean latency", "mean_latency_ms"), ("mean time to first token", "mean_ttft_ms"))
        if (value := found.get(key)) is not None
    ]
    return [f"{AS_LOGGED}: {', '.join(parts)}"]


def _save(instance: mk.Instance, path: str) -> Path | None:
    mk.save_instance(instance, path)
    return None if path == "-" else Path(path)


def _tell(instance: mk.Instance, written: list[Path | None], path: str, more: list[str]) -> None:
    """Say what was made."""
    _warn_of_oversized(instance)
    server = instance.server
    replicas = server.replicas if server.replicas > 1 else None
    limits = ", ".join(
        f"{label} {value:,}"
        for label, value in (("M", server.kv_capacity_tokens), ("slots", server.slots), ("replicas", replicas))
        if value is not None
    )
    _warn_of_load(instance)
    last = max(r.arrival for r in instance.requests)
    say(
        [f"{instance.name}: {count(len(instance.requests), 'request')}, last arrival {last:,g}"
         + (f", {limits}" if limits else ""), *more],
        written,
        path,
    )  # fmt: skip


def _free_path(made: Made) -> str:
    """The file of the instance's name, or where that or the run beside it holds another one beside it."""
    instance = made.instance
    path = file_name(safe(instance.name), ending="json")
    if not _holds_another(path, instance) and not _runs_another(_beside(path), made.observed):
        return path
    content = instance.sha256
    if made.observed is not None:
        content = hashlib.sha256(json.dumps(made.observed.document(), sort_keys=True).encode()).hexdigest()
    return file_name(safe(instance.name), content[:8], ending="json")


def _holds_another(path: str, instance: mk.Instance) -> bool:
    try:
        return os.path.exists(path) and mk.load(path) != instance
    except mk.ModelkitError:
        return True


def _runs_another(path: str | None, observed: Observed | None) -> bool:
    """Whether a file holds an observed run that is not this one."""
    if observed is None or path is None or not os.path.exists(path):
        return False
    from modelkit.io import read_json

    try:
        return bool(read_json(path) != json.loads(json.dumps(observed.document())))
    except mk.ModelkitError:
        return True


def _warn_of_oversized(instance: mk.Instance) -> None:
    """Say which requests can never fit."""
    from modelkit.sources.traces import oversized_requests

    too_big = oversized_requests(instance)
    if too_big:
        first = too_big[0]
        remark(
            "warning",
            f"{len(too_big)} of {count(len(instance.requests), 'request')} can never fit"
            f" {count(instance.server.kv_capacity_tokens or 0, 'token')}, the first {first.id!r} with"
            f" {first.prompt_tokens} + {first.output_tokens}; --drop-oversized leaves them out",
        )


def _warn_of_load(instance: mk.Instance) -> None:
    """Say when the requests come faster than the server can serve them."""
    from modelkit.judge.load import load, load_words

    if (words := load_words(load(instance))) is not None:
        remark("warning", words)
