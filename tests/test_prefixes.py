"""Prefixes that requests share: how instances say them."""

from __future__ import annotations

import json
from typing import Any

import pytest

import modelkit as mk
from modelkit.errors import InputError
from modelkit.instance import SCHEMA, Request, SharedPrefixes

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt_tokens": 5, "output_tokens": 3, "prefix": {"group": "g", "tokens": 5}},
    {"id": "b", "prompt_tokens": 5, "output_tokens": 2, "prefix": {"group": "g", "tokens": 2}},
    {"id": "c", "prompt_tokens": 5, "output_tokens": 2},
    {"id": "d", "prompt_tokens": 1, "output_tokens": 2, "prefix": {"group": "h", "tokens": 1}},
]
COLUMNS: dict[str, list[Any]] = {key: [row.get(key) for row in ROWS] for key in ROWS[0]}


def read(requests: Any, **server: Any) -> mk.Instance:
    """The instance of these requests, from its JSON."""
    return mk.load({"schema": SCHEMA, "server": {"kv_capacity_tokens": 20, **server}, "requests": requests})


def test_prefixes_are_read_and_written() -> None:
    """Tests that rows and columns say the same, that it is written, and that it counts where there is a cache."""
    kept = read(ROWS, prefix_cache={"keep": True})
    assert kept == read(COLUMNS, prefix_cache={"keep": True}) == mk.load(json.loads(json.dumps(kept.document())))
    assert kept != read(ROWS, prefix_cache={})
    assert kept.shared_prefixes == SharedPrefixes((0, 0, -1, -1), (4, 2, 0, 0), True)  # the last token is never shared
    assert read(ROWS).shared_prefixes is None
    assert read(ROWS[2:], prefix_cache={}).shared_prefixes is None
    lengths = ([5, 5, 5, 1], [3, 2, 2, 2])
    assert mk.Instance.from_arrays(*lengths, server=kept.server, id="abcd", prefix=COLUMNS["prefix"]) == kept


def test_an_instance_without_prefixes_keeps_its_hash() -> None:
    """Tests that nothing is written of what an instance does not use."""
    plain = read(ROWS[2:3])
    assert "prefix" not in plain.document()["requests"]
    assert "prefix_cache" not in plain.document()["server"]
    assert plain.sha256 == "0bb4b90b8d6d99ae553cbd4562cb2c16427b16d64f5e1f0be0737b7983d774f5"


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ({"group": "g", "tokens": 6}, r"prefix.*tokens.*: found 6; allowed: at most the prompt_tokens, 5"),
        ({"grup": "g", "tokens": 4}, r"prefix.*grup.*: unknown key; did you mean 'group'"),
        ({"group": "", "tokens": 0}, r"prefix.*tokens.*: found 0"),
        (3, r"prefix.*: found 3"),
    ],
)
def test_wrong_prefixes_are_named(prefix: Any, words: str) -> None:
    """Tests that faults are said with their place, in rows and in columns."""
    with pytest.raises(InputError, match=words):
        read([ROWS[1], {**ROWS[0], "prefix": prefix}])
    with pytest.raises(InputError, match=words.replace("prefix", r"\$.requests.prefix\[0\]", 1)):
        read({key: values[:1] for key, values in {**COLUMNS, "prefix": [prefix]}.items()})
    with pytest.raises(InputError, match="did you mean 'keep'"):
        read(ROWS, prefix_cache={"kep": True})


def test_a_request_made_in_python_is_checked() -> None:
    """Tests that an instance made without a file refuses the same."""
    long = Request(id="a", prompt_tokens=5, output_tokens=3, prefix={"group": "g", "tokens": 6})
    with pytest.raises(InputError, match="at most the prompt_tokens, 5"):
        mk.Instance(server={}, requests=[long])
