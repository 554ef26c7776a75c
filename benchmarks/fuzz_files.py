"""Nasty files for ``benchmarks/fuzz.py``: bombs, devices, pipes, encodings, and documents as large as is read."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import fuzz_inputs as inputs


def nasty_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files that no reader should fall over, with a word for each."""
    place = folder / "nasty"
    place.mkdir()
    small = json.dumps(inputs.INSTANCE).encode()

    def wrote(name: str, data: bytes) -> tuple[str, Path]:
        path = place / f"{name.replace(' ', '-')}.json"
        path.write_bytes(data)
        return name, path

    yield "gzip bomb of 10 GB", _bomb(place / "bomb.json.gz", b"\x00", 10_000)
    yield "gzip of JSON 10^9 deep", _bomb(place / "deep.json.gz", b"[", 1000)
    yield "gzip of 10^9 line ends", _bomb(place / "lines.csv.gz", b"\n", 1000)
    yield "gzip of a row of 10^8 commas", _bomb(place / "commas.csv.gz", b",", 100)
    yield wrote("gzip of many members", gzip.compress(b"") * 200_000)
    yield wrote("gzip cut off", gzip.compress(small * 100)[:60])
    yield wrote("gzip in gzip", gzip.compress(gzip.compress(small)))
    yield wrote("zlib without header", zlib.compress(small))
    yield wrote("JSON 10^8 long", b"[" + b"[]," * 33_000_000 + b"0]")
    yield wrote("numbers within the size", b"[" + b"123456," * 9_000_000 + b"0]")
    yield wrote("objects within the size", b"[" + b'{"a":1},' * 290_000 + b"0]")
    yield wrote("lists within the size", b"[" + b"[]," * 1_900_000 + b"0]")
    yield wrote(
        "segments within the size",
        inputs.seeds("result")[0].replace(b'"segments": [', b'"segments": [' + b'{"at":0},' * 290_000),
    )
    yield wrote(
        "wrong segments within the size",
        inputs.seeds("result")[0].replace(b'"segments": [', b'"segments": [' + b'{"a":0},' * 290_000),
    )
    yield wrote(
        "violations within the size",
        inputs.seeds("result")[0].replace(b'"violations": [', b'"violations": [{}' + b",{}" * 290_000),
    )
    yield wrote("requests in rows within the size", b'{"schema":"modelkit/instance/1","server":{},"requests":[' +
                b",".join(b'{"id":"r%d","prompt_tokens":1,"output_tokens":1}' % i for i in range(290_000)) +
                b"]}")  # fmt: skip
    yield wrote("keys within the size", b"{" + b",".join(b'"%08d":1' % i for i in range(1_900_000)) + b"}")
    yield wrote(
        "keys twice among a million", b"{" + b",".join(b'"%08d":1' % i for i in range(10**6)) + b',"00000000":1}'
    )
    yield wrote("faults in 300000 requests", _many(b"0", 300_000))
    yield wrote("a million requests with one fault", _many(b"1", 1_000_000).replace(b"[1,", b"[0,", 1))
    yield wrote("unknown keys by the thousand", b"{" + b'"schema":"modelkit/instance/1",' +
                b",".join(b'"kei%d":0' % i for i in range(200_000)) + b"}")  # fmt: skip
    many = b",".join(b'"%08d":1' % i for i in range(1_900_000))
    yield wrote("unknown keys of a server", b'{"schema":"modelkit/instance/1","requests":[],"server":{' + many + b"}}")
    yield wrote("unknown keys of a result", b'{"schema":"modelkit/result/1","objective":{' + many + b"}}")
    yield wrote("a key of 10^7 letters", b'{"' + b"k" * 10**7 + b'":1}')
    yield wrote("an integer of 10^7 digits", b'{"schema":' + b"9" * 10**7 + b"}")
    yield wrote("deep in the middle", b'{"schema":"modelkit/instance/1","extra":' + b'{"a":' * 900 + b"1" + b"}" * 901)
    yield wrote("toml dotted", b"a" + b".a" * 100_000 + b" = 1")
    yield wrote("toml tables", b"".join(b"[a%d]\n" % i for i in range(100_000)))
    yield wrote("toml nested", b"a = " + b"[" * 100_000)
    yield wrote("null bytes", b"\x00" * 1000)
    yield wrote("byte order mark only", b"\xef\xbb\xbf")
    yield wrote(
        "good with byte order mark and CRLF",
        b"\xef\xbb\xbf" + json.dumps(inputs.INSTANCE, indent=1).encode().replace(b"\n", b"\r\n"),
    )
    yield wrote("utf-16", small.decode().encode("utf-16"))
    yield wrote("overlong utf-8", small.replace(b"small", b"\xc0\xaf"))
    yield wrote("lone surrogate", small.replace(b"small", b"\\ud800"))
    yield wrote("empty", b"")
    sparse = place / "sparse.json"
    with sparse.open("wb") as file:
        file.truncate(20 * 2**30)
    yield "a sparse file of 20 GiB", sparse
    yield "a folder", place
    pipe = place / "pipe.json"
    os.mkfifo(pipe)
    yield "a pipe without writer", pipe
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place / "s.sock"))
    yield "a socket", place / "s.sock"
    for name, target in (
        ("loop", "loop.json"),
        ("dangling", "nowhere"),
        ("to a device", "/dev/zero"),
        ("to good", "good.json"),
    ):
        (place / f"{name.replace(' ', '-')}.json").symlink_to(target)
        yield f"a link: {name}", place / f"{name.replace(' ', '-')}.json"
    (place / "good.json").write_bytes(small)
    closed = place / "closed.json"
    closed.write_bytes(small)
    closed.chmod(0)
    yield "unreadable, but for root", closed
    for device in ("zero", "null", "urandom", "full"):
        yield f"/dev/{device}", Path("/dev") / device
    yield "/proc/self/mem", Path("/proc/self/mem")
    yield "a name too long", place / ("n" * 300)
    yield "a name with a line end", place / "a\nb.json"
    coming = place / "coming-and-going.json"

    def blink() -> None:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and place.exists():
            with contextlib.suppress(OSError):
                coming.write_bytes(small * 50)
                coming.unlink()

    threading.Thread(target=blink, daemon=True).start()
    for i in range(10):
        yield f"coming and going, {i}", coming


def _bomb(path: Path, letter: bytes, mebibytes: int) -> Path:
    part = min(mebibytes, 100)
    path.write_bytes(gzip.compress(letter * 2**20 * part) * (mebibytes // part))
    return path


def _many(prompt: bytes, n: int) -> bytes:
    columns = {b"prompt_tokens": prompt, b"output_tokens": b"5"}
    text = b",".join(b'"' + key + b'":[' + (value + b",") * (n - 1) + value + b"]" for key, value in columns.items())
    return b'{"schema":"modelkit/instance/1","server":{"kv_capacity_tokens":20},"requests":{' + text + b"}}"
