"""The commands that tell what there is: ``list``, ``versions``, ``completion``."""

from __future__ import annotations

from collections.abc import Callable

import click
from click.shell_completion import get_completion_class

import modelkit as mk
from modelkit.cli.making import all_families, all_formats
from modelkit.cli.options import debug_option, epilog
from modelkit.cli.output import two_columns
from modelkit.errors import UsageError


@click.command("list", epilog=epilog("modelkit list policies", 0, 2))
@click.argument("kind", type=click.Choice(["formulations", "policies", "solvers", "families", "formats", "servers"]))
@debug_option
def list_(kind: str) -> None:
    """List what can be used on this machine, and why the rest cannot."""
    rows: dict[str, Callable[[], list[tuple[str, str]]]] = {
        "formulations": _formulation_rows,
        "policies": _policy_rows,
        "solvers": _solver_rows,
        "families": lambda: [(e.name, e.summary) for e in all_families().values()],
        "formats": lambda: [(e.name, e.summary) for e in all_formats().values()],
        "servers": _server_rows,
    }
    click.echo("\n".join(two_columns(rows[kind]())))


def _formulation_rows() -> list[tuple[str, str]]:
    from modelkit.formulation.hosting import found_formulations

    return [
        (e.name, f"{e.formulation.claim}: {e.formulation.summary}" if e.formulation else f"BROKEN: {e.error}")
        for e in found_formulations()
    ]


def _policy_rows() -> list[tuple[str, str]]:
    from modelkit.policies import policies

    return [(e.name, e.summary + "".join(f"; {o.name}={o.default}" for o in e.options)) for e in policies().values()]


def _server_rows() -> list[tuple[str, str]]:
    from modelkit.sources.servers import presets

    rows = []
    for preset in presets().values():
        clock = preset.server.clock
        assert isinstance(clock, mk.LinearClock)
        rows.append(
            (
                preset.name,
                f"{preset.summary}; M = {preset.server.kv_capacity_tokens:,} tokens;"
                + (f" {clock.base_ms:g} ms an iteration," if clock.base_ms else "")
                + f" prefill {clock.prefill_base_ms:g} + {clock.prefill_per_token_ms:g} n ms,"
                f" decode {clock.decode_base_ms:g} + {clock.decode_per_request_ms:g} B"
                f" + {clock.decode_per_kv_token_ms:g} KV ms; fitted to {preset.valid};"
                f" fixed parts: {preset.fixed_parts}; {preset.source}",
            )
        )
    return rows


def _solver_rows() -> list[tuple[str, str]]:
    from modelkit.backends import backends

    rows = [("diagram", "available: modelkit's own search, for the KV-cache problem with little memory")]
    for name, engine in backends().items():
        available, words = engine.availability()
        rows.append((name, f"available: {words}" if available else f"not available: {words}"))
    return rows


@click.command(epilog=epilog("modelkit versions", 0))
@debug_option
def versions() -> None:
    """Show the versions of modelkit, Python, Pyomo and the solvers, for bug reports."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    rows = [("modelkit", mk.__version__), ("python", platform.python_version()), ("system", platform.platform())]
    for package in ("pyomo", "highspy", "pyscipopt", "numpy", "scipy", "numba", "pydantic", "networkx", "click"):
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            rows.append((package, "not installed"))
    click.echo("\n".join(two_columns(rows)))


@click.command(epilog=epilog('eval "$(modelkit completion bash)"', 0, 2))
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
    click.echo(found(context.find_root().command, {}, "modelkit", "_MODELKIT_COMPLETE").source())
