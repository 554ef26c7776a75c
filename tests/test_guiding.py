"""The first five minutes: the map, the help of each command, completion in the shell; 80 columns, no colour."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from modelkit.cli import cli
from modelkit.cli.guiding import list_mapped, map_of
from modelkit.cli.making import all_families, all_formats
from modelkit.cli.output import fit_terminal, printable


def commands_of(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command with the words that call it, groups included; not what a registry makes."""
    for name, command in group.commands.items():
        yield " ".join((*words, name)), command
        if isinstance(command, click.Group):
            yield from commands_of(command, (*words, name))


COMMANDS = dict(commands_of(cli))
MADE = [("generate", name) for name in all_families()] + [("import", name) for name in all_formats()]
#: Parameters that take words of the user's own.
FREE = {
    "params",
    "options",
    "predictions",
    "slots_at",
    "where",
    "title",
    "name of new formulation",
    "name of study new",
    "who of library submit",
    "machine of library submit",
}


def asked(words: str) -> dict[str, str]:
    """The environment in which bash asks for the last word."""
    return {
        "_MODELKIT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)
    }  # fmt: skip


def offered(printed: str) -> list[str]:
    """What is offered, less files."""
    return [line.partition(",")[2] for line in printed.splitlines() if not line.startswith("file")]


def test_the_map() -> None:
    """Tests that every command stands on the map, that it fits a small screen, and that it says how to begin."""
    assert set(cli.commands) <= list_mapped()
    made = CliRunner().invoke(cli, [], obj={})
    assert made.exit_code == 0
    assert made.output.strip() == map_of(cli)
    lines = made.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 50
    assert "modelkit generate" in made.output


@pytest.mark.parametrize("words", [*(name.split() for name in COMMANDS), *map(list, MADE)], ids=" ".join)
def test_help(words: list[str]) -> None:
    """Tests the help of each command: an example that begins with the command, 80 columns, no colour."""
    made = CliRunner().invoke(cli, [*words, "--help"], obj={}, terminal_width=80)
    assert made.exit_code == 0
    assert max(map(len, made.output.splitlines())) <= 80
    assert "\x1b" not in made.output
    assert re.search(rf"Example:\n.*modelkit {' '.join(words)}", made.output)


@pytest.mark.parametrize("words", COMMANDS)
def test_examples_parse(words: str) -> None:
    """Tests that each command has an example, of this command, whose options exist."""
    said = re.match(r"\x08\nExample:\n  (.*)", COMMANDS[words].epilog or "")
    assert said, words
    arguments = re.sub(r'^eval "\$\((.*)\)"$', r"\1", said[1]).split()[1:]
    assert " ".join(arguments).startswith(words)
    command: click.Command = cli
    context = click.Context(cli, info_name="modelkit")
    while isinstance(command, click.Group) and arguments:
        found = command.get_command(context, arguments.pop(0))
        assert found is not None
        command = found
    if not isinstance(command, click.Group):
        command.make_context("example", arguments, resilient_parsing=False)


@pytest.mark.parametrize("words", COMMANDS)
def test_names_and_files_complete(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that each parameter of text, but for words of the user's own, has something that completes it."""
    monkeypatch.chdir(tmp_path)
    command = COMMANDS[words]
    context = click.Context(command, info_name=words)
    for parameter in command.params:
        free = {parameter.name, f"{parameter.name} of {words}"} & FREE
        if parameter.type is click.STRING and not free:
            assert parameter.shell_complete(context, ""), parameter.name


def test_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]) -> None:
    """Tests commands, names from each registry and files of the right kind; and that no formulation is run for it."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.json", "b.json.gz", "c.txt", "s.toml"):
        (tmp_path / name).touch()

    def complete(words: str) -> list[str]:
        for name, value in asked(words).items():
            monkeypatch.setenv(name, value)
        return offered(cli().out)

    (tmp_path / "mine.py").write_text("raise SystemExit('run')")
    assert complete("modelkit so") == ["solve"]
    assert complete("modelkit generate ch") == ["chat"]
    assert complete("modelkit simulate a.json --policy mc") == ["mc-benchmark", "mc-sf"]
    rules = [f"mc-sf:dispatch={rule}" for rule in ("", "bid-price", "join-shortest-queue", "lmetric", "round-robin")]
    options = ["mc-sf:alpha=", *rules, "mc-sf:gate=", "mc-sf:gate=auto", "mc-sf:wait="]
    assert complete("modelkit simulate a.json --policy mc-sf:") == options
    assert complete("modelkit compare a.json -p svf:alpha=0.1,g")[-1] == "svf:alpha=0.1,gate=auto"
    assert complete("modelkit solve --solver sc") == ["scip"]
    assert complete("modelkit solve --warm-start no") == ["none"]
    assert complete("modelkit solve ") == ["a.json", "b.json.gz"]
    assert complete("modelkit study run s")[-1] == "s.toml"
    assert complete("modelkit generate chat --server llama2-")[0].startswith("llama2-")
    assert complete("modelkit import azure ") == ["a.json", "b.json.gz"]
    assert complete("modelkit show kv-hindsight-f") == ["kv-hindsight-flow"]
    made = subprocess.run(
        [sys.executable, "-m", "modelkit"], capture_output=True, text=True, check=True,
        env={**os.environ, **asked("modelkit solve -f m"), "MODELKIT_FORMULATIONS": str(tmp_path)},
    )  # fmt: skip
    assert "mine" in offered(made.stdout)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    """Tests that there is a script for each shell."""
    made = CliRunner().invoke(cli, ["completion", shell], obj={})
    assert made.exit_code == 0
    assert "_MODELKIT_COMPLETE" in made.output


def test_names_cannot_move_the_cursor() -> None:
    """Tests that control characters are written out."""
    assert printable("a\x1b[2J\nb\r") == "a\\x1b[2J\nb\\r"
    assert printable("a\nb ü", also="") == "a\\nb ü"
    assert printable("\ud800") == "\\ud800"


def test_hostile_names_on_the_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]) -> None:
    """Tests an instance whose name would clear the screen and claim a line of its own."""
    text = '{"schema": "modelkit/instance/1", "name": "x\\u001b[2J\\n  status  optimal", "server": {},'
    (tmp_path / "a.json").write_text(text + ' "requests": [{"prompt_tokens": 1, "output_tokens": 1}]}')
    (tmp_path / "b.json").write_text('{"schema": "modelkit/instance/1", "a\\u001bb\\nc": 1}')
    monkeypatch.chdir(tmp_path)
    said = cli("simulate", "-p", "mc-sf", "a.json").out
    assert "\x1b" not in said
    assert said.splitlines()[0] == r"mc-sf on x\x1b[2J\n  status  optimal (1 request)"
    said = cli("simulate", "-p", "mc-sf", "b.json", code=2).err
    assert "\x1b" not in said
    assert r"$['a\x1bb\nc']: unknown key" in said


def test_errors_fit_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that long lines of an error are broken between words on a terminal of 60 columns, and only there."""
    text = "error: unknown policy\n  known: " + ", ".join(f"policy-{i}" for i in range(20))
    assert fit_terminal(text) == text
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    lines = fit_terminal(text).splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[1].startswith("  known: policy-0")
    assert all(line.startswith("    policy-") for line in lines[2:])
