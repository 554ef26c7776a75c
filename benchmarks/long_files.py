"""Long traces and logs, of which a window is imported: time and peak memory of the command.

``python benchmarks/long_files.py`` writes ``benchmarks/results/long_files.json``. The files are made in a folder that
is deleted again: JSON of one list of a gigabyte, as inference-perf writes it, and a million rows as BurstGPT has them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from record import keep, stamp

RESULTS = Path(__file__).resolve().parent / "results" / "long_files.json"
#: Size of the list [byte], requests a second, and seconds that a token takes.
LIST_BYTES, RATE, PACE = 10**9, 5.0, 0.02
ROWS = 1_000_000


def write_list(path: Path) -> int:
    """One list of requests that a server of a constant pace served, with their texts; gives their number."""
    rng = np.random.default_rng(1)
    moment, written, n = 0.0, 1, 0
    with path.open("w") as file:
        file.write("[")
        while written < LIST_BYTES:
            moment += float(rng.exponential(1 / RATE))
            prompt, output = int(rng.integers(20, 2000)), int(rng.integers(2, 200))
            first = moment + 0.03 + 2e-5 * prompt
            times = [round(first + PACE * k, 6) for k in range(output)]
            answer = {"output_tokens": output, "output_token_times": times, "chunk_times": times}
            request = {
                "start_time": round(moment, 6), "end_time": times[-1], "request": "word " * prompt,
                "response": "word " * output, "info": {"input_tokens": prompt, "response_metrics": answer},
                "error": None,
            }  # fmt: skip
            text = json.dumps(request)
            file.write(("" if n == 0 else ",\n") + text)
            written, n = written + len(text) + 2, n + 1
        file.write("]\n")
    return n


def burst_rows() -> Iterator[str]:
    """Rows as of BurstGPT, one in 3.7 s on average, some of them failures."""
    rng = np.random.default_rng(2)
    yield "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    moments = np.cumsum(rng.exponential(3.7, ROWS)).astype(int)
    prompts, outputs = rng.integers(1, 2000, ROWS), rng.integers(0, 400, ROWS)
    for moment, prompt, output in zip(moments, prompts, outputs, strict=True):
        yield f"{moment},ChatGPT,{prompt},{output},{prompt + output},Conversation log\n"


def measured(*words: str) -> dict[str, Any]:
    """Wall-clock and processor seconds and peak memory of a command, which has to succeed."""
    began = time.perf_counter()
    process = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-m", "modelkit", *words])
    _, status, usage = os.wait4(process, 0)
    if status:
        sys.exit(f"modelkit {' '.join(words)} failed")
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "processor_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }


def main() -> None:
    """Make the files, import windows of them, and write what it took."""
    document: dict[str, Any] = {**stamp(), "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        made, target = Path(folder), str(Path(folder) / "a.json")

        def run(name: str, path: Path, rows: int, *words: str) -> None:
            row = {"name": name, "rows": rows, "bytes": path.stat().st_size, **measured(*words)}
            if words[0] == "import":  # requests stand in columns
                row["taken"] = len(json.loads(Path(target).read_text())["requests"]["id"])
            document["runs"].append(row)
            print(row, flush=True)

        table = made / "burst.csv"
        with table.open("w") as file:
            file.writelines(burst_rows())
        window = ("--from", "1000000", "--until", "2000000")
        run("table, a window", table, ROWS, "import", "burstgpt", str(table), *window, "-q", "-o", target)
        run("table, all of it", table, ROWS, "import", "burstgpt", str(table), "-q", "-o", target)
        table.unlink()
        listed = made / "lifecycle.json"
        rows = write_list(listed)
        window = ("--from", "2000", "--until", "2100")
        run("list, a window", listed, rows, "import", str(listed), *window, "-q", "-o", target)
        run("list, a window judged", listed, rows, "judge", str(listed), *window, "-q", "--time-limit", "10")
    keep(document, RESULTS)


if __name__ == "__main__":
    main()
