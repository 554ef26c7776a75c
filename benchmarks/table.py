"""The table of ``benchmarks/README.md``, from the results files: what each benchmark measures, and its figure.

    python benchmarks/table.py [--check]

Run it after a measurement; ``--check`` only says whether the page is what the results say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from record import best_known

HERE = Path(__file__).resolve().parent
HEAD = """# Benchmarks

Each is one command, `python benchmarks/...` from the root of the project, and writes what it measured to a file in
`benchmarks/results/`. `python benchmarks/table.py` makes this page from those files; a test holds them to each other.

| command | measures | to compare with | measured | on |
|---|---|---|---|---|
"""
FOOT = """
Times of a machine that is shared with other work are long; where a benchmark compares peers, they ran in turn under
the same load. `hard.py` has no row: its results are the table of open instances, `instances/hard/table.json`. Nor have
`library_choice.py` and `library.py`: theirs are in `instances/library/library.json`; those of `library_policies.py` are
the table of policies in the documentation.
"""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark, and how its figures are read from its results."""

    command: str
    measures: str
    compare: str
    figures: Callable[[Any], str]

    @property
    def results(self) -> Path:
        """The file that it writes."""
        return HERE / "results" / f"{Path(self.command.split()[0]).stem}.json"

    def row(self) -> str:
        """The row of the table."""
        if not self.results.is_file():
            return f"| `{self.command}` | {self.measures} | {self.compare} | not measured yet | |\n"
        found = json.loads(self.results.read_text())
        on = f"{found['date']}, {found['machine']}"
        return f"| `{self.command}` | {self.measures} | {self.compare} | {self.figures(found)} | {on} |\n"


def _bounds(found: Any) -> str:
    rows = {row["name"]: row for row in found["runs"]}
    chats = [row["gap"] for name, row in rows.items() if name.startswith("chat")]
    trace = rows["azure-all"]
    return (
        f"a trace of {trace['requests']:,}: {trace['gap']:.2%} in {trace['seconds']:.0f} s; chats of 1,000 to 10,000:"
        f" {min(chats):.1%} to {max(chats):.1%}; every certificate verified:"
        f" {'yes' if all(row['verified'] for row in rows.values()) else 'NO'}"
    )


def _gsm8k(found: Any) -> str:
    table, paper = found["tables"]["exact predictions"], found["paper"]
    words = [
        f"{name} {table[name]['seconds']:.1f} s at {table[name]['utilisation']:.1%}"
        for name in ("sorted", "lagrangian", "hybrid")
    ]
    said = f"paper: {paper['baseline']['seconds']:.1f} s, hybrid {paper['hybrid']['seconds']:.1f} s"
    return f"{', '.join(words)}, bound {table['bound']:.1f} s ({said}), {table['seeds']} seeds"


def _handover(found: Any) -> str:
    figures = found["figures"]
    names = ("kv-hindsight-flow", "kv-hindsight", "numpy", "linopy", "pyoptinterface", "pulp")
    return ", ".join(f"{name} {figures[name]['first_processor_s']:.2f} s" for name in names)


def _long_files(found: Any) -> str:
    return "; ".join(
        f"{row['name']}: {row.get('taken', row['rows']):,} of {row['rows']:,} requests, {row['bytes'] / 1e6:,.0f} MB,"
        f" in {row['seconds']:.0f} s ({row['processor_s']:.0f} s of the processor) and {row['peak_mib']:,} MiB"
        for row in found["runs"]
    )


def _resolving(found: Any) -> str:
    rows = found["rows"]
    return ", ".join(f"{row['formulation']} ({row['changing']}) {row['ratio']:.1f} times as fast" for row in rows)


def _proofs(found: Any) -> str:
    best = best_known(found["rows"])
    cells: dict[tuple[int, float], dict[str, list[Any]]] = {}
    for row in found["rows"]:
        cells.setdefault((row["n"], row["limit"]), {}).setdefault(row["method"], []).append(row)
    words = []
    for (n, limit), methods in sorted(cells.items()):
        said = []
        for method, runs in sorted(methods.items()):
            gap = mean(1 - (row["bound"] or 0) / best[n, row["seed"]] for row in runs)
            said.append(f"{method} {sum(row['proven'] for row in runs)} of {len(runs)} ({gap:.1%})")
        words.append(f"n = {n}, {limit:.0f} s: {', '.join(said)}")
    return "proven, and mean gap of the bound to the best schedule known: " + "; ".join(words)


def _branch_and_cut(found: Any) -> str:
    rows, words = found["rows"], []
    best = best_known(rows)
    for n in sorted({row["n"] for row in rows}):
        said = []
        for method in dict.fromkeys(row["method"] for row in rows):
            runs = [row for row in rows if row["n"] == n and row["method"] == method]
            gap = mean(1 - (row["bound"] or 0) / best[n, row["seed"]] for row in runs)
            said.append(
                f"{method} {gap:.1%} ({sum(row['bound'] == row['value'] for row in runs)} of {len(runs)} proven)"
            )
        words.append(f"n = {n}: {', '.join(said)}")
    return "gap after 60 s, " + "; ".join(words)


def _cut_families(found: Any) -> str:
    words = []
    for n in sorted({row["n"] for row in found["rows"]}):
        rows = [row for row in found["rows"] if row["n"] == n]
        gap = {"no cuts": mean(1 - row["lp"] / row["value"] for row in rows)}
        for name in rows[0]["families"]:
            gap[name.replace("_", " ")] = mean(1 - row["families"][name]["bound"] / row["value"] for row in rows)
        words.append(f"n = {n}: " + ", ".join(f"{name} {share:.1%}" for name, share in gap.items()))
    return "gap at the root, " + "; ".join(words)


def _paper_trials(found: Any) -> str:
    words = []
    for arrivals in ("all-at-once", "poisson"):
        rows = [row for row in found["rows"] if row["arrivals"] == arrivals]
        ran = [row for row in rows if "proven" in row]
        least = [row["mc_sf"] / row["best"] for row in rows]
        most = [row["mc_sf"] / row["bound"] for row in ran]
        said = f"{arrivals}: at least {mean(least):.3f} (worst {max(least):.3f}) in {len(rows)} trials"
        if ran:
            said += (
                f"; with bounds by partitions {len(ran)}: at least {mean(r['mc_sf'] / r['best'] for r in ran):.3f},"
                f" at most {mean(most):.3f} (worst {max(most):.3f}), {sum(row['proven'] for row in ran)} proven"
            )
        words.append(said)
    return "; ".join(words)


def _serving(found: Any) -> str:
    spent = [row["process_cpu_s"] for row in found["azure"]]
    requests = found["azure"][0]["requests"]
    ratios = found["slopes on llama2-70b-2xa100"]["ratios"]
    slopes = "; ".join(f"at {rate}/s {ratios[rate]['ratio to mc-sf']:.1f}" for rate in ("50", "10"))
    return (
        f"{requests:,} requests: {min(spent):.1f} to {max(spent):.1f} s of the processor a policy; slope of the best"
        f" baseline to mc-sf's: {slopes}"
    )


def _sustaining(found: Any) -> str:
    distances = [row["distance"] for row in found["rows"]]
    servers = len({row["server"] for row in found["rows"]})
    covered = sum(row["low"] <= row["sweep"] <= row["high"] for row in found["rows"])
    return (
        f"{len(distances) // servers} policies on {servers} servers: {mean(distances):.1%} apart in the mean, at most"
        f" {max(distances):.1%}; the interval covers the sweep's rate {covered} of {len(distances)} times"
    )


def _goodput(found: Any) -> str:
    words = [
        f"{row['instance'].partition(', llama')[0]}: {max(row['policies'].values()):.0f}, {row['searched']:.0f},"
        f" {row['most']:.0f} of {row['requests']:,}"
        for row in found["rows"]
    ]
    return "; ".join(words)


def _gates(found: Any) -> str:
    rows = found["rows"]

    def change(row: Any, policy: str) -> float:
        pair = row["policies"][policy]
        return float(pair["auto"]["mean_latency_ms"] / pair["ungated"]["mean_latency_ms"] - 1)

    def none_worse(policy: str) -> str:
        return f"{sum(change(row, policy) <= 0 for row in rows)} ({policy})"

    first = found["policies"][0]
    best = min(rows, key=lambda row: change(row, first))
    fixed = best["best_fixed"]["mean_latency_ms"]
    plain = best["policies"][first]["ungated"]["mean_latency_ms"]
    return (
        f"no worse than without a gate on {', '.join(map(none_worse, found['policies']))} of {len(rows)} instances;"
        f" {first} on {best['instance']}: {plain / 1000:.1f} s without,"
        f" {best['policies'][first]['auto']['mean_latency_ms'] / 1000:.1f} s with `gate=auto`,"
        f" {fixed / 1000:.1f} s with `{best['best_fixed']['gate']}`"
    )


def _histories(found: Any) -> str:
    steps = sum(found["steps"].values())
    return f"{found['histories']:,} histories of {steps:,} steps in all: {found['wrong']} with another answer"


def _studies(found: Any) -> str:
    cost, kills = found["overhead"], found["kills"]
    same = "nothing lost, nothing twice" if kills["equal"] else "RUNS LOST"
    return f"{cost['overhead_ms']} ms a run beside its work; {kills['kills']} kills: {same}"


def _fuzz(found: Any) -> str:
    worst = found["worst"]
    return (
        f"{found['inputs']:,} inputs, {found['failed']} failed; worst {worst['processor_s'][0]} s of the processor,"
        f" {worst['memory_mib'][0]} MiB"
    )


def _slot_truth(found: Any) -> str:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(found["kinds"].items(), reverse=True))
    return f"{found['instances']:,} instances ({kinds}): {len(found['wrong'])} wrong"


def _kv_truth(found: Any) -> str:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(found["kinds"].items()))
    return f"{found['instances']:,} instances ({kinds}): {len(found['wrong'])} wrong"


def _checking(found: Any) -> str:
    kinds = found["kinds"].values()
    accepted, refused = (sum(kind.get(word, 0) for kind in kinds) for word in ("accepted", "refused"))
    return (
        f"{found['claims']:,} claims, {accepted:,} accepted and {refused:,} refused:"
        f" {len(found['disagreements'])} disagreements, {found['within_rounding']} bounds within the rounding of verify"
    )


def _library(results: Any) -> str:
    rows = results["rows"]
    both = sum(row["verify"] and row["checker"] for row in rows)
    times = {by: sum(row["seconds"][by] for row in rows) for by in ("verify", "checker")}
    return f"{both} of {len(rows)} entries; verify {times['verify']:.0f} s, checker {times['checker']:.0f} s"


def _serving_truth(found: Any) -> str:
    tiny, large = found["tiny"], found["large"]
    wrong = len(tiny["wrong"]) + len(large["wrong"])
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(tiny["kinds"].items()))
    return (
        f"{tiny['bounds']:,} bounds of {tiny['instances']:,} tiny instances ({kinds}) and {large['bounds']:,} of"
        f" {large['instances']:,} larger ones: {wrong} wrong"
    )


def _realtime(found: Any) -> str:
    whole = [row for row in found["rows"] if "error" not in row]
    words = [
        f"{row['name']} {row['gap']:.1%} ({row['bound_kind']}; before {row['prototype']['gap']:.1%})" for row in whole
    ]
    failed = [f"{row['name']} FAILED" for row in found["rows"] if "error" in row]
    verified = "yes" if all(row["verified"] for row in whole) else "NO"
    rows = [f"{', '.join([*words, *failed])}; every certificate verified: {verified}"] if found["rows"] else []
    return "; ".join([*rows, *([_small(found["small"])] if "small" in found else [])])


def _small(rows: list[dict[str, Any]]) -> str:
    """Mean share of the optimum that each bound comes to, on instances that are solved."""
    solved = [row for row in rows if row["status"] == "optimal"]
    names = sorted({name for row in solved for name in row["shares"]})
    shares = {name: [row["shares"][name] for row in solved if name in row["shares"]] for name in names}
    means = ", ".join(f"{name} {sum(of) / len(of):.0%}" for name, of in shares.items())
    slowest = max((row["seconds"] for row in solved), default=0.0)
    return (
        f"of the optimum of {len(solved)} of {len(rows)} instances of 5 to 8 requests (`--small`, proven in"
        f" {slowest:.0f} s at most): {means}"
    )


def _vllm_costs(found: Any) -> str:
    said = []
    for run in found["runs"]:
        decode, mixed = run["decode"], run["with_prompts"]
        errors = ", ".join(f"{way} {mixed['ways'][way]['median_error']:.1%}" for way in ("once", "twice", "slower"))
        said.append(
            f"{run['run']}: decode rounds from {decode['base_ms']:g} ms on, off by {decode['median_error']:.1%}; beside"
            f" prompts off by ({errors}); a prompt adds {mixed['extra_base_of_decode_base']['both']:.2f} of that base"
        )
    return "; ".join(said)


def _partial(files: list[str]) -> str:
    """Which part of the tests ran, where not all did."""
    return f" ({', '.join(Path(file).stem for file in files)})" if files else ""


def _versions(found: Any) -> str:
    return "; ".join(
        f"Python {row['interpreter']}, {row['resolution']}"
        f"{''.join(f' without {name}' for name in row['without'])}: {row['summary'].partition(' in ')[0].strip('= ')}"
        f"{_partial(row['arguments'])}"
        for row in found["environments"]
    )


BENCHMARKS = (
    Benchmark("proofs.py", "proofs of optimality of small KV instances, against raw solvers at equal time",
              "raw solvers in the same run", _proofs),
    Benchmark("branch_and_cut.py", "where cuts are best found: at the root or in SCIP's tree",
              "the diagram", _branch_and_cut),
    Benchmark("cut_families.py", "what each family of cuts adds to conflict cliques", "conflict cliques alone",
              _cut_families),
    Benchmark("paper_trials.py", "MC-SF over the optimum, which lies between bound and best schedule, in the trials of"
              " arXiv 2502.07115", "paper: 1.005 (worst 1.074) and 1.047 (worst 1.227)", _paper_trials),
    Benchmark("bounds.py --trace CSV", "gap of schedule and certified bound at trace scale",
              "–", _bounds),
    Benchmark("gsm8k.py", "makespan and utilisation of 1,319 questions on 200 slots, arXiv 2502.15763",
              "paper: hybrid closes 52.4 % of the gap to the bound", _gsm8k),
    Benchmark("serving.py", "continuous batching of a whole trace; latency slopes of arXiv 2502.07115",
              "paper's ratios: 3 and 8", _serving),
    Benchmark("gates.py", "letting prompts in together in real time: `gate=auto` on chats and the Azure trace",
              "no gate, and the best of 24 fixed gates", _gates),
    Benchmark("sustaining.py", "the rate that `sustain` finds for a policy",
              "a sweep in steps of 1 % with the same requests", _sustaining),
    Benchmark("goodput.py", "requests in time: the best policy, the search with all lengths known, the certified most",
              "the certified bound", _goodput),
    Benchmark("handover.py", "a million non-zeros until HiGHS holds them, in a fresh process: time on the processor",
              "peers in the same run",
              _handover),
    Benchmark("resolving.py", "a changed model until a solver can have it: `mk.resolve` against building it anew",
              "the other way, in the same run", _resolving),
    Benchmark(
        "histories.py", "random histories of the Python interface: errors, Ctrl-C, kills, threads, forks",
        "answers of fresh processes", _histories,
    ),
    Benchmark("studies.py", "what a study costs beside its runs; kills at random moments", "nothing lost", _studies),
    Benchmark("fuzz.py", "hostile inputs to every reader and the command line",
              "10,000 inputs, none fails; under 5 s and 1 GiB each", _fuzz),
    Benchmark("kv_truth.py", "optima that the search proves, and certificates by partitions, against an exhaustive"
              " search", "none wrong", _kv_truth),
    Benchmark("slot_truth.py", "every status, value and bound of small slot instances against an exhaustive search",
              "none wrong", _slot_truth),
    Benchmark("checking.py", "the checker of one file against `verify`: schedules and certificates, right and altered",
              "2,000 claims, both accept or neither does", _checking),
    Benchmark("serving_truth.py", "bounds of serving in real time against exhaustive search, and against policies",
              "none above a value", _serving_truth),
    Benchmark("realtime.py --azure CSV", "real time: gap of mean latency from the best certified bound to the best"
              " schedule, in 60 s up to 1,000 requests and 120 s above", "an earlier prototype, on other draws of the"
              " chats", _realtime),
    Benchmark(
        "vllm_costs.py FOLDER", "iterations of two real runs of vLLM: whether the fixed part is paid once, or for"
        " prompts and decoding each, or decoding is slower beside prompts",
        "each other, on the other half of a run", _vllm_costs,
    ),
    Benchmark("library_verify.py --traces FOLDER", "every entry of the library, by verify and by the checker",
              "all confirmed by both", _library),
    Benchmark("long_files.py", "a window of a list of JSON of a gigabyte, and of a million rows: time and peak memory",
              "a million rows under 30 s and 1 GiB", _long_files),
    Benchmark("versions.py", "the tests on the oldest, the constrained and the newest versions", "all pass", _versions),
)  # fmt: skip


def page() -> str:
    """The whole page."""
    return HEAD + "".join(benchmark.row() for benchmark in BENCHMARKS) + FOOT


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    target = HERE / "README.md"
    if not parser.parse_args().check:
        target.write_text(page())
    elif not target.is_file() or target.read_text() != page():
        sys.exit(f"{target} is not what the results say; run python benchmarks/table.py")


if __name__ == "__main__":
    main()
