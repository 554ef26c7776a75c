"""The search for what policies sustain, with the workers of studies, and for what no scheduler can, as certified."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from modelkit.arguments import checked_arguments
from modelkit.certificate import Certificate
from modelkit.errors import UsageError, did_you_mean
from modelkit.experiments.run import Run, plan_run
from modelkit.experiments.sustain.found import Point, PolicyLimit, Sustained, limit_interval, plain_stem
from modelkit.experiments.sustain.journal import Journal, Probe, kept
from modelkit.experiments.sustain.search import Search
from modelkit.experiments.sustain.traffic import Arrivals, Over, Traffic, traffic
from modelkit.experiments.workers import run_all
from modelkit.instance import Instance
from modelkit.io import load, save_instance
from modelkit.judge.slo import Slo, service_levels
from modelkit.problems.serving.goodput import goodput_certificate, goodput_prices
from modelkit.requests import ServiceLevels
from modelkit.result import Progress, Result
from modelkit.runtime.deadline import Deadline
from modelkit.runtime.interrupts import interruptible
from modelkit.verify.serving_goodput import rate_bound

#: Seeds by default, and the share by which values on both sides of a limit differ at the end.
SEEDS, TOLERANCE = 5, 0.01
#: The least rate that is tried is so many times less than the first.
EASIER = 1000.0
#: Values that are tried side by side: starting the workers takes longer than a run.
SIDE_BY_SIDE = 3
#: Seconds for each bound on one draw.
BOUND_SECONDS = 20.0
#: How close the certified value is looked for.
CERTIFIED_TOLERANCE = 0.02


@checked_arguments
@interruptible()
def sustain(
    source: str | os.PathLike[str] | Instance,
    policies: Sequence[str],
    *,
    slo: Slo = None,
    over: str = "rate",
    percentile: float = 99.0,
    seeds: int = SEEDS,
    requests: int | None = None,
    arrivals: str = "poisson",
    rate: float | None = None,
    server: str | None = None,
    options: Mapping[str, Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    tolerance: float = TOLERANCE,
    bound: bool = True,
    predictions: str | None = None,
    max_batch: int | None = None,
    max_batch_tokens: int | None = None,
    chunked_prefill: bool = False,
    jobs: int | None = None,
    listen: Callable[[Progress], None] | None = None,
) -> Sustained:
    """The largest rate, or the least memory or slots, at which policies keep service levels, and what nobody can do.

    A policy keeps them where, over all seeds, at least ``percentile`` % of the requests keep all their levels.

    Parameters
    ----------
    source
        An instance, whose requests come in another order for each seed, or the name of a family.
    policies
        ``NAME``, or ``NAME:option=value,option=value``.
    slo
        Service levels, such as ``"ttft=450ms,tpot=40ms"``; None: the instance's own.
    over
        ``rate``; ``kv_capacity`` or ``slots``, at the ``rate`` given or the instance's.
    percentile
        Percentage of the requests that must keep their levels.
    seeds
        Draws of requests and arrivals; the same for every policy and value.
    requests, arrivals
        Of each draw; see `modelkit.experiments.sustain.traffic.traffic`.
    server
        A preset or a JSON file of a server, in place of the instance's; a family needs one.
    options
        Further options of the family.
    folder
        For what was tried, which is not tried again, and for certificates; None: named after the source.
    tolerance
        The search ends when the values on both sides of a limit differ by this share.
    bound
        Whether to prove what nobody can exceed.
    predictions, max_batch, max_batch_tokens, chunked_prefill
        As in `modelkit.simulate`.
    jobs
        Runs at a time; None: one for each processor.
    listen
        Called with what is being tried.

    Raises
    ------
    UsageError
        No levels, an unknown policy or family, or an instance without milliseconds.
    """
    over_, arrivals_ = _checked(over, arrivals, percentile, seeds, tolerance)
    given, options = _source(source, server, options)
    own = given.server.slo if isinstance(given, Instance) else None
    drawn = traffic(given, tuple(range(seeds)), requests=requests, arrivals=arrivals_, rate=rate, options=options)
    levels = service_levels(slo, drawn.first) or own or drawn.first.server.slo
    if levels is None:
        raise UsageError("service levels are needed: --slo ttft=450ms,tpot=40ms, or server.slo in the instance")
    if over_ != "rate" and drawn.rate is None:
        raise UsageError(f"{over_} at which rate? All requests arrive together; --rate gives one")
    simulated = {
        "predictions": predictions, "max_batch": max_batch, "max_batch_tokens": max_batch_tokens,
        "chunked_prefill": chunked_prefill,
    }  # fmt: skip
    parameters = {"slo": levels.document(), **{name: value for name, value in simulated.items() if value}}
    place = Path(folder) if folder is not None else Path(f"{plain_stem(drawn.name)}.sustain")
    trial = Trial(
        drawn, over_, levels, Fraction(str(percentile)) / 100, parameters, tolerance, place, jobs,
        listen or (lambda progress: None),
    )  # fmt: skip
    return trial.run(list(dict.fromkeys(policies)), bound)


def _checked(over: str, arrivals: str, percentile: float, seeds: int, tolerance: float) -> tuple[Over, Arrivals]:
    named: dict[str, Over] = {
        "rate": "rate",
        "kv_capacity": "kv_capacity",
        "kv-capacity": "kv_capacity",
        "slots": "slots",
    }
    if over not in named:
        raise UsageError(f"over: found {over!r}; allowed: rate, kv_capacity, slots")
    if arrivals not in ("poisson", "own"):
        raise UsageError(f"arrivals: found {arrivals!r}; allowed: poisson, own")
    if not 0 < percentile <= 100:
        raise UsageError(f"percentile: found {percentile:g}; allowed: above 0, at most 100")
    if not 1 <= seeds <= 1000:
        raise UsageError(f"seeds: found {seeds}; allowed: 1 to 1000")
    if not 1e-4 <= tolerance < 1:
        raise UsageError(f"tolerance: found {tolerance:g}; allowed: 0.0001 or more, less than 1")
    return named[over], "own" if arrivals == "own" else "poisson"


def _source(
    source: str | os.PathLike[str] | Instance, server: str | None, options: Mapping[str, Any] | None
) -> tuple[Instance | str, dict[str, Any]]:
    """An instance, or the name of a family with its options."""
    from modelkit.sources.families import families
    from modelkit.sources.servers import find_server

    if isinstance(source, str) and source in families() and not os.path.exists(source):
        return source, {**(options or {}), **({"server": server} if server is not None else {})}
    if isinstance(source, str) and not os.path.exists(source) and (words := did_you_mean(source, families())):
        raise UsageError(f"no file and no family is called {source!r}{words}")
    instance = load(source)
    return (instance if server is None else instance.replace(server=find_server(server))), dict(options or {})


@dataclass
class Trial:
    """The searches of all policies, and of what is certified.

    Parameters
    ----------
    share
        Of the requests that must keep their levels.
    parameters
        Of the runs.
    """

    traffic: Traffic
    over: Over
    levels: ServiceLevels
    share: Fraction
    parameters: dict[str, Any]
    tolerance: float
    folder: Path
    jobs: int | None
    listen: Callable[[Progress], None]
    points: dict[str, dict[float, Point]] = field(default_factory=dict)

    def run(self, policies: list[str], bound: bool) -> Sustained:
        """All searches; Ctrl-C ends them, and what was tried is kept."""
        self.check(policies)
        self.journal = Journal(self.folder)
        self.listen(Progress("what nobody can exceed", 0.0))
        long_run = self.long_run()
        searches = {policy: self.search(long_run) for policy in policies}
        self.points = {policy: {} for policy in policies}
        certified: float | None = None
        certificates: tuple[Certificate, ...] = ()
        interrupted = False
        try:
            self.try_policies(searches)
            if bound:
                certified, certificates = self.certify(searches, long_run)
        except KeyboardInterrupt:
            interrupted = True
        limits = tuple(self.limit(policy, search) for policy, search in searches.items())
        return Sustained(
            name=self.traffic.name,
            over=self.over,
            slo=self.levels,
            percentile=float(self.share * 100),
            seeds=tuple(self.traffic.draws),
            requests=len(self.traffic.first.requests),
            arrivals=self.traffic.arrivals,
            rate=None if self.over == "rate" else self.traffic.rate,
            limits=limits,
            certified=certified,
            in_the_long_run=long_run,
            certificates=certificates,
            folder=self.folder,
            interrupted=interrupted,
        )

    def check(self, policies: list[str]) -> None:
        """Refuse policies that are not known, or not for these instances."""
        from modelkit.policies import chosen_policy
        from modelkit.simulation.simulate import fitting_policies

        fitting = fitting_policies(self.traffic.first)
        for policy in policies:
            if (name := chosen_policy(policy)[0].name) not in fitting:
                raise UsageError(f"policy {name!r} is not for this instance\n  policies for it: {', '.join(fitting)}")

    def long_run(self) -> float | None:
        """What nobody can exceed in the long run, with requests of the lengths of all draws."""
        rows = [r for draw in self.traffic.draws.values() for r in draw.requests]
        requests = tuple(r.model_copy(update={"id": f"q{i}"}) for i, r in enumerate(rows))
        together = self.traffic.first.replace(requests=requests)
        if self.over == "rate":
            most = rate_bound(together, self.levels, self.share)
            return None if most is None else float(most)
        rate = Fraction(self.traffic.rate or 0.0)

        def enough(value: int) -> bool:
            most = rate_bound(self.traffic.served(together, self.over, value), self.levels, self.share)
            return most is None or most >= rate

        low, high = self.traffic.least(self.over) - 1, self.traffic.most(self.over)
        while high - low > max(1, int(self.tolerance * low / 4)):
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return float(low) if low >= self.traffic.least(self.over) else None

    # --- policies ------------------------------------------------------------------------------

    def search(self, long_run: float | None) -> Search:
        """Where to look for the limit of a policy."""
        if self.over == "rate":
            start = long_run / 2 if long_run else self.traffic.rate or 1.0
            return Search(start, larger_is_harder=True, tolerance=self.tolerance, easiest=start / EASIER)
        server, least, most = self.traffic.first.server, self.traffic.least(self.over), self.traffic.most(self.over)
        own = server.kv_capacity_tokens if self.over == "kv_capacity" else server.slots
        start = min(max(own or math.isqrt(least * most), least), most)
        return Search(start, larger_is_harder=False, tolerance=self.tolerance, whole=True, easiest=most, hardest=least)

    def try_policies(self, searches: dict[str, Search]) -> None:
        """Values of all policies side by side, until every limit is found."""
        while wanted := [(policy, value) for policy, search in searches.items() for value in search.next(SIDE_BY_SIDE)]:
            for policy in dict.fromkeys(policy for policy, _ in wanted):
                values = ", ".join(f"{value:.4g}" for name, value in wanted if name == policy)
                self.listen(Progress(f"{policy} at {values}", 0.0))
            self.probe(wanted)
            for policy, value in wanted:
                searches[policy].tell(value, self.holds(self.points[policy][value]))

    def holds(self, point: Point) -> bool:
        """Whether enough requests keep their levels."""
        return sum(p.within for p in point.probes) >= self.share * sum(p.requests for p in point.probes)

    def probe(self, wanted: list[tuple[str, float]]) -> None:
        """Run each policy at its values with every draw, but for what was run before."""
        runs: dict[tuple[str, float, int], Run] = {}
        files: list[Path] = []
        try:
            for policy, value in wanted:
                for seed in self.traffic.draws:
                    runs[policy, value, seed] = self.plan(policy, value, seed, files)
            tasks = {
                self.folder / f"{run.key[:24]}.result.json": (of, run)
                for of, run in runs.items()
                if run.key not in self.journal.known
            }
            with contextlib.closing(run_all([(run, path) for path, (_, run) in tasks.items()], jobs=self.jobs)) as done:
                for finished in done:
                    of, run = tasks[finished.path]
                    finished.path.unlink(missing_ok=True)
                    if finished.result.stop != "interrupted":
                        self.journal.add(_probe(run, *of, finished.result))
        finally:
            for file in files:
                file.unlink(missing_ok=True)
        for policy, value in wanted:
            probes = tuple(self.journal.known[runs[policy, value, seed].key] for seed in self.traffic.draws)
            self.points[policy][value] = Point(value, probes)
            if all(p.words for p in probes):
                raise UsageError(f"{policy}: {probes[0].words}")

    def plan(self, policy: str, value: float, seed: int, files: list[Path]) -> Run:
        """The run of a policy on a draw, which is written to a file."""
        instance = self.traffic.at(self.over, value, seed)
        file = self.folder / f"{self.over}{value:.10g}-s{seed}.json"
        if file not in files:
            save_instance(instance, file)
            files.append(file)
        return plan_run(instance, file, "policy", policy, seed=seed, parameters=self.parameters)

    def limit(self, policy: str, search: Search) -> PolicyLimit:
        """What was found of a policy."""
        points = tuple(sorted(self.points[policy].values(), key=lambda point: point.value))
        low, high = (None, None)
        if search.good is not None:
            low, high = limit_interval(points, float(self.share), search.larger_is_harder)
        return PolicyLimit(policy, search.good, search.bad, low, high, points, search.uneven)

    # --- what nobody can exceed ----------------------------------------------------------------

    def certify(
        self, searches: dict[str, Search], long_run: float | None
    ) -> tuple[float | None, tuple[Certificate, ...]]:
        """The easiest value at which it is proven that no schedule keeps the levels, with a proof for every draw.

        A proof for one rate is one for all higher rates, and one for some memory or slots for fewer.
        """
        found = [search.good for search in searches.values() if search.good is not None]
        if self.over == "rate":
            start = max([long_run or 0.0, *found, 1e-6])
            search = Search(start, larger_is_harder=True, tolerance=CERTIFIED_TOLERANCE)
        else:
            start = min(found, default=self.traffic.most(self.over))
            search = Search(
                start, larger_is_harder=False, tolerance=CERTIFIED_TOLERANCE, whole=True,
                easiest=self.traffic.most(self.over), hardest=self.traffic.least(self.over),
            )  # fmt: skip
        proofs: dict[float, tuple[Certificate, ...]] = {}
        while tried := search.next():
            value = tried[0]
            self.listen(Progress(f"bound at {value:.4g}", 0.0))
            proofs[value] = self.prove(value)
            most = self.traffic.requests - sum(certificate.value for certificate in proofs[value])
            search.tell(value, most >= self.share * self.traffic.requests)
        return (None, ()) if search.bad is None else (search.bad, proofs[search.bad])

    def prove(self, value: float) -> tuple[Certificate, ...]:
        """A certificate for every draw."""
        found = []
        for seed in self.traffic.draws:
            instance = self.traffic.at(self.over, value, seed)
            prices = goodput_prices(instance, self.levels, Deadline.after(BOUND_SECONDS))
            found.append(goodput_certificate(instance, prices))
        return tuple(found)


def _probe(run: Run, policy: str, value: float, seed: int, result: Result) -> Probe:
    within = result.metrics.get("requests_within_slo")
    words = "" if result.schedule is not None else result.message or "no schedule"
    return Probe(run.key, policy, value, seed, run.stamp.requests, int(within or 0), kept(dict(result.metrics)), words)
