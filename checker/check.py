"""Check a schedule, or a certificate of a lower bound, without trusting modelkit.

    python check.py INSTANCE RESULT|CERTIFICATE

One file, the standard library alone, whole numbers and fractions throughout; written from the
specification (docs/pages/specification.md), whose sections it names. It prints one line:

    valid: what holds, and what is left unsaid                                  exit code 0
    invalid: what is wrong, and where                                           exit code 5
    cannot check: a file that cannot be read, or what is not decided here       exit code 2
"""

# fmt: off
import gzip
import hashlib
import json
import sys
from bisect import bisect_right
from collections import Counter
from fractions import Fraction
from heapq import heappop, heappush
from itertools import accumulate, count, pairwise
from math import ceil, floor, inf, isqrt
from operator import mul

TICKS, COSTS = 2**10, 2**30  # in a millisecond: times and costs in certificates of real time
TICK = COSTS // TICKS  # costs in a tick
SHARE = 2**10  # shares are whole numbers of this part of 1
EARLY = Fraction(1, 1000)  # under the linear clock, times so close are one moment [ms]
MOST_STEPS, SPENT = 3 * 10**8, [0]  # some minutes; what takes more is not checked
MOST = 10**15  # largest number in a schedule

class Invalid(Exception):
    """The claim is wrong: where, and why."""

class CannotCheck(Exception):
    """The claim cannot be decided here: why."""

def require(condition, where, words):
    """Refuse a claim that does not hold."""
    if not condition:
        raise Invalid(f"{where}: {words}")

def spend(steps, where):
    """Refuse what takes too long in all."""
    SPENT[0] += steps
    supported(SPENT[0] < MOST_STEPS, where, "takes more work than is done here")

def supported(condition, where, words):
    """Refuse to decide what is not foreseen."""
    if not condition:
        raise CannotCheck(f"{where}: {words}")

# --- files (section 1) --------------------------------------------------------------------------

def read(path):
    """The JSON document of a file, gzipped or not."""
    def once(pairs):
        supported(len(dict(pairs)) == len(pairs), path, "a key stands twice in one object")
        return dict(pairs)
    try:
        with open(path, "rb") as file:
            data = file.read()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        return json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise CannotCheck(f"{path}: {error}") from None

def keys(value, where, allowed):
    """An object that has no other keys; one that is not known here might matter."""
    unknown = set(value) - set(allowed.split())
    supported(not unknown, where, f"unknown keys {unknown}")
    return value

def number(value, where, low, high, whole=True):
    """A number within limits."""
    fits = type(value) in ((int,) if whole else (int, float)) and low <= value <= high
    what = "a whole number" if whole else "a number"
    supported(fits, where, f"found {value!r:.60}; {what} from {low} to {high} is needed")
    return value

LEAST = {"multipliers": -inf, "denominator": 1, "cell": 1, "bucket": 1, "rounds": 1}

def walk(value, where, low=0):
    """Refuse a proof that has other numbers than whole ones that are large enough."""
    if isinstance(value, dict | list):
        for key, some in value.items() if isinstance(value, dict) else enumerate(value):
            walk(some, f"{where}.{key}", LEAST.get(key, 0) if isinstance(value, dict) else low)
        two = "numerators" not in value or value["denominator"].bit_count() == 1
        supported(two, f"{where}.denominator", "is no power of two")
    elif value is not None and ".charge." not in where:
        number(value, where, low, 2**80)

def plain(value):
    """A double without a fraction as a whole number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value

def exact(value):
    """The decimal number that was written."""
    return Fraction(repr(value))

# --- instances (section 2) ----------------------------------------------------------------------

LATER = ("base_ms", "swap_out_per_token_ms", "swap_in_per_token_ms")
LAW = ("prefill_base_ms", "prefill_per_token_ms", "decode_base_ms", "decode_per_request_ms",
       "decode_per_kv_token_ms", *LATER)
ALWAYS = ("id", "arrival", "prompt_tokens", "output_tokens")
OPTIONAL = ("class", "session", "priority", "extra", "prefix", "cached_prompt_tokens")
LIMITS = ("ttft_ms", "tpot_ms", "latency_ms")
CHARGES = ("memory", "slots", "pace-memory", "pace-slots")

class Instance:
    """Requests as lists, one entry each, their server, and the hash of all."""

    def __init__(self, given):
        keys(given, "$", "schema name description source server requests extra")
        supported(given["schema"] == "modelkit/instance/1", "$.schema", "is not of an instance")
        server = {key: value for key, value in given["server"].items() if value is not None}
        keys(server, "$.server", "kv_capacity_tokens slots clock replicas slo prefix_cache pause")
        self.capacity, self.slots = server.get("kv_capacity_tokens"), server.get("slots")
        self.replicas = server.pop("replicas", 1)
        for most in (self.capacity or 1, self.slots or 1, self.replicas):
            number(most, "$.server", 1, 10**12)
        self.memory = self.capacity and self.capacity * self.replicas
        self.slo, pause = service_levels(server.get("slo")), server.get("pause", {})
        cache = server.get("prefix_cache", {})
        self.pause = keys(pause, "$.server.pause", "keep").get("keep")
        self.keep = keys(cache, "$.server.prefix_cache", "keep").get("keep", False)
        self.cache = "prefix_cache" in server
        supported(self.pause in (None, "held", "swapped"), "$.server.pause", "held or swapped")
        supported(not (self.pause and self.cache), "$.server.pause", "is beside a prefix_cache")
        server["clock"] = self.read_clock(server.get("clock", {"kind": "unit"}))
        server |= {"replicas": self.replicas} if self.replicas > 1 else {}
        server |= {} if self.slo is None else {"slo": self.slo}
        server |= {"prefix_cache": {"keep": self.keep}} if self.cache else {}
        form = {key: given.get(key, "") for key in ("schema", "name", "description", "source")}
        kind, family, *_ = [*form["source"].split(" "), ""]
        self.name, self.family = form["name"], family if kind == "family" and family else None
        form |= {"server": server, "requests": self.read_requests(given["requests"])}
        form |= {"extra": given["extra"]} if given.get("extra") else {}
        text = json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self.sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def read_clock(self, clock):
        keys(clock, "$.server.clock", f"kind mixed {' '.join(LAW)} prefill_levels")
        self.unit, self.mixed = clock["kind"] == "unit", clock.get("mixed", False)
        known = clock["kind"] in ("unit", "linear") and type(self.mixed) is bool
        supported(known, "$.server.clock", "kind unit or linear, mixed true or false, is needed")
        self.exclusive = not self.unit and not self.mixed
        law = {key: number(clock.get(key, 0), key, 0, 1e9, False) for key in LAW}
        self.law = {key.removesuffix("_ms"): exact(value) for key, value in law.items()}
        levels = [[tokens, float(ms)] for tokens, ms in clock.get("prefill_levels") or ()]
        self.levels = [(tokens, exact(ms)) for tokens, ms in levels]
        law = {key: plain(value) for key, value in law.items() if value or key not in LATER}
        law |= {"prefill_levels": levels} if levels else {}
        law = {} if self.unit else {"mixed": self.mixed, **law}
        return {"kind": clock["kind"], **law}

    def read_requests(self, given):
        if isinstance(given, dict):
            columns = zip(*given.values(), strict=True)
            given = [dict(zip(given, row)) for row in columns]
        known = " ".join((*ALWAYS, "predicted_output_tokens", *OPTIONAL))
        rows = [{"id": f"r{i}", "arrival": 0, **keys(row, f"$.requests[{i - 1}]", known)}
                for i, row in enumerate(given, 1)]
        form = {key: [plain(row[key]) for row in rows] for key in ALWAYS}
        self.ids, arrival, prompt, output = form.values()
        self.prompt, self.output = ([number(v, "$.requests", 1, 10**8) for v in row]
                                    for row in (prompt, output))
        self.index = {key: i for i, key in enumerate(self.ids)}
        supported(rows and len(self.index) == len(rows), "$.requests", "none, or two with one id")
        # in ms: the double that is 1000 times the arrival, exactly
        arrival = [number(a, "$.requests.arrival", 0, 10**9, self.unit) for a in arrival]
        self.arrival = arrival if self.unit else [Fraction(a * 1000.0) for a in arrival]
        seen = [row.get("predicted_output_tokens") or row["output_tokens"] for row in rows]
        form["predicted_output_tokens"] = [
            p[0] if isinstance(p, list) and p[0] == p[1] else p for p in seen]
        for key in OPTIONAL:
            column = [plain(row.get(key)) for row in rows]
            form |= {key: column} if any(value is not None for value in column) else {}
        self.classes, groups = [row.get("class") for row in rows], {}
        prefixes = [row.get("prefix") or {"group": "", "tokens": 0} for row in rows]
        self.shared = [min(p["tokens"], s - 1) * self.cache for p, s in zip(prefixes, prompt)]
        self.group = [groups.setdefault(p["group"], len(groups)) if tokens else -1
                      for p, tokens in zip(prefixes, self.shared)]
        found = [number(row.get("cached_prompt_tokens") or 0, "$.requests", 0, 10**8)
                 for row in rows]
        self.found = [min(f, s - 1) * self.cache for f, s in zip(found, prompt)]  # in any case
        return form

    def unshared(self, once):  # prompts without what others may read; once: one of a group has all
        order = sorted(range(len(self.ids)), key=lambda i: (self.arrival[i], -self.shared[i], i))
        first = {self.group[i]: i for i in reversed(order)} if once else {}
        found, most = [0 if self.unit else f for f in self.found], {}  # most: in a group
        for group, tokens in zip(self.group, found):
            most[group] = max(tokens, most.get(group, 0))
        parts = [min(most[g], t) if first.get(g) == i else t
                 for i, (g, t) in enumerate(zip(self.group, self.shared))]
        return [s - max(part, f) for s, part, f in zip(self.prompt, parts, found)]

def service_levels(given):
    """Limits in ms, those of classes under ``class``; without what is absent."""
    if given is None:
        return None
    keys(given, "slo", "ttft_ms tpot_ms latency_ms class")
    levels = {key: plain(number(given[key], key, 0, 1e12, False))
              for key in LIMITS if given.get(key) is not None}
    classes = {name: service_levels(some) for name, some in (given.get("class") or {}).items()}
    return levels | ({"class": classes} if classes else {})

# --- schedules (sections 3 and 4) ---------------------------------------------------------------

class Job:
    """A request in progress: output tokens made, prompt tokens unread and found in the cache."""

    def __init__(self, inst, i, slot, found):
        self.i, self.prompt, self.output, self.slot = i, inst.prompt[i], inst.output[i], slot
        self.made, self.found, self.unread = 0, found, inst.prompt[i] - found
        self.first, self.paused = None, False  # time of the first token

class Replica:
    """One of the servers alike, which replays its segments; the first broken rule is raised."""

    def __init__(self, inst, chunk):
        self.inst, self.chunk, self.now, self.doubt = inst, chunk, Fraction(0), Fraction(0)
        self.jobs, self.done = {}, {}  # by request, in order of admission or resumption
        # the prefix cache, by group: tokens in use by request, all there, when one came or went
        self.users, self.there, self.last = {}, {}, {}
        self.rounds = self.evictions = self.peak = 0

    def active(self, fresh):  # those not paused, with their first token ahead or behind
        return [j for j in self.jobs.values() if not j.paused and (j.first is None) == fresh]

    def resident(self):  # those that take memory and a slot
        return [j for j in self.jobs.values() if not j.paused or self.inst.pause == "held"]

    def longest(self, group):  # tokens of a prefix that are in use
        return max(self.users[group].values(), default=0)

    def job(self, i, does, paused=None):
        job = self.jobs.get(i)
        fits = job is not None and paused in (None, job.paused)
        require(fits, self.where, f"{does} {self.inst.ids[i]!r}, which is not there to be")
        return job

    def segment(self, given, where):
        inst, law, self.where = self.inst, self.inst.law, where
        def those(key):
            for entry in given.get(key) or ():
                name, value = (entry, None) if isinstance(entry, str) else entry
                require(name in inst.index, where, f"names {name!r}, which is no request")
                yield inst.index[name], None if value is None else number(value, where, -MOST, MOST)
        at = exact(number(given["at"], where, 0, MOST, False)) * (1 if inst.unit else 1000)
        require(not inst.unit or at.denominator == 1, where, "begins within a round")
        late = 0 if inst.unit else EARLY + self.doubt
        require(at >= self.now - late, where, f"at {float(at)}; the last ends at {float(self.now)}")
        if at > self.now:
            self.wait(at - self.now)
        for i, _ in those("evict"):
            self.leave(self.job(i, "evicts"))
            self.evictions += 1
        copying = Fraction(0)
        for i, _ in those("pause"):
            job = self.job(i, "pauses", False)
            require(inst.pause, where, "pauses a request, which this server does not do")
            copying, job.paused = copying + law["swap_out_per_token"] * self.cached(job), True
        for i, slot in those("resume"):
            job = self.jobs[i] = self.jobs.pop(self.job(i, "resumes", True).i)
            copying, job.paused = copying + law["swap_in_per_token"] * self.cached(job), False
            self.take_slot(job, job.slot if slot is None else slot)
        unread = [self.admit(i, slot) for i, slot in those("admit")]
        busy = len(self.resident())
        require(busy <= (inst.slots or busy), where, f"{busy} requests in {inst.slots} slots")
        if copying and inst.pause == "swapped":
            self.wait(copying)
        if inst.exclusive and unread:
            self.wait(law["base"] + self.prefill(sum(unread)))
        said = None if given.get("chunks") is None else dict(those("chunks"))
        for i, tokens in (said or {}).items():
            fresh = self.job(i, "splits the prompt of", False).first is None and not inst.exclusive
            require(fresh and tokens > 0, where, "has a chunk of what is not there to be split")
        rounds = number(given.get("rounds", 0), where, 0, MOST)
        self.decode(rounds, None if inst.exclusive else said)

    def admit(self, i, slot):  # returns the prompt tokens that it has to read
        inst, words = self.inst, f"admits {self.inst.ids[i]!r}"
        require(i not in self.done and i not in self.jobs, self.where, f"{words} a second time")
        early = self.now < inst.arrival[i] - EARLY * (not inst.unit)
        require(not early, self.where, f"{words} before it arrives")
        group, tokens, found = inst.group[i], inst.shared[i], inst.found[i]
        if tokens:
            there = self.there.get(group, 0)
            self.users.setdefault(group, {})[i], found = tokens, max(found, min(tokens, there))
            self.there[group], self.last[group] = max(tokens, there), self.now
        self.jobs[i] = Job(inst, i, slot, found)
        self.take_slot(self.jobs[i], slot)
        return self.jobs[i].unread

    def take_slot(self, job, slot):
        job.slot = slot
        if slot is not None:
            free = all(other is job or other.slot != slot for other in self.resident())
            fits = free and 0 <= slot < (self.inst.slots or inf)
            require(fits, self.where, f"slot {slot} for {self.inst.ids[job.i]!r} is not free")

    def cached(self, job):  # tokens that were processed for it
        return job.prompt - job.found - job.unread * (not self.inst.exclusive) + job.made

    def leave(self, job):  # done or evicted; others read of its prefix what it leaves unread
        inst, group, tokens = self.inst, self.inst.group[job.i], self.inst.shared[job.i]
        del self.jobs[job.i]
        if not tokens:
            return
        del self.users[group][job.i]
        read = job.prompt - job.unread * (not inst.exclusive)
        for other in self.active(True):
            end = min(tokens, inst.shared[other.i])
            if inst.group[other.i] == group and end > read:
                more = max(0, end - max(read, inst.found[other.i]))
                other.unread, other.found = other.unread + more, other.found - more
                read = end
        there = read if read < tokens else self.there[group]
        self.there[group] = max(there if inst.keep else 0, self.longest(group))
        self.last[group] = self.now

    def held(self):  # tokens in the memory, those that are shared once
        saved = sum(sum(some.values()) - self.longest(g) for g, some in self.users.items())
        return sum(job.prompt + job.made for job in self.resident()) - saved

    def fill(self, held):  # what nobody uses makes room, first of the group longest at rest
        most = self.inst.capacity
        require(most is None or held <= most, self.where, f"{held} tokens are held; {most} fit")
        kept = {group: there - self.longest(group) for group, there in self.there.items()}
        excess = sum(kept.values()) + held - (inf if most is None else most)
        for group in sorted(kept, key=lambda g: (self.last[g], g)):
            dropped = max(0, min(kept[group], excess))
            self.there[group] -= dropped
            excess -= dropped

    def wait(self, duration):  # nobody decodes
        self.fill(self.held())
        self.pass_time(duration)

    def pass_time(self, duration):  # so much more may the doubles be off of who wrote the file
        self.now += duration
        self.doubt += self.now / 2**52

    def prefill(self, tokens):
        law, levels = self.inst.law, self.inst.levels
        lasting = [ms for capacity, ms in levels if capacity >= tokens] if levels else [
            law["prefill_base"] + law["prefill_per_token"] * tokens]
        require(lasting, self.where, f"a prefill of {tokens} tokens, more than any level holds")
        return min(lasting)

    def decode(self, rounds, said):  # ``said``: prompt tokens that each round processes, by request
        inst, law = self.inst, self.inst.law
        self.rounds += rounds
        while rounds and (self.active(True) or self.active(False)):
            fresh, running = self.active(True), self.active(False)
            room, tokens = inf if self.chunk is None else max(0, self.chunk - len(running)), 0
            made = running
            for job in fresh:
                part = min(job.unread, room - tokens if said is None else said.get(job.i, 0))
                job.unread, tokens = job.unread - part, tokens + part
                made = made if job.unread else [*made, job]
            n = 1 if made or tokens else rounds  # or nothing ever happens in them
            lasts, decoding = Fraction(n * inst.unit), made if inst.exclusive else running
            if not inst.unit and (made or tokens):
                lasts = law["base"] + (self.prefill(tokens) if tokens and inst.mixed else 0)
                if decoding:
                    kv = sum(job.prompt + job.made + 1 for job in decoding)
                    lasts += law["decode_base"] + law["decode_per_request"] * len(decoding)
                    lasts += law["decode_per_kv_token"] * kv
            for job in made:
                job.made += 1
            self.peak, rounds = max(self.peak, self.held()), rounds - n
            self.wait(lasts)
            for job in made:
                job.first = self.now if job.first is None else job.first
                if job.made == job.output:
                    self.done[job.i] = job.first, self.now
                    self.leave(job)
        if rounds:
            idle = rounds * (law["base"] + law["decode_base"]) if inst.exclusive else 0
            self.wait(Fraction(rounds) if inst.unit else idle)

def replay(inst, schedule):
    """The replicas after a schedule, and first token and completion of each request."""
    keys(schedule, "schedule", "segments tokens_per_iteration")
    spend(10 * sum(inst.output) + sum(inst.prompt), "schedule")
    if (chunk := schedule.get("tokens_per_iteration")) is not None:
        number(chunk, "schedule.tokens_per_iteration", 1, MOST)
        require(inst.mixed, "schedule", "splits prompts, which this clock does not")
    servers, home = {1: Replica(inst, chunk)}, {}
    for at, given in enumerate(schedule["segments"]):
        where = f"schedule.segments[{at}]"
        keys(given, where, "at admit evict rounds replica pause resume chunks")
        replica = number(given.get("replica", 1), where, -MOST, MOST)
        require(1 <= replica <= inst.replicas, where, f"is on replica {replica}")
        for entry in given.get("admit") or ():
            name = entry if isinstance(entry, str) else entry[0]
            here = home.setdefault(name, replica) == replica
            require(here, where, f"admits {name!r} on a second replica")
        servers.setdefault(replica, Replica(inst, chunk)).segment(given, where)
    done = {i: times for server in servers.values() for i, times in server.done.items()}
    for i, key in enumerate(inst.ids):
        require(i in done, "schedule", f"ends before request {key!r} is done")
    return list(servers.values()), [done[i] for i in range(len(inst.ids))]

def metrics(inst, servers, times, slo):
    """The metrics of times and service levels of a valid schedule, exactly, and some counts."""
    unit, second, thousand = ("rounds", "round", 1) if inst.unit else ("ms", "second", 1000)
    ttft = [first - a for (first, _), a in zip(times, inst.arrival)]
    latency = [end - a for (_, end), a in zip(times, inst.arrival)]
    tpot = [(end - first) / Fraction(o - 1) for (first, end), o in zip(times, inst.output) if o > 1]
    makespan = Fraction(max(end for _, end in times))
    def rate(amount):
        return amount * thousand / makespan if makespan else None
    every = {"rounds": sum(server.rounds for server in servers), "total_ttft_ms": sum(ttft),
             "evictions": sum(server.evictions for server in servers),
             "peak_kv_tokens": max(server.peak for server in servers),
             f"total_latency_{unit}": sum(latency), f"makespan_{unit}": makespan,
             f"throughput_tokens_per_{second}": rate(sum(inst.output))}
    for words, some in (("latency", latency), ("first_token", ttft), ("ttft", ttft),
                        ("per_output_token", tpot), ("tpot", tpot)):
        every[f"mean_{words}_{unit}"] = Fraction(sum(some)) / len(some) if some else None
        for q in (50, 90, 95, 99):
            at = -(-q * len(some) // 100) - 1
            every[f"p{q}_{words}_{unit}"] = sorted(some)[at] if some else None
    rows = list(zip(inst.classes, ttft, latency, inst.output)) if slo and not inst.unit else []
    kept = [within(slo.get("class", {}).get(name, slo), *row) for name, *row in rows]
    for name in {None, *inst.classes} if rows else ():
        those = [(k, row[3]) for k, row in zip(kept, rows) if name in (None, row[0])]
        good, tail = sum(k for k, _ in those), "" if name is None else f"[{name}]"
        every |= {f"requests_within_slo{tail}": good,
                  f"goodput_requests_per_second{tail}": rate(good),
                  f"requests_outside_slo{tail}": len(those) - good,
                  f"within_slo{tail}": Fraction(good, len(those)),
                  f"goodput_tokens_per_second{tail}": rate(sum(o for k, o in those if k))}
    return every

def within(limits, ttft, latency, output):
    """Whether a request keeps its service levels, to the microsecond."""
    spent = {"ttft_ms": ttft, "latency_ms": latency, "tpot_ms": latency - ttft}
    return all(spent[key] <= exact(limits[key]) * (output - 1 if key == "tpot_ms" else 1) + EARLY
               for key in LIMITS if key in limits)

# --- certificates under the unit clock, and of stages (section 5) -------------------------------

def add(*rows):
    """Lists of one length, added entry by entry."""
    return [sum(entries) for entries in zip(*rows)]

def shortest_first(jobs):
    """When jobs, release and work, end on one machine: shortest remaining work first, ascending."""
    waiting, ends, now = [], [], 0
    for (release, work), (until, _) in pairwise([*sorted(jobs), (inf, 0)]):
        heappush(waiting, work)
        now = max(now, release)
        while waiting and now + waiting[0] <= until:
            now += heappop(waiting)
            ends.append(now)
        if waiting:
            heappush(waiting, heappop(waiting) - (until - now))
            now = until
    return ends

def on(condition, words):
    """Refuse a kind of certificate on an instance of another kind."""
    require(condition, "certificate.kind", f"is for instances with {words}")

def priced(requests, memory, pauses, proof, where):
    """What prices on rounds prove of requests (a, s, o)."""
    d, rounds, prices = proof["denominator"], [0, *proof["rounds"]], [0, *proof["numerators"]]
    fits = all(a < b for a, b in pairwise(rounds)) and len(rounds) == len(prices)
    require(fits, where, "rounds that increase, each with its price, are needed")
    require(memory or rounds == [0], where, "there is no memory that could have a price")
    latest = max(a for a, _, _ in requests) + sum(o for _, _, o in requests)
    require(rounds[-1] <= latest, where, f"no schedule without idle time has {rounds[-1]} rounds")
    falls = rounds == list(range(len(rounds))) and all(a >= b for a, b in pairwise(prices[1:]))
    require(falls or not pauses, where, "prices that rise prove nothing where there are pauses")
    paid = list(accumulate(prices))  # up to a round, and times the round
    timed = list(accumulate(map(mul, rounds, prices)))
    def charge(begin, end, more):  # of rounds behind begin, up to end: t + more tokens in round t
        x, y = bisect_right(rounds, begin) - 1, bisect_right(rounds, end) - 1
        return more * (paid[y] - paid[x]) + timed[y] - timed[x]
    total = -(memory or 0) * paid[-1]
    for a, s, o in requests:
        best, spans = d * o + charge(a, a + o, s - a), [(a + 1, rounds[-1])]
        while spans:  # of starts; each pays the rounds that all have, with the tokens of the last
            spend(1, where)
            first, last = spans.pop()
            shared = charge(last, first + o, s - last) if last < first + o else 0
            if first <= last and d * (first + o - a) + shared < best:
                best = min(best, d * (first + o - a) + charge(first, first + o, s - first))
                middle = (first + last + 1) // 2
                spans += [(middle, last), (first + 1, middle - 1)]
        total += best
    return Fraction(total, d)

def kv_prices(inst, proof):
    """5.1: prices on rounds."""
    on(inst.unit, "the unit clock")
    rows = list(zip(inst.arrival, inst.unshared(True), inst.output))
    return priced(rows, inst.memory, inst.pause, proof, "prices")

def kv_partitions(inst, proof):
    """5.2: multipliers, over multisets of parts (tokens, floor)."""
    on(inst.unit and inst.memory and not inst.pause, "the unit clock, a memory and no pauses")
    d, total, kinds, spans = proof["denominator"], 0, {}, []
    rows = inst.arrival, inst.unshared(True), inst.output, proof["floors"], proof["multipliers"]
    for a, s, o, low, pay in zip(*rows, strict=True):
        require(low >= s, "partitions.floors", f"{low}, below a prompt of {s} tokens")
        total += pay if s + o > low else d * o
        if s + o > low:
            kinds.setdefault((s + o, low), []).append((a, a + o, pay))
            spans += [(a + o - max(inst.output), a + pay // d)] if a + o <= a + pay // d else []
    def older(state):
        return tuple((h - 1, low) for h, low in state if h - 1 > low)
    def later(state, kind):
        return tuple(sorted((*state, kind)))
    states, todo = {()}, [()]
    while todo:
        state = todo.pop()
        room = inst.memory - sum(h for h, _ in state)
        new = {older(state), *(later(state, kind) for kind in kinds if kind[0] <= room)} - states
        todo += new
        states |= new
        supported(len(states) <= 60_000, "partitions.floors", "leave too many states")
    order = sorted(states, key=lambda state: (sum(h for h, _ in state), state))
    at, x_down = {state: x for x, state in enumerate(order)}, range(len(order) - 1, -1, -1)
    aged = [at[older(state)] for state in order]
    added = {kind: [(x, at[later(order[x], kind)]) for x in x_down if later(order[x], kind) in at]
             for kind in kinds}
    many = sum(last - first for first, last in spans)
    supported(many < 10**7, "partitions.multipliers", "are too high")
    rounds = sorted({c for first, last in spans for c in range(first, last + 1)})
    spend(len(rounds) * sum(map(len, added.values())), "partitions")
    least = [0] * len(order)  # of what it takes back from a state in a round
    for c in rounds:
        least = [least[x] for x in aged]
        for kind, of in kinds.items():
            cost = min((d * (c - a) - pay for a, end, pay in of if c >= end), default=0)
            for x, y in added[kind] if cost < 0 else ():
                least[x] = min(least[x], least[y] + cost)
    return Fraction(total + least[0], d)

def kv_volume(inst, _):
    """5.3: memory and slots of all rounds."""
    on(inst.unit, "the unit clock")
    ends = sorted(add(inst.arrival, inst.output))
    volume = [s * o + o * (o + 1) // 2 for s, o in zip(inst.unshared(True), inst.output)]
    for speed, work in ((inst.memory, volume), ((inst.slots or 0) * inst.replicas, inst.output)):
        if speed:
            machine = shortest_first((a * speed, w) for a, w in zip(inst.arrival, work))
            ends = [max(end, -(-done // speed)) for end, done in zip(ends, machine)]
    return Fraction(sum(ends) - sum(inst.arrival))

def slot_rounds(inst, _):
    """5.4: rounds on slots."""
    on(inst.unit and inst.slots, "the unit clock and slots")
    slots = inst.slots * inst.replicas
    machine = shortest_first((a * slots, o) for a, o in zip(inst.arrival, inst.output))
    alone = [end * slots for end in sorted(add(inst.arrival, inst.output))]
    return Fraction(sum(map(max, machine, alone)), slots) - sum(inst.arrival)

def stages(inst, proof):
    """5.5: rounds that some slot decodes at least, by closed form or by weights."""
    on(inst.exclusive and inst.slots and inst.replicas == 1, "mixed = false, slots, one replica")
    law, slots, output, base = inst.law, inst.slots, inst.output, inst.law["base"]
    longest = sorted(output, reverse=True)
    pair = sum(longest[slots - 1:slots + 1]) if len(longest) > slots else 0
    rounds = max(-(-sum(output) // slots), longest[0], pair)
    if proof is not None:
        rounds, weights = proof["rounds"], proof["values"]
        spend(len(output) * rounds, "weights.rounds")
        most = [0] * rounds  # of weight, by tokens, in a slot that decodes less than these rounds
        for o, weight in zip(output, weights, strict=True):
            if o < rounds:
                most[o:] = map(max, most[o:], [more + weight for more in most[:-o]])
        require(sum(weights) > slots * most[-1], "weights", f"do not prove {rounds} rounds")
    times, tokens = -(-len(output) // slots), sum(inst.prompt)
    prefills = (base + law["prefill_base"]) * times + law["prefill_per_token"] * tokens
    if inst.levels:
        prefills = max(times * min(base + ms for _, ms in inst.levels),
                       tokens * min((base + ms) / most for most, ms in inst.levels))
    held = sum(s * o + o * (o + 1) // 2 for s, o in zip(inst.prompt, output))
    each = law["decode_per_request"] * sum(output) + law["decode_per_kv_token"] * held
    return (base + law["decode_base"]) * rounds + prefills + each

# --- certificates in real time (section 6) ------------------------------------------------------

class Costs:
    """6.1: what serving costs at least [2^-30 ms], arrivals [tick]; lists have one entry each."""

    def __init__(self, inst, once=False):
        on(not inst.unit, "the linear clock")
        law, mixed, n, prompt = inst.law, int(inst.mixed), len(inst.ids), inst.unshared(once)
        both, fixed, each = law["base"] * (1 - mixed), law["prefill_base"], law["prefill_per_token"]
        if inst.levels:
            fixed, each = 0, min(ms / most for most, ms in inst.levels)
        self.base, self.p0, self.p1, self.b0, self.b1, self.b2 = (floor(ms * COSTS) for ms in (
            law["base"] - both, fixed + both, each, law["decode_base"] + both,
            law["decode_per_request"], law["decode_per_kv_token"]))
        self.both = self.base + self.b0
        self.slots = min(n, inst.slots or n)
        peaks = sorted(add(prompt, inst.output), reverse=True)[:self.slots]
        self.capacity = min(sum(peaks), inst.capacity or inf)
        self.arrival = [max(0, floor((a - EARLY) * TICKS)) for a in inst.arrival]
        self.early = Fraction(sum(self.arrival), TICKS) - sum(inst.arrival)
        self.prompt, self.decodes = prompt, [o - mixed for o in inst.output]
        self.prefilled = [s + (mixed or not inst.pause) for s in prompt]
        self.volume = [s * (o - mixed) + o * (o + 1) // 2 - mixed
                       for s, o in zip(prompt, inst.output)]
        self.reading = [self.p1 * s for s in prompt]
        self.prefill = [self.base + self.p0 + work for work in self.reading]
        levels = [(most, floor((law["base"] + ms) * COSTS)) for most, ms in inst.levels]
        self.alone = [max(p, min((ms for most, ms in levels if mixed or most >= s), default=0))
                      for p, s in zip(self.prefill, prompt)]
        work = [self.b1 * k + self.b2 * v for k, v in zip(self.decodes, self.volume)]
        self.decoding = [self.both * k + w for k, w in zip(self.decodes, work)]
        self.residence, self.own = add(self.alone, self.decoding), add(self.reading, work)

    def charged(self, share, tokens, iterations, fixed):  # of a fixed cost, by memory and by slots
        memory, slots = share * self.slots, (SHARE - share) * self.capacity
        whole = SHARE * self.slots * self.capacity
        return [fixed * (memory * t + slots * k) // whole for t, k in zip(tokens, iterations)]

def serving_work(inst, proof, metric):
    """6.2: work of one machine."""
    costs, ones, mixed = Costs(inst, True), [1] * len(inst.ids), inst.mixed
    share = number(proof["memory_share"], "work.memory_share", 0, SHARE)
    fixed, late = costs.base + costs.p0, 0 if mixed else costs.b0
    rest = costs.charged(share, costs.volume, costs.decodes, costs.both)
    sizes = whole = add(costs.own, rest, costs.charged(share, costs.prefilled, ones, fixed))
    residence = costs.residence
    def jobs(sizes):
        return sorted((a, r // TICK, size // (TICK * inst.replicas))
                      for a, r, size in zip(costs.arrival, residence, sizes))
    def ends(sizes):
        return shortest_first((a, size) for a, _, size in jobs(sizes))
    if metric == "makespan_ms":
        ahead = accumulate(size for _, _, size in reversed(jobs(whole)))
        busy = max(a + work for (a, _, _), work in zip(reversed(jobs(whole)), ahead))
        return Fraction(max(busy, *(a + r for a, r, _ in jobs(whole))), TICKS)
    if metric == "total_ttft_ms":
        first = [0 if mixed else costs.b1 + costs.b2 * (s + 1) for s in costs.prompt]
        residence = [p + f + late for p, f in zip(costs.alone, first)]
        begun = costs.charged(share, costs.prefilled, ones, fixed + late)
        sizes, done = add(costs.reading, first, begun), [0] * len(ones)
        held = [share * costs.slots * (s + 1) + (SHARE - share) * costs.capacity
                for s in costs.prompt]
        for g in (0, *proof["holding"]):
            g *= inst.pause != "swapped"
            parts = [g * TICK * u // (SHARE * costs.slots * costs.capacity) for u in held]
            some = ends(map(min, whole, add(sizes, parts)))
            done = [max(before, end - g) for before, end in zip(done, some)]
    else:
        done = ends(whole)
    best = sum(map(max, done, sorted(a + r for a, r, _ in jobs(sizes)))) - sum(costs.arrival)
    if proof.get("cell") is not None:
        best = max(best, in_cells(jobs(sizes), proof["cell"]))
    best = Fraction(best, TICKS)
    if proof.get("rounds") is not None and metric == "total_latency_ms":
        together = len(set(costs.arrival)) == 1
        require(together, "work.rounds", "are for requests that arrive together")
        begun = costs.charged(share, costs.prefilled, ones, costs.p0)
        work = sorted(add(costs.own, begun), reverse=True)
        rows = [(0, s + mixed, k) for s, k in zip(costs.prompt, costs.decodes) if k]
        work = sum(w * (1 + k // inst.replicas) for k, w in enumerate(work))
        if rows:
            proof = proof["rounds"]
            work += costs.both * priced(rows, inst.memory, inst.pause, proof, "work.rounds")
        best = max(best, Fraction(work) / COSTS)
    return best + costs.early

def in_cells(jobs, cell):
    """Time of requests in whole cells: those that must be there, or one machine cannot do."""
    since, until, present, known = [], -1, 0, 0  # since: the first job since that machine was idle
    for i, (a, _, w) in enumerate(jobs):
        since.append(i if a >= until else since[-1])
        until = max(a, until) + w
    longest = max(r for _, r, _ in jobs)
    latest = jobs[-1][0] + sum(w for _, _, w in jobs) + longest
    spend((latest - jobs[0][0]) // cell * len(jobs), "work.cell")
    for k in range(jobs[0][0] // cell, latest // cell + 1):
        end, taken, sizes = (k + 1) * cell, 0, []
        while known < len(jobs) and jobs[known][0] <= k * cell:
            known += 1
        for i in range(known - 1, -1, -1):
            a, r, w = jobs[i]
            if a + r > end:
                present += 1
            elif i >= since[known - 1]:
                heappush(sizes, -w)
                taken += w
                if taken > end - a:
                    taken, present = taken + heappop(sizes), present + 1
            elif a + longest <= end:
                break
    return cell * present + sum(min(r, -a % cell) for a, r, _ in jobs)

def serving_interference(inst, proof):
    """6.3: waiting, as delay of one's own and as time that others take."""
    on(inst.replicas == 1, "one replica")
    costs, n, changes, owing = Costs(inst), len(inst.ids), Counter(), []
    shares, charges = proof["delay_shares"], proof["prefills"]
    fits = len(shares) == len(charges) == n and max(shares) <= SHARE
    require(fits, "interference", "a share up to 1 and a charge for each request are needed")
    ends = [a + r // TICK for a, r in zip(costs.arrival, costs.residence)]
    for a, b, share in zip(costs.arrival, ends, shares):
        changes[a] += SHARE - share
        changes[b] -= SHARE - share
    times, order = sorted(changes), sorted(zip(costs.arrival, count()))
    present = list(accumulate(changes[t] for t in times))
    for t, others in zip(times, present):
        new = bisect_right(order, (t, inf))
        owing, order = owing + [i for _, i in order[:new]], order[new:]
        rests = {i: SHARE * charges[i] - shares[i] * (t - costs.arrival[i]) for i in owing}
        owing, p0 = [i for i in owing if rests[i] > 0], costs.p0 // TICK
        fair = all(rests[i] <= (SHARE - shares[i]) * p0 for i in owing)
        fair = fair or sum(rests[i] for i in owing) <= p0 * others
        require(fair, "interference.prefills", f"charge too much at {t / TICKS} ms")
    total = sum(SHARE - share for share in shares) * (costs.p0 // -TICK)
    for i, (a, b, share) in enumerate(zip(costs.arrival, ends, shares)):
        own, prefill, decode = (
            c[i] // TICK for c in (costs.reading, costs.prefill, costs.decoding))
        behind, dense, cap = prefill + decode, 0, 0
        first, last = (costs.b1 + costs.b2 * (costs.prompt[i] + j)
                       for j in (1 + inst.mixed, inst.output[i]))
        if costs.decodes[i] and first:
            dense, cap = COSTS * first // (costs.both + first), share * (costs.both + last) // last
        best, reach = SHARE * charges[i] if share == 0 else inf, 2 * behind + 1
        while share and share * (reach - behind) < best:  # starts up to where delay alone is more
            reach *= 2
            some = slice(bisect_right(times, a) - 1, bisect_right(times, a + reach))
            knots = times[some]
            here = [p - (SHARE - share) * (t < b) for t, p in zip(knots, present[some])]
            rates = list(accumulate(here, min)), [min(cap, SHARE * n, rate) for rate in here]
            spans = [after - t for t, after in pairwise(knots)]
            sums = [[0, *accumulate(map(mul, row, spans))] for row in rates]
            def paid(x, y, row):  # the integral of one of the two over [x, y]
                p, q = bisect_right(knots, x) - 1, bisect_right(knots, y) - 1
                return (sums[row][q] + rates[row][q] * (y - knots[q])
                        - sums[row][p] - rates[row][p] * (x - knots[p]))
            starts = {t - off for t in knots for off in (0, own, prefill, behind)}
            starts |= {a, a + Fraction(SHARE * charges[i], share)}
            spend(10 * len(starts), "interference")
            best = min(max(SHARE * charges[i], share * (x - a)) + paid(x, x + own, 0)
                       + dense * paid(x + prefill, x + behind, 1) // COSTS
                       for x in starts if a <= x <= a + reach - behind)
        total += SHARE * behind + floor(best)
    return Fraction(total, SHARE * TICKS) + costs.early

def serving_prices(inst, proof):
    """6.4: prices on time."""
    costs, where, start, length = Costs(inst), "serving_prices", proof["start"], proof["bucket"]
    unit, pi, memory, slots, prompt_memory, prompt_slots, first, *own = (proof[key] for key in (
        "denominator", "server", "memory", "slots", "prompt_memory", "prompt_slots", "first",
        "decoding", "prompts"))
    rho, prompt_rho = ([dict(zip(count(at), some)) for at, some in zip(first, rows, strict=True)]
                       for rows in own)
    fits = start <= min(costs.arrival) and len(rho) == len(inst.ids)
    buckets = len(pi)
    fits = fits and all(len(row) == buckets for row in (memory, slots, prompt_memory, prompt_slots))
    fits = fits and all(len(x) == len(y) <= buckets - at for at, x, y in zip(first, *own))
    require(fits, where, "begin too late, or have other lengths")
    for fixed, rows, *shared in ((costs.both, rho, memory, slots),
                                 (costs.p0, prompt_rho, prompt_memory, prompt_slots)):
        charged = Counter(dict(enumerate(add(*shared))))
        for some in rows:
            charged.update(some)
        fits = all(c * COSTS <= fixed * (pi[b] if b < buckets else 0) for b, c in charged.items())
        require(fits, where, "are more than what iterations cost")
    fine, theta = 2**64, Fraction(costs.base, max(1, costs.both))  # rates are rounded down to 2^-64
    total, ms, m, j = 0, Fraction(fine * TICKS, unit), costs.capacity, costs.slots
    for i, a in enumerate(costs.arrival):
        e, w, r = (c[i] // TICK for c in (costs.decoding, costs.reading, costs.residence))
        f = (costs.prefill[i] - costs.reading[i] * inst.mixed) // TICK
        each, once = Fraction(costs.decodes[i], e or 1) * (e > 0), ms / f if f else 0
        half, held = costs.prompt[i] + inst.mixed + Fraction(1, 2), costs.prefilled[i]
        low, rates, sums, own = (a - start) // length, [], [[0] * 6], rho[i]
        a, last = a - start - low * length, max(0, buckets - low)  # from the border before it
        def charges(b):  # of an iteration, of tokens in it, of a token more, of reading, of a rest
            if b >= buckets:
                return [0] * 5
            token = ms * each * (Fraction(costs.b2 * pi[b], COSTS) + Fraction(memory[b], m))
            one = Fraction(costs.b1 * pi[b], COSTS) + Fraction(slots[b], j) + own.get(b, 0)
            rest = Fraction(held, m) * (prompt_memory[b] + theta * memory[b])
            rest += theta * own.get(b, 0)
            rest += (prompt_slots[b] + theta * slots[b]) / j + prompt_rho[i].get(b, 0)
            return [floor(c) for c in (ms * each * one, half * token, each * token,
                                       Fraction(fine * pi[b], unit), once * rest)]
        def upto(y, k=None):  # integrals of the least of these since the arrival, and a moment
            k = min(y // length, last) if k is None else k
            while len(rates) <= k:
                new = charges(low + len(rates))
                rates.append([min(pair) for pair in zip(rates[-1], new)] if rates else new)
                sums.append(upto(len(rates) * length, len(rates) - 1))
            at, row = k * length, rates[k]
            return add(sums[k], [c * (y - at) for c in row] + [row[2] * (y * y - at * at)])
        def cost(x):  # twice that of completing at x, above the arrival
            (c0, c1, c2, _, _, c5), (s0, s1, s2, s3, s4, s5) = upto(x), upto(x - e)
            before = s3 - upto(x - e - w)[3] + s4 - upto(x - e - f)[4]
            after = fine * (x - a) + c0 - s0 + c1 - s1 - (x - e) * (c2 - s2)
            return 2 * (before + after) + c5 - s5
        x, ahead = a + r, 1
        here = best = cost(x)
        while ahead and 2 * fine * (x - a) < best:
            spend(50, where)
            ahead = min((length - y % length for y in (x, x - e, x - e - w, x - e - f)
                         if y < last * length), default=0)  # to the next border
            after = cost(x + ahead)
            curve = 2 * (rates[min((x - e) // length, last)][2] - rates[min(x // length, last)][2])
            bow = curve * ahead**2
            fall = bow - 2 * (after - here)  # from here on, times twice the way
            lowest = here - Fraction(fall**2, 8 * bow) if 0 < fall < 2 * bow else here
            best, x, here = min(best, after, floor(lowest)), x + ahead, after
        total += best
    paid = Fraction(inst.replicas * length * sum(pi), unit)
    return (Fraction(total, 2 * fine) - paid) / TICKS + costs.early

def goodput(inst, proof):
    """6.5: requests within their service levels, at most."""
    costs, d, slo = Costs(inst), proof["denominator"], service_levels(proof.get("slo")) or inst.slo
    require(slo, "goodput.slo", "there are no service levels")
    several = list(zip(proof["begin"], proof["end"], proof["prices"],
                       map(CHARGES.index, proof["charge"]), strict=True))
    require(all(a <= b for a, b, _, _ in several), "goodput.end", "lies before its begin")
    spend(len(several) * len(inst.ids), "goodput")
    total = sum(price * inst.replicas * (end - begin) for begin, end, price, _ in several)
    fixed, m, j = costs.base + costs.p0, costs.capacity, costs.slots
    def up(ms, parts, *more):  # rounded up, with what the judge allows and a tick
        return inf if ms == inf else ceil((ms + sum(more)) * parts) + parts // TICKS
    for i, (s, o, a) in enumerate(zip(costs.prompt, inst.output, costs.arrival)):
        limits = slo.get("class", {}).get(inst.classes[i], slo)
        ttft, tpot, latency = (exact(limits[key]) if key in limits else inf for key in LIMITS)
        def lasting(k, made):  # k tokens after so many
            return k * (costs.both + costs.b1) + costs.b2 * (k * (s + made) + k * (k + 1) // 2)
        to_first, known = costs.alone[i] + lasting(not inst.mixed, 0), ceil(inst.arrival[i] * TICKS)
        to_last, read = lasting(o - 1, 1), known + up(ttft, TICKS, EARLY)
        paced = inf if tpot == inf else ceil(tpot * COSTS) * (o - 1) + up(0, COSTS, EARLY)
        between = min(paced, up(latency, COSTS, EARLY, EARLY) - to_first)
        due = min(known + up(latency, TICKS, EARLY),
                  read + between // TICK + 1 if between < inf else inf)
        read = min(read, due - to_last // TICK)
        if a + to_first // TICK > read or to_last > between:
            continue
        pace, step = 0, costs.b2
        if between < inf and o > 1:  # square roots of what tokens cost, by chords
            parts = min(16, o - 1) if step else 1
            cuts = [(o - 1) * part // parts for part in range(parts + 1)]
            def root(k):
                return isqrt((costs.b1 + step * (s + 2 + k)) << 40)
            roots = sum((y - x) * (root(x) + root(y - 1)) // 2 for x, y in pairwise(cuts))
            pace = (costs.both * roots**2 >> 40) // (between - (o - 1) * costs.both) if roots else 0
        prompt = [fixed * costs.prefilled[i] // m, fixed // j,
                  costs.p0 * costs.prefilled[i] // m, costs.p0 // j]
        rests = [costs.both * costs.volume[i] // m, costs.both * costs.decodes[i] // j, pace, pace]
        left = d
        for begin, end, price, k in several:
            own = costs.own[i] + rests[k] if due <= end else costs.reading[i]
            if a >= begin and read <= end:
                left -= price * ((own + prompt[k]) // TICK)
        total += max(0, left)
    return Fraction(total, d)

# --- claims (section 7) -------------------------------------------------------------------------

ROUNDS, LATENCY, MAKESPAN = "total_latency_rounds", "total_latency_ms", "makespan_ms"
#: Of each kind: what recomputes it, its field, what it bounds, whether it may claim less.
KINDS = {"kv-prices": (kv_prices, "prices", (ROUNDS,), False),
         "kv-partitions": (kv_partitions, "partitions", (ROUNDS,), False),
         "kv-volume": (kv_volume, None, (ROUNDS,), False),
         "slot-rounds": (slot_rounds, None, (ROUNDS,), False),
         "slot-closed-form": (stages, None, (MAKESPAN,), False),
         "packing": (stages, "weights", (MAKESPAN,), False),
         "serving-work": (serving_work, "work", (LATENCY, MAKESPAN, "total_ttft_ms"), True),
         "serving-interference": (serving_interference, "interference", (LATENCY,), True),
         "serving-prices": (serving_prices, "serving_prices", (LATENCY,), True),
         "goodput": (goodput, "goodput", ("requests_within_slo",), False)}
MEASURED = ("_ms", "_second", "_round", "slo", "]")  # how names of what is no whole number end

def stamp(inst, given, where):
    """Whether a file is about this instance."""
    require(given["sha256"] == inst.sha256, where, "is another instance")
    said = given["name"], given["requests"], given.get("family")
    require(said == (inst.name, len(inst.ids), inst.family), where, "is said to be what it is not")

def certificate(inst, given, where="certificate"):
    """What a certificate proves: the metric, and its least value."""
    proofs = [field for _, field, _, _ in KINDS.values() if field]
    keys(given, where, f"schema instance kind objective bound seconds {' '.join(proofs)}")
    stamp(inst, given["instance"], f"{where}.instance")
    kind = given.get("kind", "kv-prices")
    supported(kind in KINDS, where, f"kind {kind!r} is not known here")
    recomputed, field, metrics_, less = KINDS[kind]
    metric = given.get("objective") or metrics_[0]
    require(metric in metrics_, where, f"{kind} does not bound {metric}")
    for other in proofs:
        there = given.get(other) is not None
        words = "is no proof of this kind" if there else "is missing"
        require(there == (other == field), f"{where}.{other}", words)
    walk({key: some for key, some in (given.get(field) or {}).items() if key != "slo"}, where)
    bound = recomputed(inst, given.get(field), *([metric] if kind == "serving-work" else []))
    below = number(given["bound"]["denominator"], f"{where}.bound", 1, inf)
    said = Fraction(number(given["bound"]["numerator"], f"{where}.bound", -inf, inf), below)
    holds = said <= bound if less else said == bound
    require(holds, f"{where}.bound", f"says {float(said)}; the proof gives {float(bound)}")
    if kind == "goodput":
        return "requests_outside_slo", Fraction(max(0, len(inst.ids) - floor(said)))
    return metric, said if metric.endswith("ms") else Fraction(ceil(said))

def same(said, known, name, doubt=0):
    """Whether a file states what is known: exactly what is counted, to 1e-9 what is measured."""
    measured = name.endswith(MEASURED) or name.startswith("mean")
    if said is None or known is None or not measured:
        return said == known
    return abs(Fraction(said) - known) <= Fraction(1, 10**9) * max(1, abs(known)) + doubt

def result(inst, given):
    """What holds of a result, in words."""
    stamp(inst, given["instance"], "instance")
    objective, status, said = given.get("objective") or {}, given["status"], []
    name, value, bound = (objective.get(key) for key in ("name", "value", "bound"))
    name, own, unsaid = name or "", given["producer"]["kind"] == "formulation", []
    require(not given.get("violations"), "violations", "are listed; a valid schedule has none")
    claims = status in ("optimal", "feasible")
    require(claims == (value is not None), "status", f"{status}, beside the value {value}")
    if given.get("schedule") is None:
        stated = value is not None or given.get("metrics")
        require(not stated, "schedule", "is missing, but the file says what it is worth")
        if status == "infeasible":
            return infeasible(inst)
    else:
        servers, times = replay(inst, given["schedule"])
        levels, doubt = service_levels(given.get("slo")) or inst.slo, max(s.doubt for s in servers)
        every = metrics(inst, servers, times, levels)
        for key, stated in [*(given.get("metrics") or {}).items(), (name, value)]:
            fits = key not in every or same(stated, every[key], key, doubt)
            gives = every.get(key) and float(every[key])
            require(fits, f"metrics.{key}", f"is {stated}, the schedule gives {gives}")
            unsaid += [] if key in every else [key]
        require(own or name in every, "objective.name", f"{name!r} is no metric")
        require(own or value is not None, "status", f"{status}, but the schedule is valid")
        said += [f"schedule of {len(inst.ids)} requests", f"{name} = {value}"]
    if value is not None and bound is not None:
        near = same(value, Fraction(bound), name)
        require(near or bound < value, "objective.bound", f"{bound} is above the value {value}")
        require(near == (status == "optimal"), "status", f"{status}, at {value} and bound {bound}")
        gap = (Fraction(value) - Fraction(bound)) / Fraction(value) if value else 0
        gap -= Fraction(objective.get("gap") or gap)
        require(abs(gap) <= Fraction(1, 10**9), "objective.gap", "is not (value - bound) / value")
    elif status == "optimal" or objective.get("gap") is not None:
        raise Invalid("objective: optimal, or with a gap, without both a value and a bound")
    proof = given.get("certificate")
    source = None if bound is None else "solver" if proof is None else "certificate"
    by = objective.get("bound_by")
    require(by == source, "objective.bound_by", f"{by}, but the bound is from {source}")
    if proof is not None:
        metric, least = certificate(inst, proof)
        require(metric == name, "certificate.objective", f"{metric}, of the result {name}")
        words = f"{bound}; the certificate says {least}"
        require(same(bound, least, name), "objective.bound", words)
        said += [f"bound {bound} proven by {proof['kind']}"]
    supported(said, "result", "has neither a schedule nor a certificate")
    unsaid += [key for key in ("load", "relaxation", "progress", "stages") if given.get(key)]
    unsaid += ["rules of its formulation"] if own else []
    unsaid += ["bound"] if bound is not None and proof is None else []
    said += [f"not checked: {', '.join(dict.fromkeys(unsaid))}"] if unsaid else []
    return "; ".join(said)

def infeasible(inst):
    """Why there is no schedule."""
    largest = max((most for most, _ in inst.levels), default=inf) if inst.exclusive else inf
    for key, s, o in zip(inst.ids, inst.prompt, inst.output):
        if s + o > (inst.capacity or inf) or s > largest:
            return f"no schedule exists: request {key!r} does not fit the server"
    raise CannotCheck("status: infeasible, though every request fits the server alone")

def verdict(documents):
    """What holds of the second document, about the first: the line to print, and the exit code."""
    try:
        SPENT[0] = 0
        about, given = documents  # read only now
        inst, schema = Instance(about), given["schema"]
        if schema == "modelkit/result/1":
            return f"valid: {result(inst, given)}", 0
        supported(schema == "modelkit/certificate/1", "$.schema", f"{schema!r} is not known here")
        metric, least = certificate(inst, given)
        return f"valid: no schedule has {metric} below {float(least):.15g}", 0
    except Invalid as error:
        return f"invalid: {error}", 5
    except CannotCheck as error:
        return f"cannot check: {error}", 2
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError,
            RecursionError, MemoryError) as error:
        return f"cannot check: malformed: {type(error).__name__}: {error}", 2

def main(paths):
    """Check a file against its instance: the line to print, and the exit code."""
    return verdict(map(read, paths))

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python check.py INSTANCE RESULT|CERTIFICATE")
    line, code = main(sys.argv[1:])
    print(line)
    sys.exit(code)
