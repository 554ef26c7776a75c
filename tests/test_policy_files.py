"""Policies in files of one's own, named as ``FILE.py:NAME``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit.errors import InputError
from modelkit.experiments.study import load_study
from modelkit.experiments.study.grid import cells
from modelkit.instance import Instance
from modelkit.policies import REGISTRY

MINE = '''"""Shortest prompt first."""

from modelkit import Policy, policy


@policy("{name}", summary="shortest prompt first", reference="an example", most="how many at once")
class Shortest(Policy):
    def __init__(self, *, most: int = {most}):
        self.waiting, self.most = {{}}, most

    def arrived(self, request):
        self.waiting[request.number] = request

    def admit(self, view):
        held, active = view.held + len(view.running), len(view.running)
        for request in sorted(self.waiting.values(), key=lambda r: r.prompt):
            held += request.prompt + 1
            if active >= self.most or held > view.capacity:
                return
            active += 1
            del self.waiting[request.number]
            yield request.number
'''


@pytest.fixture
def mine(tmp_path: Path) -> Any:
    """A file with a policy, forgotten afterwards."""
    path = tmp_path / "mine.py"
    path.write_text(MINE.format(name="my-shortest", most=9))
    yield path
    REGISTRY.remove("my-shortest")


ROOMY = {"kv_capacity_tokens": 60}


def test_every_command_takes_it(mine: Path, two: Instance, tmp_path: Path, cli: Any) -> None:
    """Tests simulate with options and the names of files, and compare, whose workers have never seen the file."""
    roomy = two.replace(server=ROOMY)
    mk.save_instance(roomy, tmp_path / "two.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        cli("simulate", "two.json", "-p", "mine.py:my-shortest", "-p", "./mine.py:my-shortest:most=1")
        free = mk.load_result("two.my-shortest.result.json")
        alone = mk.load_result("two.my-shortest.most=1.result.json")
        assert (free.producer.name, free.objective.value, alone.objective.value) == ("my-shortest", 6, 8)
        found = mk.compare("two.json", "c", policies=["mine.py:my-shortest", "mc-sf"], formulations=[], bound=False)
        assert [e.label for e in found.cases[0].entries] == ["mc-sf", "my-shortest"]
        assert all(e.value == 6 for e in found.cases[0].entries)


def test_a_changed_file_replaces_its_own(mine: Path, two: Instance) -> None:
    """Tests that a file which was edited counts as it is now, and that names of others are not taken."""
    roomy = two.replace(server=ROOMY)
    assert mk.simulate(roomy, f"{mine}:my-shortest").objective.value == 6
    mine.write_text(MINE.format(name="my-shortest", most=1))
    assert mk.simulate(roomy, f"{mine}:my-shortest").objective.value == 8
    mine.write_text(MINE.format(name="mc-sf", most=1))
    with pytest.raises(mk.UsageError, match="registered twice"):
        mk.simulate(roomy, f"{mine}:mc-sf")


@pytest.mark.parametrize(
    ("text", "named", "words"),
    [
        (None, "gone.py:x", "No such file"),
        ("x = (", "bad.py:x", "SyntaxError in line 1"),
        ("\n1 / 0", "bad.py:x", "ZeroDivisionError in line 2"),
        ("import sys; sys.exit(3)", "bad.py:x", "SystemExit in line 1"),
        ("pass", "bad.py:x", "no policy 'x'|unknown policy 'x'"),
        ("pass", "bad.py", "name one of its policies"),
    ],
)
def test_what_is_wrong_is_said(text: str | None, named: str, words: str, two: Instance, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "bad.py").write_text(text)
    with pytest.raises(mk.UsageError, match=words):
        mk.simulate(two, f"{tmp_path}/{named}")


def test_studies_run_those_in_their_folder(mine: Path, two: Instance, tmp_path: Path) -> None:
    """Tests that a study names a file beside it, that other files are refused unread, and what becomes of a change."""
    mk.save_instance(two, tmp_path / "two.json")
    study = 'name = "s"\n[[instances]]\nfile = "two.json"\n[[policies]]\nnames = ["{}:my-shortest"]\n'
    (tmp_path / "s.toml").write_text(study.format("mine.py"))
    (cell,) = cells(load_study(tmp_path / "s.toml"))
    assert cell.label == "my-shortest"
    mine.write_text(MINE.format(name="my-shortest", most=2))
    (changed,) = cells(load_study(tmp_path / "s.toml"))
    assert changed.key != cell.key
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "s.toml").write_text(study.format("../mine.py").replace('"two.json"', '"../two.json"'))
    with pytest.raises(InputError, match="outside the folder of the study"):
        load_study(inner / "s.toml")
