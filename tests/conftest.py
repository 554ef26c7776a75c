"""Instances of the size of a hand, and where the shared trace lies if it does."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import modelkit as mk
from modelkit.cli import main
from modelkit.instance import Instance, Request, Server
from modelkit.result import Result
from modelkit.runtime.resources import bundled

#: Text that would do harm where it is not escaped.
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"' {{7*7}} {% raw %}\u202e\x00\x1b"


# a shell that runs the tests in the background may ignore Ctrl-C for all of them
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def two() -> Instance:
    """Two requests that do not fit together: the second waits for the first, or the other way round."""
    return Instance(
        name="two",
        server=Server(kv_capacity_tokens=6),
        requests=(
            Request(id="short", prompt_tokens=2, output_tokens=2),
            Request(id="long", prompt_tokens=2, output_tokens=4),
        ),
    )


def random_instance(seed: int, n: int, *, most_memory: int = 12, spread: int = 4) -> Instance:
    """A random instance with ``n`` requests that all fit, arriving within ``spread`` rounds."""
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(6, most_memory + 1))
    requests = []
    for i in range(n):
        prompt = int(rng.integers(1, 5))
        requests.append(
            Request(
                id=f"q{i}",
                arrival=int(rng.integers(0, spread + 1)),
                prompt_tokens=prompt,
                output_tokens=int(rng.integers(1, capacity - prompt + 1)),
            )
        )
    return Instance(name=f"random-{seed}", server=Server(kv_capacity_tokens=capacity), requests=tuple(requests))


@pytest.fixture
def draw() -> Callable[..., Instance]:
    """Random instances by seed and number of requests."""
    return random_instance


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    out: str
    err: str
    code: int


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs a command of modelkit in this process."""

    def run(*arguments: str, code: int = 0) -> Said:
        monkeypatch.setattr(sys, "argv", ["modelkit", *arguments])
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as ended:
            main()
        said = Said(*capsys.readouterr(), int(ended.value.code or 0))
        assert said.code == code, said
        return said

    return run


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Path]:
    """Writes the template of ``modelkit new formulation`` with edits: text that is in it once, and what replaces it."""

    def write(stem: str, *edits: tuple[str, str]) -> Path:
        text = (bundled("formulations") / "_new_formulation.py").read_text(encoding="utf-8")
        for before, after in [("new-formulation", stem.replace("_", "-")), *edits]:
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        path = tmp_path / f"{stem}.py"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def hostile() -> tuple[Instance, list[Result]]:
    """An instance and two results in which every text is hostile."""
    instance = Instance(
        name=HOSTILE * 3,
        description=HOSTILE,
        source=HOSTILE,
        server=Server(kv_capacity_tokens=40),
        requests=tuple(Request(id=f"{k}{HOSTILE}", prompt_tokens=3, output_tokens=4 + k) for k in range(5)),
    )
    plain = mk.simulate(instance, "mc-sf")
    producer = plain.producer.model_copy(
        update={"name": HOSTILE, "command": HOSTILE, "options": {HOSTILE: HOSTILE}, "solver": HOSTILE}
    )
    other = plain.model_copy(update={"producer": producer, "message": HOSTILE, "stop": "failed", "log": HOSTILE})
    return instance, [plain, other]


@pytest.fixture
def shared_data() -> Path:
    """Folder of public traces beside the checkout; the test is skipped where there is none."""
    folder = Path(os.environ.get("MODELKIT_TRACES", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the public traces are not on this machine")
    return folder
