"""The command ``export``: what others read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import modelkit as mk
from modelkit.cli import completing
from modelkit.cli.live import progress
from modelkit.cli.options import debug_option, epilog, formulation_option, output_option, param_option, quiet_option
from modelkit.cli.output import remark, say
from modelkit.cli.saving import check_outputs, file_name, file_stem, keeping
from modelkit.cli.verifying import instance_of
from modelkit.errors import UsageError
from modelkit.text import count

if TYPE_CHECKING:
    from modelkit.instance import InstanceStamp
    from modelkit.sources.logs.observed import Observed

#: Endings of the files of each format.
_ENDINGS = {"lp": "lp", "mps": "mps", "mooncake": "jsonl", "perfetto": "perfetto.json", "csv": "csv"}


@click.command(epilog=epilog("modelkit export instances/chat-40.json --format lp -o chat-40.lp", 0, 2, 3))
@click.argument("file", shell_complete=completing.json_files)
@formulation_option
@param_option
@click.option(
    "--format", "kind", type=click.Choice(list(_ENDINGS)), default="lp", show_default=True,
    help="lp and mps: the model of an instance; mooncake: its requests as a trace; perfetto: a result's schedule, or a"
    " log's run; csv: a result's times, a row for each request.",
)  # fmt: skip
@click.option(
    "--instance", "-i", metavar="INSTANCE", shell_complete=completing.json_files,
    help="perfetto, csv: its instance.  [default: the one with the right hash beside FILE, in this folder, or shipped]",
)  # fmt: skip
@click.option(
    "--round-ms", type=float, metavar="MS",
    help="mooncake, perfetto: length of a round under the unit clock.  [default: 55 in a trace, 1 in Perfetto]",
)  # fmt: skip
@output_option
@quiet_option
@debug_option
def export(
    file: str, formulation: str | None, params: tuple[str, ...], kind: str, instance: str | None,
    round_ms: float | None, output: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Write FILE for other programs.

    Of an instance: its model for other solvers, with readable names (lp, mps), or a trace that the benchmark tools of
    engines replay (mooncake). Of a result, or of an observed run that `import` or `judge` wrote: when requests ran, as
    Chrome trace events, for ui.perfetto.dev (perfetto). Of a result: arrival, start, first token, finish, latency, TTFT
    and TPOT of every request, and whether it kept its service levels (csv).
    """
    _check_options(kind, formulation=formulation, param=params, instance=instance, round_ms=round_ms)
    make: Callable[[], tuple[str, str, str]]
    if kind == "perfetto":
        make = partial(_perfetto, file, instance, round_ms)
    elif kind == "csv":
        make = partial(_times, file, instance)
    elif kind == "mooncake":
        make = partial(_mooncake, file, round_ms, quiet)
    else:
        make = partial(_model, file, formulation, params, kind)
    own = formulation if str(formulation).endswith(".py") else None
    check_outputs({"--output": output or file_name(file_stem(file, ""), ending=_ENDINGS[kind])}, [file, own, instance])
    with progress(quiet) as line:
        line.says("building the model" if kind in ("lp", "mps") else "writing")
        text, name, words = make()
    path = output or name
    with keeping() as keep:
        written = keep(lambda path: _write(path, text), path, f"export.{_ENDINGS[kind]}")
        if not quiet:
            say([words], [written], path)


def _check_options(kind: str, **given: Any) -> None:
    """Raise where an option is given that the format does not take."""
    model, trace = ("lp", "mps"), ("mooncake", "perfetto")
    takes = {"formulation": model, "param": model, "instance": ("perfetto", "csv"), "round_ms": trace}
    for name, kinds in takes.items():
        if given[name] not in (None, ()) and kind not in kinds:
            raise UsageError(f"--{name.replace('_', '-')} is for --format {' and '.join(kinds)}, not {kind}")


def _model(file: str, formulation: str | None, params: tuple[str, ...], kind: Any) -> tuple[str, str, str]:
    from modelkit.authoring.export import export_model
    from modelkit.formulation.parameters import parse_parameters

    loaded = mk.load(file)
    text, made_by = export_model(loaded, formulation, kind, parameters=parse_parameters(params))
    name = file_name(file_stem(file, loaded.name), made_by.name, ending=kind)
    return text, name, f"{made_by.name} of {loaded.name or file}"


def _mooncake(file: str, round_ms: float | None, quiet: bool) -> tuple[str, str, str]:
    loaded = mk.load(file)
    written = mk.mooncake_trace(loaded, round_ms=round_ms)
    for note in () if quiet else written.notes:
        remark("note", note)
    words = f"{count(len(loaded.requests), 'request')} of {loaded.name or file}"
    return written.text, file_name(file_stem(file, loaded.name), ending=_ENDINGS["mooncake"]), words


def _perfetto(file: str, instance: str | None, round_ms: float | None) -> tuple[str, str, str]:
    from modelkit.io import parse_result, read_json
    from modelkit.io.files import where_of
    from modelkit.sources.logs.observed import AS_LOGGED, parse_observed, stamp_of

    document, where = read_json(file), where_of(file)
    _refuse_instance(document, where)
    run: mk.Result | Observed
    if (observed := stamp_of(document, where)) is not None:
        run = parse_observed(document, where, _about(observed, file, instance))
        found, name, words = run.instance, observed.name, f"the run, {AS_LOGGED}"
    else:
        run = parse_result(document, where)
        found, name, words = (
            _about(run.instance, file, instance),
            run.instance.name,
            f"the schedule of {run.producer.name}",
        )
    stem = file_stem(file, name or "").removesuffix(".result").removesuffix(".observed")
    ending = _ENDINGS["perfetto"] if isinstance(run, mk.Result) else f"observed.{_ENDINGS['perfetto']}"
    text = mk.perfetto_trace(run, found, round_ms=round_ms)
    return text, file_name(stem, ending=ending), f"{words}; open it at ui.perfetto.dev"


def _times(file: str, instance: str | None) -> tuple[str, str, str]:
    from modelkit.io import parse_result, read_json
    from modelkit.io.files import where_of

    document, where = read_json(file), where_of(file)
    _refuse_instance(document, where)
    result = parse_result(document, where)
    found = _about(result.instance, file, instance)
    times = result.requests(found)
    name = file_name(file_stem(file, result.instance.name or "").removesuffix(".result"), ending="csv")
    return times.to_csv(), name, f"times of {count(len(times), 'request')}, [{times.unit}]"


def _about(stamp: InstanceStamp, file: str, instance: str | None) -> mk.Instance:
    """The instance that a file is about: the one named, or one that is found by its hash."""
    return mk.load(instance) if instance is not None else instance_of(stamp, Path(file).parent)


def _refuse_instance(document: Any, where: str) -> None:
    """Raise where a file is an instance, which has no times."""
    from modelkit.instance import SCHEMA

    if isinstance(document, dict) and document.get("schema") == SCHEMA:
        raise UsageError(
            f"{where} is an instance, which says when requests come, not when they run; make a schedule of it, such as"
            f" by `modelkit simulate {where} --policy vllm-like`, and export the result"
        )


def _write(path: str, text: str) -> Path | None:
    """Write a text; see `modelkit.io.write_text`."""
    from modelkit.io import write_text

    return write_text(path, text)
