"""Tables of lengths: requests without arrivals, served on slots or on a server."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import numpy as np

from modelkit.errors import MOST_FAULTS, Fault, InputError
from modelkit.families import GSM8K_CLOCK, output_lengths, timed_instance
from modelkit.files import where_of
from modelkit.instance import Instance, LinearClock, Server
from modelkit.servers import find_server
from modelkit.tables import read_csv
from modelkit.traces import trace_format


@trace_format(
    "lengths",
    summary="CSV with columns of prompt and output lengths, named by options; all known at 0, served on slots,"
    " or with --server and --rate arriving at random",
    reference="any table of lengths, such as the token lengths of the GSM8K test questions",
    prompt_column="column of the prompt lengths [token]",
    output_column="column of the output lengths [token]; default: drawn from the law",
    output_law="law of the outputs when there is no column|gamma|lognormal",
    seed="seed of the draw",
    slots="slots of the server, J, when --server names none",
    server="preset or JSON file of a server, in place of slots and times",
    kv_capacity="with a server, M [token]; default: the server's",
    rate="with a server, requests per second (Poisson); default: all at once",
    requests="take at most so many requests; default: all",
    prefill_base_ms="duration of a prefill without tokens [ms]",
    prefill_per_token_ms="duration of a prompt token [ms]",
    decode_base_ms="duration of a decode round [ms]",
)
def lengths(
    path: str | os.PathLike[str],
    *,
    prompt_column: str = "prompt_tokens",
    output_column: str | None = None,
    output_law: str = "gamma",
    seed: int = 0,
    slots: int = 200,
    server: str | None = None,
    kv_capacity: int | None = None,
    rate: float | None = None,
    requests: int | None = None,
    prefill_base_ms: float = GSM8K_CLOCK.prefill_base_ms,
    prefill_per_token_ms: float = GSM8K_CLOCK.prefill_per_token_ms,
    decode_base_ms: float = GSM8K_CLOCK.decode_base_ms,
) -> Instance:
    """Requests in the order of the file; the laws of the outputs are those of the family gsm8k."""
    times = {
        "prefill_base_ms": prefill_base_ms,
        "prefill_per_token_ms": prefill_per_token_ms,
        "decode_base_ms": decode_base_ms,
    }
    faults = [
        Fault(f"--{name.replace('_', '-')}", f"found {value}; allowed: {least} or more")
        for name, value, least in (
            ("slots", slots, 1),
            ("requests", requests, 1),
            ("seed", seed, 0),
            ("kv_capacity", kv_capacity, 1),
            ("rate", rate, 1e-6),
        )
        if value is not None and not value >= least
    ]
    faults += [
        Fault(f"--{name.replace('_', '-')}", f"found {value}; allowed: 0 to 10^9")
        for name, value in times.items()
        if not 0 <= value <= 1e9
    ]
    if server is None:
        faults += [
            Fault(f"--{name}", "stands without --server; allowed: --slots and the times of the law")
            for name, value in (("kv-capacity", kv_capacity), ("rate", rate))
            if value is not None
        ]
    if faults:
        raise InputError("import lengths", faults)
    host = Server(slots=slots, clock=LinearClock(kind="linear", **times))
    if server is not None:
        host = find_server(server)
        if kv_capacity is not None:
            host = host.model_copy(update={"kv_capacity_tokens": kv_capacity})
    where = where_of(path)
    columns = (prompt_column,) if output_column is None else (prompt_column, output_column)
    found: dict[str, list[int]] = {column: [] for column in columns}
    for row in islice(read_csv(path, columns).rows(), requests):
        for column in columns:
            found[column].append(row.tokens(column, faults))
        if len(faults) >= MOST_FAULTS:
            break
    if faults:
        raise InputError(where, faults)
    prompt = np.array(found[prompt_column], dtype=np.int64)
    if not len(prompt):
        raise InputError(where, [Fault("file", "has no request")])
    if output_column is None:
        output = output_lengths(output_law, len(prompt), np.random.default_rng(seed))
        law = f"outputs {output_law}, seed {seed}"
    else:
        output, law = np.array(found[output_column], dtype=np.int64), f"outputs {output_column}"
    stem = "lengths" if where == "standard input" else Path(path).name.partition(".")[0]
    arrival = None
    if rate is not None:
        gaps = np.random.default_rng([seed, 1]).exponential(1 / rate, len(prompt) - 1)
        arrival = np.concatenate([[0.0], np.cumsum(gaps)])
    place = f"j{slots}" if server is None else "server"
    return timed_instance(
        f"{stem}-n{len(prompt)}-{place}" + (f"-{output_law}-s{seed}" if output_column is None else ""),
        f"trace lengths {stem}",
        f"{stem}: {len(prompt)} requests, prompts {prompt_column}, {law}"
        + (f", on {server}" if server is not None else "")
        + (f", {rate:g} requests/s" if rate is not None else ""),
        host,
        prompt,
        output,
        arrival=arrival,
    )
