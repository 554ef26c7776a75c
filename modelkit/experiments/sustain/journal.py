"""What was tried: a line for each run in a file, so that a search that is stopped goes on where it was."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelkit.errors import UsageError

#: Metrics that are kept of a run.
KEPT = (
    "mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p99_tpot_ms", "mean_latency_ms", "p99_latency_ms", "within_slo",
    "goodput_requests_per_second", "goodput_tokens_per_second",
)  # fmt: skip


@dataclass(frozen=True)
class Probe:
    """One run: a policy at a value of the axis, with the draw of a seed.

    Parameters
    ----------
    key
        Hash of all that decides the run.
    within
        Requests within their levels, of ``requests``.
    words
        Why there is no schedule; empty where there is one.
    """

    key: str
    policy: str
    value: float
    seed: int
    requests: int
    within: int
    metrics: dict[str, float | None]
    words: str = ""


class Journal:
    """Probes in a file of JSON lines."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "probes.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make the folder {folder}: {error.strerror or error}") from None
        self.known = {probe.key: probe for probe in self._read()}
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            self._append("\n")  # behind a line that was not finished

    def _read(self) -> Iterator[Probe]:
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError):  # a line that was not finished
                yield Probe(**json.loads(line))

    def add(self, probe: Probe) -> None:
        """Keep a probe."""
        self.known[probe.key] = probe
        self._append(json.dumps(asdict(probe), ensure_ascii=False) + "\n")

    def _append(self, text: str) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise UsageError(f"cannot write {self.path}: {error.strerror or error}") from None


def kept(metrics: dict[str, Any]) -> dict[str, float | None]:
    """The metrics that a journal keeps."""
    return {name: metrics.get(name) for name in KEPT}
