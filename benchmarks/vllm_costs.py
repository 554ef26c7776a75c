"""What an iteration costs in two real runs of vLLM: is its fixed part paid once, or for prompts and decoding each?

    python benchmarks/vllm_costs.py FOLDER

FOLDER holds the folders of the runs with their ``requests.jsonl`` (casys-kaist/LLMServingSim, MIT,
``bench/examples/RTXPRO6000/*/vllm`` at commit 5daddb2): moments at which requests were queued, scheduled, had their
first token and their last. Each of these is the end of an iteration.

Decode rounds
    Between two moments with no prompt in progress there are only decode rounds, whose batch and held tokens are
    known; how many there are is the whole number nearest to what the law says, which is fitted anew until that rests.
Iterations with prompts
    vLLM schedules an iteration while the one before runs. From the moment at which a prompt is scheduled until its
    first token so pass the round that runs, which decodes only where no other prompt is in progress, and one
    iteration with the prompt and the batch. What that one lasts beyond a decode round is explained in five ways:

    once      p1 n
    free      p0 + p1 n
    twice     D + p1 n, with D the fixed part of a decode round
    slower    p1 n + x (decode_per_request B + decode_per_kv_token KV): decoding takes longer beside a prompt
    both      p0 + p1 n + x (...)

    with n the prompt tokens, fitted by least absolute deviations. The first half of a run is explained by what was
    fitted to the second, and the other way round.

Prompts of which a part was in vLLM's prefix cache take less than their tokens say. Where an iteration is shorter by
more than 15 % than `both` says, that is taken for the reason, and it is left out.

What the runs do not say: how long an iteration with prompts alone lasts. Only the first request of each run comes when
nobody decodes, and it warms the engine up. So they tell the fixed part of a decode round, and what a prompt adds to it;
how much of the fixed part would be paid without decoding (``base_ms`` against ``decode_base_ms``) they do not tell.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from record import keep, stamp
from scipy.optimize import linprog

RESULTS = Path(__file__).parent / "results" / "vllm_costs.json"
#: Moments closer than this are the same end of an iteration [ms].
SAME = 0.6
#: An iteration that is shorter than its law by a larger share had a part of its prompts in the prefix cache.
CACHED = 0.15

Floats = npt.NDArray[np.float64]


class Run(NamedTuple):
    """Requests of a run: tokens, and moments in ms, shape [n] each."""

    name: str
    batch_tokens: float  # of an iteration
    engines: int
    prompt: Floats
    output: Floats
    queued: Floats
    scheduled: Floats
    first: Floats
    last: Floats

    def held(self, moment: float, decoding: npt.NDArray[np.bool_]) -> float:
        """Tokens that these hold at a moment; each produced its own evenly."""
        share = (moment - self.first[decoding]) / (self.last[decoding] - self.first[decoding])
        return float((self.prompt[decoding] + 1 + share.clip(0, 1) * (self.output[decoding] - 1)).sum())


class Rounds(NamedTuple):
    """Spans of decode rounds: duration [ms], batch, held tokens, and when; shape [m] each."""

    ms: Floats
    batch: Floats
    held: Floats
    moment: Floats


class Mixed(NamedTuple):
    """Iterations with prompts: duration with the round before [ms], prompt tokens, batch, held tokens, and when."""

    ms: Floats
    tokens: Floats
    batch: Floats
    held: Floats
    moment: Floats


def read(folder: Path) -> Run:
    """The requests of a run, in the order in which they were scheduled."""
    rows = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    rows.sort(key=lambda row: row["scheduled_ts"])
    engine = json.loads((folder / "meta.json").read_text())["engine_kwargs"]
    start = min(row["queued_ts"] for row in rows)
    tokens = [np.array([row[key] for row in rows], dtype=float) for key in ("input_toks", "output_toks")]
    keys = ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")
    moments = [(np.array([row[key] for row in rows]) - start) * 1000 for key in keys]
    return Run(folder.name, engine["max_num_batched_tokens"], engine["data_parallel_size"], *tokens, *moments)


def decode_rounds(run: Run) -> Rounds:
    """Spans between two moments in which no prompt is scheduled or processed."""
    ends = np.sort(np.concatenate([run.first, run.last, run.scheduled, run.queued]))
    ends = ends[np.concatenate([[True], np.diff(ends) > SAME])]
    rows = []
    for begin, end in pairwise(ends):
        decoding = (run.first <= begin + SAME) & (run.last >= end - SAME)
        if decoding.any() and not ((run.scheduled < end - SAME) & (run.first > begin + SAME)).any():
            middle = (begin + end) / 2
            rows.append((end - begin, decoding.sum(), run.held(middle, decoding), begin))
    return Rounds(*np.array(rows, dtype=float).T)


def mixed_iterations(run: Run) -> Mixed:
    """Iterations that process whole prompts which no other prompt's processing overlaps."""
    rows = []
    for i in range(1, len(run.prompt)):  # the first warms the engine up
        begin, end = run.scheduled[i], run.first[i]
        overlapping = (run.scheduled < end - SAME) & (run.first > begin + SAME)
        together = (np.abs(run.scheduled - begin) < SAME) & (np.abs(run.first - end) < SAME)
        decoding = (run.first <= begin + SAME) & (run.last > end - SAME)
        tokens = run.prompt[together].sum()
        alone = not (overlapping & ~together).any() and i == np.flatnonzero(together)[0]
        if alone and decoding.any() and tokens <= run.batch_tokens - decoding.sum() / run.engines:
            rows.append((end - begin, tokens, decoding.sum(), run.held(begin, decoding), begin))
    return Mixed(*np.array(rows, dtype=float).T)


def least_deviations(terms: Floats, values: Floats) -> Floats:
    """Coefficients, none negative, with the least sum of absolute errors."""
    m, k = terms.shape
    scale = np.abs(terms).max(axis=0)
    matrix = np.hstack([terms / scale, np.eye(m), -np.eye(m)])
    found = linprog(np.concatenate([np.zeros(k), np.ones(2 * m)]), A_eq=matrix, b_eq=values, method="highs")
    return np.asarray(found.x[:k] / scale)


def round_terms(batch: Floats, held: Floats) -> Floats:
    """What a decode round's coefficients are multiplied with, shape [m, 3]."""
    return np.stack([np.ones_like(batch), batch, held], axis=1)


def rough_law(run: Run) -> Floats:
    """The same law from whole requests, each of which is ``output - 1`` iterations long, with prompts or without."""
    rows = []
    for first, last, output in zip(run.first, run.last, run.output, strict=True):
        moments = np.linspace(first, last, 62)[1:-1]
        decoding = [(run.first <= moment) & (run.last > moment) for moment in moments]
        held = np.mean([run.held(m, d) for m, d in zip(moments, decoding, strict=True)])
        read = run.prompt[(run.first > first) & (run.first <= last)].sum()
        rows.append((1, np.sum(decoding) / len(moments), held, read / (output - 1), (last - first) / (output - 1)))
    table = np.array(rows)
    return least_deviations(table[:, :4], table[:, 4])[:3]


def decode_law(rounds: Rounds, law: Floats) -> Floats:
    """Fixed part, part of a request, part of a held token [ms], from a law near it."""
    terms = round_terms(rounds.batch, rounds.held)
    for _ in range(30):
        spans = np.maximum(1, np.round(rounds.ms / (terms @ law)))
        near = np.abs(rounds.ms / spans / (terms @ law) - 1) < 0.25
        law = least_deviations(terms[near], (rounds.ms / spans)[near])
    return law


def explained(run: Run, mixed: Mixed, law: Floats) -> dict[str, Any]:
    """Each way to explain iterations with prompts: its coefficients, and its errors on the other half of the run."""
    decode = round_terms(mixed.batch, mixed.held)
    extra = mixed.ms - 2 * decode @ law
    moving = decode[:, 1:] @ law[1:]
    ways = {
        "once": (mixed.tokens[:, None], np.zeros_like(extra)),
        "free": (np.stack([np.ones_like(extra), mixed.tokens], axis=1), np.zeros_like(extra)),
        "twice": (mixed.tokens[:, None], np.full_like(extra, law[0])),
        "slower": (np.stack([mixed.tokens, moving], axis=1), np.zeros_like(extra)),
        "both": (np.stack([np.ones_like(extra), mixed.tokens, moving], axis=1), np.zeros_like(extra)),
    }
    every = ways["both"][0]
    lasts = mixed.ms - decode @ law
    whole = np.ones(len(extra), dtype=bool)
    for _ in range(5):
        whole = every @ least_deviations(every[whole], extra[whole]) - extra < CACHED * lasts
    early = mixed.moment <= np.median(mixed.moment[whole])
    found: dict[str, Any] = {}
    for name, (terms, given) in ways.items():
        errors = np.zeros_like(extra)
        for half in (early, ~early):
            fitted = least_deviations(terms[half & whole], (extra - given)[half & whole])
            errors[~half] = (terms @ fitted + given - extra)[~half] / lasts[~half]
        coefficients = least_deviations(terms[whole], (extra - given)[whole])
        found[name] = {
            "coefficients": [float(f"{c:.4g}") for c in coefficients],
            "median_error": round(float(np.median(np.abs(errors[whole]))), 4),
            "mean_error": round(float(np.abs(errors[whole]).mean()), 4),
        }
    small, large = (whole & chosen for chosen in (mixed.batch < 60, mixed.batch > 0.9 * mixed.batch.max()))
    beyond = extra - found["slower"]["coefficients"][0] * mixed.tokens
    return {
        "iterations": int(whole.sum()), "left_out_as_cached": int((~whole).sum()), "ways": found,
        "extra_base_of_decode_base": {
            way: round(found[way]["coefficients"][0] / float(law[0]), 3) for way in ("free", "both")
        },
        "beyond_tokens_ms": {
            "batches below 60": round(float(np.median(beyond[small])), 2),
            "full batches": round(float(np.median(beyond[large])), 2),
        },
    }  # fmt: skip


def measured(run: Run) -> dict[str, Any]:
    """All that a run says."""
    rounds, mixed = decode_rounds(run), mixed_iterations(run)
    terms = round_terms(rounds.batch, rounds.held)
    rough = rough_law(run)
    law = decode_law(rounds, rough)

    def errors(of: Floats, chosen: npt.NDArray[np.bool_]) -> Floats:
        spans = np.maximum(1, np.round(rounds.ms / (terms @ of)))
        return np.asarray(np.abs(rounds.ms / spans / (terms @ of) - 1)[chosen])

    early = rounds.moment <= np.median(rounds.moment)
    crossed = np.concatenate(
        [errors(decode_law(Rounds(*(column[half] for column in rounds)), rough), ~half) for half in (early, ~early)]
    )
    return {
        "run": run.name, "requests": len(run.prompt),
        "decode": {
            "spans": len(rounds.ms), "seconds": round(float(rounds.ms.sum() / 1000), 2),
            "base_ms": float(f"{law[0]:.4g}"), "per_request_ms": float(f"{law[1]:.4g}"),
            "per_kv_token_ms": float(f"{law[2]:.4g}"),
            "median_error": round(float(np.median(errors(law, np.ones_like(early)))), 4),
            "median_error_of_the_other_half": round(float(np.median(crossed)), 4),
        },
        "with_prompts": explained(run, mixed, law),
        "prompts_alone": int(sum(not ((run.first < s) & (run.last > s)).any() for s in run.scheduled)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if not folder.is_dir():
        sys.exit(f"skipped: there is no folder {folder}")
    runs = [measured(read(path.parent)) for path in sorted(folder.glob("*/requests.jsonl"))]
    keep({**stamp(), "runs": runs}, RESULTS)
    for run in runs:
        print(json.dumps(run, indent=1))


if __name__ == "__main__":
    main()
