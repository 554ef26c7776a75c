"""The ascent of prices on time: ``prices`` says what they prove, this module finds good ones.

Every price is a share of what an iteration costs anyhow, ``(base + b0) pi`` or ``p0 pi``. In each bucket the shares of
memory, of the slots and of the requests whose own prices reach there are a softmax of numbers without limits, so
whatever these are the prices are covered. The least cost of each request is made smooth at a temperature that falls,
over the completions at which it may be least: one for each interval between two borders of buckets on which it is a
convex quadratic. Adam climbs; the step falls to 0. Buckets are halved from level to level.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from modelkit.problems.serving import price_kernels as kernels
from modelkit.problems.serving import share_kernels
from modelkit.problems.serving.share_kernels import Own, Shares
from modelkit.runtime.deadline import Deadline
from modelkit.runtime.threads import blocks
from modelkit.verify.serving_costs import COSTS_PER_MS, ServingCosts

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Step of Adam on the numbers that shares are made of, and on pi as a share of it (of at least LEAST times its mean).
STEP, PRICE_STEP, LEAST = 0.2, 0.05, 0.1
#: How often the exact value is looked at, and with it how far completions are.
EXACT_EVERY = 10
#: Requests times buckets from which threads share the work, and in how many parts.
MUCH, PARTS = 30_000, 4
#: A share of almost nothing, as a logarithm.
NONE = -40.0
#: How far behind its completion in the reference a request's own prices reach: a share of its wait, and buckets.
BEYOND, MORE = 0.5, 2


class Plan(NamedTuple):
    """What is done on one level.

    Parameters
    ----------
    longer
        How many times as long its buckets are as those of the last level; half of that of the level before.
    iterations
        Of Adam.
    share
        Of the time that is left.
    hot, cold
        Temperatures at the beginning and the end, as shares of the reference's mean latency.
    step
        Of Adam at the beginning, as a share of `STEP` and `PRICE_STEP`.
    """

    longer: int
    iterations: int
    share: float
    hot: float = 0.03
    cold: float = 0.001
    step: float = 1.0


@dataclass(frozen=True)
class Terms:
    """What the costs of requests are made of, times in ms from ``start`` on; see the kernels for the columns."""

    facts: Floats
    law: Floats
    decode_base: float
    prefill_base: float
    start: float
    limits: tuple[bool, bool]
    replicas: int = 1

    @classmethod
    def of(cls, costs: ServingCosts, capacity: int | None, slots: int | None) -> Terms:
        """Of an instance's costs, with the limits that its server states."""

        def ms(cost: object) -> Floats:
            return np.asarray(cost, dtype=np.float64) / COSTS_PER_MS

        prompt = np.array(costs.prompt, dtype=np.float64)
        decodes, decoding, own_prefill = (
            np.array(costs.decodes),
            ms(costs.decoding),
            ms(costs.prefill_per_token) * prompt,
        )
        arrival = np.array(costs.arrival) / 1024
        fixed = ms(costs.base + costs.decode_base)
        facts = np.empty((len(prompt), 8))
        facts[:, kernels.ARRIVAL] = arrival - arrival.min()
        facts[:, kernels.RESIDENCE] = ms(costs.residence)
        facts[:, kernels.DECODING] = decoding
        facts[:, kernels.EACH] = decoding / np.maximum(decodes, 1)
        facts[:, kernels.PROMPT] = own_prefill
        facts[:, kernels.PREFILL] = ms(costs.base + costs.prefill_base) + (0 if costs.mixed else own_prefill)
        facts[:, kernels.TOKENS] = prompt + 1
        facts[:, kernels.HELD] = prompt + costs.mixed + 0.5
        law = np.array([
            ms(costs.decode_per_request), ms(costs.decode_per_kv_token), ms(costs.base) / fixed if fixed else 0,
            costs.capacity, costs.slots,
        ])  # fmt: skip
        limits = (capacity is not None, slots is not None and slots < len(prompt))
        return cls(
            facts, law, float(fixed), float(ms(costs.prefill_base)), float(arrival.min()), limits, costs.replicas
        )


@dataclass(frozen=True)
class Priced:
    """Prices in buckets of ``height`` ms: rows of ``common`` are those of the kernels, own ones as in a certificate."""

    height: float
    common: Floats
    first: Ints
    begin: Ints
    decoding: Floats
    prompts: Floats


class Level:
    """Prices in buckets of one length, and how they rise."""

    def __init__(self, terms: Terms, completions: Floats, height: float, *, own: bool) -> None:
        self.terms, self.height, self.completions, self.own = terms, height, completions, own
        arrival = terms.facts[:, kernels.ARRIVAL]
        earliest = arrival + terms.facts[:, kernels.RESIDENCE]
        self.buckets = int(completions.max() / height) + 2
        self.first = (arrival / height).astype(np.int64)
        reach = completions + BEYOND * (completions - earliest) + MORE * height
        until = np.minimum(self.buckets, (reach / height).astype(np.int64) + 1)
        size = np.maximum(0, until - self.first) * own
        self.begin = np.concatenate([[0], np.cumsum(size)])
        self.owner = np.repeat(np.arange(len(arrival)), size)
        self.bucket = np.arange(len(self.owner)) - self.begin[self.owner] + self.first[self.owner]
        self.limit = self._limit(completions - arrival, 0.0)
        self.best: tuple[float, Priced] | None = None
        self.parameters: list[Floats] = []
        self.best_parameters: list[Floats] = []

    def begin_at(self, *servers: Floats) -> None:
        """Prices by the best of ``servers``, own ones by what is left of each stay in the reference."""
        arrival = self.terms.facts[:, kernels.ARRIVAL]
        stay = np.maximum(self.completions - arrival, 1e-9)
        left = (self.completions[self.owner] - (self.bucket + 0.5) * self.height) / stay[self.owner]
        own = np.log(np.maximum(left, 0) + 0.02)
        total = np.zeros(self.buckets)
        np.add.at(total, self.bucket, np.exp(own))
        half = np.log(np.maximum(total, 1e-3))
        limits = np.array(self.terms.limits)[:, None]
        common = np.where(limits, half, NONE)
        shares = [own, own.copy(), common.ravel(), (common - 2 * limits).ravel()]
        for server in servers:
            self.parameters = [server, *shares]
            self._look(lambda value: None, 0.0)
        self.parameters = [x.copy() for x in self.best_parameters]

    def begin_from(self, coarse: Level) -> None:
        """Prices that the twice as long buckets have ended with."""
        above = np.minimum(np.arange(self.buckets) // 2, coarse.buckets - 1)
        own = coarse.begin[self.owner] + self.bucket // 2 - coarse.first[self.owner]
        known = own < coarse.begin[self.owner + 1]
        own = np.minimum(own, len(coarse.owner) - 1)
        server, decoding, prompts, *common = coarse.best_parameters
        lowest = [np.where(known, p[own], p[own] - 2.0) if len(own) else p[:0] for p in (decoding, prompts)]
        self.parameters = [server[above], *lowest, *(c.reshape(2, -1)[:, above].ravel() for c in common)]

    def climb(self, plan: Plan, mean: float, deadline: Deadline, listen: Callable[[float], None]) -> bool:
        """Let the prices rise; whether the deadline left less than half of the iterations.

        Temperatures are shares of ``mean``.
        """
        moments = [np.zeros((2, len(x))) for x in self.parameters]
        server = self.parameters[0]
        of_server = PRICE_STEP * np.maximum(server, LEAST * max(float(server.mean()), 1e-9))
        allowed = deadline.left
        for iteration in range(plan.iterations + 1):
            done = iteration / plan.iterations
            if deadline.finite:
                done = max(done, 1 - deadline.left / max(allowed, 1e-9))
            temperature = mean * plan.hot * (plan.cold / plan.hot) ** done
            if iteration % EXACT_EVERY == 0 or done >= 1:
                self._look(listen, temperature)
            if done >= 1:
                return 2 * iteration < plan.iterations
            size = plan.step * (1 - done)
            for k, (x, slope) in enumerate(zip(self.parameters, self._gradient(temperature), strict=True)):
                step = of_server * size if k == 0 else np.array([STEP * size])
                share_kernels.climb(x, slope, moments[k], step, iteration + 1, 0.0 if k == 0 else -np.inf)
        return False

    def _look(self, listen: Callable[[float], None], temperature: float) -> None:
        """Note the prices if they are the best so far, and how far completions are looked at from now on."""
        _, priced = self._priced()
        least, _ = self._minima(priced, 0.0, np.empty(0), np.empty(0))
        value = float(least.sum() - self.terms.replicas * self.height * priced.common[0].sum())
        if self.best is None or value > self.best[0]:
            self.best = value, priced
            self.best_parameters = [x.copy() for x in self.parameters]
            listen(value)
        self.limit = self._limit(least, temperature)

    def _limit(self, least: Floats, temperature: float) -> Ints:
        """Buckets from the arrival on in which completions are looked at, when costs above it are about ``least``."""
        reach = 1.3 * least + 5 * temperature + 2 * self.height
        end = ((self.terms.facts[:, kernels.ARRIVAL] + reach) / self.height).astype(np.int64)
        return end + 2 - self.first

    def _shares(self, own: Floats, common: Floats) -> tuple[Floats, Floats]:
        shares, of_limits = np.empty_like(own), np.empty((2, self.buckets))
        logits = Shares(own, common.reshape(2, -1))
        share_kernels.find_shares(Own(self.first, self.begin), logits, Shares(shares, of_limits))
        return shares, of_limits * np.array(self.terms.limits)[:, None]

    def _priced(self) -> tuple[tuple[Floats, Floats, Floats, Floats], Priced]:
        server, own, own_prompts, common, prompt_common = self.parameters
        of_decoding, of_prefill = self.terms.decode_base * server, self.terms.prefill_base * server
        shares, limits = self._shares(own, common)
        prompt_shares, prompt_limits = self._shares(own_prompts, prompt_common)
        prices = np.vstack([server, of_decoding * limits, of_prefill * prompt_limits])
        priced = Priced(
            self.height, prices, self.first, self.begin, of_decoding[self.bucket] * shares,
            of_prefill[self.bucket] * prompt_shares,
        )  # fmt: skip
        return (shares, limits, prompt_shares, prompt_limits), priced

    def _minima(
        self, priced: Priced, temperature: float, own: Floats, own_prompts: Floats
    ) -> tuple[Floats, Floats]:  # fmt: skip
        """The least cost of each request, and with a temperature the gradient by common prices; by own ones in place.

        Always in the same parts, so that the sums do not depend on the number of processors.
        """
        facts, law, least = self.terms.facts, self.terms.law, np.empty(len(self.first))
        parts = blocks(len(least), PARTS) if self.limit.sum() > MUCH else blocks(len(least), 1)
        common = np.zeros((len(parts), *priced.common.shape))

        def work(number: int, some: slice) -> None:
            kernels.soft_minima(
                kernels.Terms(facts[some], law, self.height),
                Own(self.first[some], self.begin[some.start : some.stop + 1]),
                kernels.Prices(priced.common, priced.decoding, priced.prompts),
                kernels.Look(self.limit[some], temperature),
                kernels.Prices(common[number], own, own_prompts),
                least[some],
            )

        with ThreadPoolExecutor(len(parts)) if len(parts) > 1 else nullcontext() as pool:
            for _ in (pool.map if pool else map)(work, range(len(parts)), (some for (some,) in parts)):
                pass
        return least, common.sum(axis=0)

    def _gradient(self, temperature: float) -> list[Floats]:
        """Gradient of the smooth bound by each of the parameters."""
        (shares, limits, prompt_shares, prompt_limits), priced = self._priced()
        terms, own, own_prompts = self.terms, np.zeros_like(priced.decoding), np.zeros_like(priced.prompts)
        _, common = self._minima(priced, temperature, own, own_prompts)
        server = common[0] - self.height * terms.replicas
        for fixed, some, all_shares, slope, rows in (
            (terms.decode_base, shares, limits, own, common[1:3]),
            (terms.prefill_base, prompt_shares, prompt_limits, own_prompts, common[3:5]),
        ):
            more = np.zeros(self.buckets)
            worth = fixed * self.parameters[0]
            given = Shares(some, all_shares)
            share_kernels.share_gradient(Own(self.first, self.begin), worth, given, Shares(slope, rows), more)
            server = server + fixed * more
        return [server, own, own_prompts, common[1:3].ravel(), common[3:5].ravel()]
