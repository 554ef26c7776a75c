"""Files that may be anything, for every reader: refused with place and reason, in bounded time and memory."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import resource
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkit.errors import MOST_FAULTS, FormulationError, InputError, ModelkitError, UsageError, shown
from modelkit.experiments.study import cells, load_study
from modelkit.formulation.loading import load_formulation
from modelkit.io import (
    MOST_NESTING,
    load,
    load_certificate,
    load_claim,
    load_result,
    parse_certificate,
    parse_instance,
    read_json,
    save_instance,
    write_text,
)
from modelkit.io import files as files
from modelkit.io.lookup import Instances
from modelkit.policies.predictions import with_predictions
from modelkit.reporting.render import report
from modelkit.result import InstanceStamp
from modelkit.sources.calibrate import calibrate
from modelkit.sources.servers import find_server
from modelkit.sources.traces import import_trace

SMALL: dict[str, Any] = {
    "schema": "modelkit/instance/1",
    "server": {"kv_capacity_tokens": 20},
    "requests": [{"prompt_tokens": 3, "output_tokens": 4}],
}
READERS: dict[str, Callable[[Any], Any]] = {
    "instance": load,
    "result": load_result,
    "certificate": load_certificate,
    "claim": load_claim,
    "study": lambda path: cells(load_study(path)),
    "azure": lambda path: import_trace("azure", path),
    "lengths": lambda path: import_trace("lengths", path),
    "report": lambda path: report([path], os.devnull),
    "server": lambda path: find_server(str(path)),
    "calibration": calibrate,
}


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(b"[" * 2**24) * 20)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "null bytes": lambda path: path.write_bytes(b"\x00" * 50),
    "utf-16": lambda path: path.write_bytes(json.dumps(SMALL).encode("utf-16")),
    "half a character": lambda path: path.write_bytes(b'{"a": "\xed\xa0\x80"}'),
    "deep": lambda path: path.write_bytes(b"[" * 10**6),
    "bomb": bomb,
    "many members": lambda path: path.write_bytes(gzip.compress(b"") * 20_000),
    "gzip with rubbish": lambda path: path.write_bytes(gzip.compress(json.dumps(SMALL).encode()) + b"rubbish"),
    "a folder": lambda path: path.mkdir(),
    "a pipe without a writer": pipe,
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a circle of links": lambda path: path.symlink_to(path.name),
    "sparse": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 2**34),
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody writes to these pipes."""
    monkeypatch.setattr(files, "PIPE_TIMEOUT", 0.1)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_every_reader_refuses(kind: str, reader: str, tmp_path: Path) -> None:
    """Tests that each kind of file is bad input to each reader, with the file's name, soon."""
    path = tmp_path / "file.toml"
    HOSTILE[kind](path)
    began = time.process_time()
    with pytest.raises((InputError, UsageError)) as caught:
        READERS[reader](path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2
    assert time.process_time() - began < 5


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Tests that 10 GB of zeros, compressed, cost no more than the most that is read."""
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b"\x00" * 2**26) * 160)
    code = (
        "import resource, sys; from modelkit.io import load; from modelkit.errors import InputError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"try: load({str(path)!r})\n"
        "except InputError as error: print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *words, mebibytes = made.stdout.split("\n")[:-1]
    assert "the most that is read" in "".join(words)
    assert int(mebibytes) < 300


def test_pipes_with_a_slow_writer_are_read(tmp_path: Path) -> None:
    """Tests that a pipe is read to its end when somebody writes, however slowly; as bash's <(...) does."""
    path = tmp_path / "pipe.json"
    os.mkfifo(path)

    def write() -> None:
        with path.open("w") as file:
            time.sleep(0.4)
            for half in (json.dumps(SMALL)[:20], json.dumps(SMALL)[20:]):
                file.write(half)
                file.flush()
                time.sleep(0.1)

    writer = threading.Thread(target=write)
    writer.start()
    assert len(load(path).requests) == 1
    writer.join()


def test_gzip_as_others_write_it(tmp_path: Path) -> None:
    """Tests concatenated members and the zeros that some tools fill up with."""
    text = json.dumps(SMALL).encode()
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(text[:30]) + gzip.compress(text[30:]) + b"\x00" * 100)
    assert len(load(path).requests) == 1
    big = tmp_path / "big.csv.gz"
    rows = b"".join(b"%d,%d\n" % (i % 90 + 1, i % 70 + 1) for i in range(300_000))
    big.write_bytes(gzip.compress(b"prompt_tokens,output_tokens\n" + rows))
    assert len(import_trace("lengths", big, requests=5, output_column="output_tokens").requests) == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1e400}', "found '1e400'"),
        ('{"a": ' + "9" * 10_000 + "}", "thousands of digits"),
        ('{"a":' * (MOST_NESTING + 1) + "1" + "}" * (MOST_NESTING + 1), "nested too deeply; allowed: 100 levels"),
        ("[" + "{}," * 300_001 + "0]", "more than 300,000 objects"),
        ("{" + ",".join(f'"k{i}":0' for i in range(100_000)) + ',"k7":1}', "'k7' occurs twice"),
    ],
)
def test_json_within_limits(text: str, words: str, tmp_path: Path) -> None:
    """Tests what JSON may hold, and that it is said soon."""
    path = tmp_path / "a.json"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        read_json(path)
    assert time.process_time() - began < 3


def test_faults_by_the_million_are_cut_short() -> None:
    """Tests that a file wrong throughout, and one too long, cost little and are said."""
    columns = {"prompt_tokens": [0] * 200_000, "output_tokens": [1] * 200_000}
    with pytest.raises(InputError, match="1000 faults or more") as caught:
        parse_instance({**SMALL, "requests": columns}, "many")
    assert len(caught.value.faults) == MOST_FAULTS
    twice = {"id": ["a"] * 50_000, "prompt_tokens": [1] * 50_000, "output_tokens": [1] * 50_000}
    with pytest.raises(InputError, match="1000 faults or more"):
        parse_instance({**SMALL, "requests": twice}, "twice")
    with pytest.raises(InputError, match="found 1,000,001 requests; allowed: at most 1,000,000"):
        parse_instance({**SMALL, "requests": {"prompt_tokens": [1] * 1_000_001}}, "long")


def test_what_is_found_is_shown_briefly() -> None:
    """Tests that the beginning of a huge value is shown, at the price of a small one."""
    began = time.process_time()
    assert shown(["x"] * 10**6).startswith("['x', 'x'")
    assert len(shown({"a": ["y" * 10**6] * 10**5})) <= 60
    assert time.process_time() - began < 0.1
    assert shown([1, {"b": "c"}]) == "[1, {'b': 'c'}]"


def test_half_characters_survive(tmp_path: Path) -> None:
    """Tests that what can be read can be written and read again."""
    instance = parse_instance({**SMALL, "extra": {"odd": "\ud800"}}, "odd")
    save_instance(instance, tmp_path / "a.json")
    assert load(tmp_path / "a.json").sha256 == instance.sha256


def test_certificates_beyond_this_world(tmp_path: Path) -> None:
    """Tests bounds that no double holds: refused when read, not a crash when recomputed."""
    stamp = {"name": "a", "sha256": "0" * 64, "requests": 1}
    bound = {"numerator": 10**400, "denominator": 1}
    with pytest.raises(InputError, match=r"\$\.bound"):
        parse_certificate({"schema": "modelkit/certificate/1", "instance": stamp, "bound": bound}, "c")


def test_dates_out_of_reach_are_bad_input(tmp_path: Path) -> None:
    """Tests a trace over six thousand years, which the fuzzer found."""
    path = tmp_path / "t.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n8476-11-16 18:17:03.9,4808,10\n2023-11-16 18:17:04,1,1\n")
    with pytest.raises(InputError, match=r"1 fault\n.*arrives"):
        import_trace("azure", path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompt_tokens\n1\n" + "x" * 2**21, "line 3: longer than"),
        ("prompt_tokens\n" + "\n" * (files.MOST_LINES + 1), "more than 2,000,000 lines"),
        ("prompt_tokens,prompt_tokens\n1,2\n", "the column 'prompt_tokens' occurs twice"),
        ("prompt_tokens\n" + "0\n" * 5000, "1000 faults or more"),
    ],
)
def test_tables(text: str, words: str, tmp_path: Path) -> None:
    """Tests the limits of tables, each with its line."""
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        import_trace("lengths", path)


def study(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text('name = "a"\n' + text)
    return path


def test_studies_stay_within_their_folder(tmp_path: Path) -> None:
    """Tests that a study runs no code from elsewhere, by whatever path or link."""
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "evil.py").write_text("raise SystemExit")
    (inside / "link.py").symlink_to("../evil.py")
    instances = '[[instances]]\nfamily = "chat"\nparameters = { requests = 2 }\n'
    for name in ("../evil.py", str(tmp_path / "evil.py"), "link.py"):
        path = study(inside, f'{instances}[[formulations]]\nnames = ["{name}"]\n')
        with pytest.raises(InputError, match="lies outside the folder of the study"):
            load_study(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a" + ".a" * 1000 + " = 1", "a key of more than 500 parts"),
        ('description = "' + "x" * 2**18 + '"', "holds more than 256 KiB"),
        (
            '[[instances]]\nfamily = "chat"\nparameters = { rate = [1.0, 2.0] }\nseeds = "0..999999"\n[[bounds]]\n',
            "up to",
        ),
    ],
)
def test_studies_without_measure(text: str, words: str, tmp_path: Path) -> None:
    """Tests studies that would take for ever to read or to list."""
    began = time.process_time()
    with pytest.raises(ModelkitError, match=words) as caught:
        cells(load_study(study(tmp_path, text)))
    assert caught.value.exit_code == 2
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"import sys; sys.exit(0)", "line 1: SystemExit: 0"),
        (b"x = 1\x00", "cannot be loaded"),
        (b"# -*- coding: latin-1 -*-\n\xe9 = (", "cannot be loaded"),
    ],
)
def test_formulations_that_are_none(source: bytes, words: str, tmp_path: Path) -> None:
    """Tests that a file that ends Python, or is no Python, is said to be broken and ends nothing."""
    path = tmp_path / "mine.py"
    path.write_bytes(source)
    with pytest.raises(FormulationError, match=words):
        load_formulation(str(path))
    pipe(tmp_path / "pipe.py")
    with pytest.raises(FormulationError, match="no program writes to this pipe"):
        load_formulation(str(tmp_path / "pipe.py"))


def test_vanishing_files(tmp_path: Path) -> None:
    """Tests files that come and go while they are read: read, or refused, never a crash."""
    path = tmp_path / "a.json"
    content = json.dumps(SMALL)
    stop = threading.Event()

    def blink() -> None:
        while not stop.is_set():
            path.write_text(content)
            path.unlink()

    thread = threading.Thread(target=blink)
    thread.start()
    try:
        for _ in range(300):
            with contextlib.suppress(InputError, UsageError):
                load(path)
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def little_room() -> Iterator[None]:
    """Files of at most 4 KiB, as on a full disk."""
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, old)


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, little_room: None) -> None:
    """Tests that a write that fails half-way leaves the old file and no rubbish."""
    target = tmp_path / "r.json"
    write_text(target, "old")
    with pytest.raises(UsageError, match=r"cannot write .*r.json: File too large"):
        write_text(target, "x" * 10_000)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["r.json"]


def test_names_for_writing(tmp_path: Path) -> None:
    """Tests a name that no system takes, the longest that it takes, and a link, which is replaced."""
    with pytest.raises(UsageError, match="null"):
        write_text("a\x00b", "x")
    longest = tmp_path / ("n" * 255)
    write_text(longest, "x")
    assert longest.read_text() == "x"
    kept = tmp_path / "kept"
    kept.write_text("old")
    link = tmp_path / "link"
    link.symlink_to("kept")
    write_text(link, "new")
    assert (kept.read_text(), link.read_text(), link.is_symlink()) == ("old", "new", False)


@pytest.mark.parametrize(
    "model",
    [
        "",
        ":",
        "noise",
        "noise:",
        "noise:1e999",
        "noise:nan",
        "noise:-0.1",
        "noise:0.2,0.3",
        "interval:\x00",
        "class:0",
        "class:2,1",
        "class:0.5",
        "class:" + "9" * 5000,
        "exact:1",
        "class:٣,",
        "clas:3",
        "n" * 10_000,
    ],
)
def test_prediction_models_are_refused(model: str) -> None:
    with pytest.raises(UsageError, match="prediction model") as caught:
        with_predictions(load(SMALL), model, np.random.default_rng(0))
    assert len(str(caught.value)) < 500


def test_long_prediction_models_and_names() -> None:
    """Tests that an instance whose name says its predictions is an instance, however long that gets."""
    model = "class:" + ",".join(map(str, range(1, 2000)))
    named = load(SMALL | {"name": "n" * 499})
    assert with_predictions(named, model, np.random.default_rng(0)).requests[0].predicted_output_tokens == 4


def test_all_faults_of_a_server(tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    path.write_text('{"slotz": 2, "kv_capacity_tokens": -1, "clock": {"kind": "linear", "mixt": true}}')
    with pytest.raises(InputError) as caught:
        find_server(str(path))
    assert {fault.path for fault in caught.value.faults} == {"$.slotz", "$.kv_capacity_tokens", "$.clock.mixt"}
    assert "did you mean 'slots'" in str(caught.value)
    assert "did you mean 'mixed'" in str(caught.value)


def test_unknown_keys_by_the_hundred_thousand_cost_little(tmp_path: Path) -> None:
    """Tests that only the first faults are made, wherever the keys stand; each costs pydantic a kilobyte."""
    many = {f"k{i}": 0 for i in range(100_000)}
    path = tmp_path / "many.json"
    for reader, document in (
        (load, SMALL | {"server": many}),
        (load, SMALL | many),
        (load_result, {"schema": "modelkit/result/1", "objective": many}),
        (lambda path: find_server(str(path)), many),
    ):
        path.write_text(json.dumps(document))
        tracemalloc.start()
        with pytest.raises(InputError) as caught:
            reader(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert 1 <= len(caught.value.faults) <= MOST_FAULTS
        assert peak < 50e6


def test_not_all_files_beside_a_result_are_read(tmp_path: Path) -> None:
    """Tests that the instance is found among pipes, links to nowhere and files too large to look through."""
    instance = load(SMALL)
    save_instance(instance, tmp_path / "m.json")
    pipe(tmp_path / "a.json")
    (tmp_path / "b.json").symlink_to("nowhere")
    (tmp_path / "c.json").write_bytes(b"[" + b"0," * 2**24 + b"0]")
    began = time.process_time()
    assert Instances([tmp_path]).find(InstanceStamp.of(instance)) is not None
    assert Instances([tmp_path]).find(InstanceStamp.of(instance.replace(name="another"))) is None
    assert time.process_time() - began < 1
