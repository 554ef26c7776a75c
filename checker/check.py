"""Check a schedule, or a certificate of a lower bound, without trusting modelkit.

    python check.py INSTANCE RESULT|CERTIFICATE

One file, the standard library alone, whole numbers and fractions throughout; written from the
specification (docs/pages/specification.md), whose sections it names, and sharing no line with
modelkit. It prints one line, and ends with an exit code:

    0   valid: what holds, and what the file claims beside that
    5   invalid: what is wrong, and where
    2   cannot check: a file that cannot be read, or something that is not decided here
"""
# fmt: off

import gzip
import hashlib
import json
import sys
from bisect import bisect_right
from fractions import Fraction
from heapq import heappop, heappush
from itertools import accumulate, count, pairwise
from math import ceil, floor, inf, isqrt
from operator import mul

TICKS, COSTS = 2**10, 2**30  # in a millisecond: times and costs in certificates of real time
TICK = COSTS // TICKS  # costs in a tick
SHARE = 2**10  # shares are whole numbers of this part of 1
EARLY = Fraction(1, 1000)  # under the linear clock, times so close are one moment [ms]
MOST_STEPS = 3 * 10**8  # some minutes; what takes more is not checked

class Invalid(Exception):
    """The claim is wrong: where, and why."""

class CannotCheck(Exception):
    """The claim cannot be decided here: why."""

def require(condition, where, words):
    """Refuse a claim that does not hold."""
    if not condition:
        raise Invalid(f"{where}: {words}")

def limit(steps, where, most=MOST_STEPS):
    """Refuse to do what would take too long."""
    if steps > most:
        raise CannotCheck(f"{where}: takes {steps} steps; at most {most} are made")

# --- files (section 1) --------------------------------------------------------------------------

def read(path):
    """The JSON document of a file, gzipped or not."""
    def once(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key stands twice in one object")
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
    if unknown := set(value) - set(allowed.split()):
        raise CannotCheck(f"{where}: unknown key {min(unknown)!r}")
    return value

def number(value, where, low, high, whole=True):
    """A number within limits."""
    if type(value) not in ((int,) if whole else (int, float)) or not low <= value <= high:
        what = "a whole number" if whole else "a number"
        raise CannotCheck(f"{where}: found {value!r:.60}; {what} from {low} to {high} is needed")
    return value

def numbers(values, where, low, high, length=None):
    """A list of whole numbers; of this length, where it is given."""
    require(length in (None, len(values)), where, f"{len(values)} numbers, not {length}")
    return [number(value, f"{where}[{i}]", low, high) for i, value in enumerate(values)]

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
LIMITS = ("ttft_ms", "tpot_ms", "latency_ms")
OPTIONAL = ("class", "session", "priority", "extra", "prefix")

class Instance:
    """Requests as lists, one entry each, their server, and the hash of all."""

    def __init__(self, given):
        keys(given, "$", "schema name description source server requests extra")
        server = {key: value for key, value in given["server"].items() if value is not None}
        keys(server, "$.server", "kv_capacity_tokens slots clock replicas slo prefix_cache pause")
        for key in {"kv_capacity_tokens", "slots", "replicas"} & set(server):
            number(server[key], f"$.server.{key}", 1, 10**12)
        self.capacity, self.slots = server.get("kv_capacity_tokens"), server.get("slots")
        self.replicas, self.slo = server.get("replicas", 1), service_levels(server.get("slo"))
        self.pause = keys(server.get("pause", {}), "$.server.pause", "keep").get("keep")
        self.cache, self.keep = "prefix_cache" in server, False
        server["clock"] = self.read_clock(server.get("clock", {"kind": "unit"}))
        if self.replicas == 1:
            server.pop("replicas", None)
        if self.slo is not None:
            server["slo"] = self.slo
        if self.cache:
            cache = keys(server["prefix_cache"], "$.server.prefix_cache", "keep")
            self.keep = cache.get("keep", False)
            server["prefix_cache"] = {"keep": self.keep}
        if self.pause and self.cache:
            raise CannotCheck("$.server.pause: is beside a prefix_cache")
        form = {"schema": given["schema"], "server": server, **{
            key: given.get(key, "") for key in ("name", "description", "source")}}
        kind, family, *_ = [*form["source"].split(" "), ""]
        self.name, self.family = form["name"], family if kind == "family" and family else None
        form["requests"] = self.read_requests(given["requests"])
        form |= {"extra": given["extra"]} if given.get("extra") else {}
        text = json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self.sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def read_clock(self, clock):
        """Read the law, exactly; return the canonical form."""
        keys(clock, "$.server.clock", f"kind mixed {' '.join(LAW)} prefill_levels")
        self.unit, self.mixed = clock["kind"] == "unit", clock.get("mixed", False)
        self.exclusive = not self.unit and not self.mixed
        law = {key: number(clock.get(key, 0), key, 0, 1e9, False) for key in LAW}
        self.law = {key.removesuffix("_ms"): exact(value) for key, value in law.items()}
        levels = [[tokens, float(ms)] for tokens, ms in clock.get("prefill_levels") or ()]
        self.levels = [(tokens, exact(ms)) for tokens, ms in levels]
        if self.unit:
            return {"kind": "unit"}
        law = {key: plain(value) for key, value in law.items() if value or key not in LATER}
        law |= {"prefill_levels": levels} if levels else {}
        return {"kind": clock["kind"], "mixed": self.mixed, **law}

    def read_requests(self, given):
        """Read the requests, in rows or columns; return the canonical form."""
        if isinstance(given, dict):
            given = [dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True)]
        always = ("id", "arrival", "prompt_tokens", "output_tokens")
        known = " ".join((*always, "predicted_output_tokens", *OPTIONAL))
        rows = [{"id": f"r{i}", "arrival": 0, **keys(row, f"$.requests[{i - 1}]", known)}
                for i, row in enumerate(given, 1)]
        form = {key: [plain(row[key]) for row in rows] for key in always}
        self.ids, arrival, self.prompt, self.output = form.values()
        numbers(self.prompt, "$.requests.prompt_tokens", 1, 10**8)
        numbers(self.output, "$.requests.output_tokens", 1, 10**8)
        self.index = {key: i for i, key in enumerate(self.ids)}
        if not rows or len(self.index) < len(rows):
            raise CannotCheck("$.requests: requests, each with an id of its own, are needed")
        # in ms: the double that is 1000 times the arrival, exactly
        self.arrival = [number(a, "$.requests.arrival", 0, 10**9) if self.unit else
                        Fraction(number(a, "$.requests.arrival", 0, 10**9, False) * 1000.0)
                        for a in arrival]
        seen = [row.get("predicted_output_tokens") or row["output_tokens"] for row in rows]
        form["predicted_output_tokens"] = [
            p[0] if isinstance(p, list) and p[0] == p[1] else p for p in seen]
        for key in OPTIONAL:
            column = [plain(row.get(key)) for row in rows]
            form |= {key: column} if any(value is not None for value in column) else {}
        self.classes, groups = [row.get("class") for row in rows], {}
        prefixes = [row.get("prefix") or {"group": "", "tokens": 0} for row in rows]
        self.shared = [min(p["tokens"], s - 1) * self.cache for p, s in zip(prefixes, self.prompt)]
        self.group = [groups.setdefault(p["group"], len(groups)) if tokens else -1
                      for p, tokens in zip(prefixes, self.shared)]
        return form

    def unshared(self, once):
        """Prompts without what others may read; ``once``: the first of a group keeps its own."""
        order = sorted(range(len(self.ids)), key=lambda i: (self.arrival[i], -self.shared[i], i))
        first = {self.group[i]: i for i in reversed(order)} if once else {}
        return [s - (0 if first.get(self.group[i]) == i else self.shared[i])
                for i, s in enumerate(self.prompt)]

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

TOTALS = ("rounds", "idle_rounds", "evictions", "recomputed_tokens", "pauses", "swapped_tokens",
          "cached_prompt_tokens", "prompts", "paused", "slot", "decode", "token")

class Job:
    """A request in progress: output tokens made, prompt tokens unread and found in the cache."""

    def __init__(self, inst, i, begin, slot, found):
        self.i, self.prompt, self.output, self.begin = i, inst.prompt[i], inst.output[i], begin
        self.slot, self.made, self.found, self.unread = slot, 0, found, inst.prompt[i] - found
        self.first, self.paused, self.in_pauses = None, None, 0  # times: first token, pause, sum

class Replica:
    """One of the servers alike, which replays its segments; the first broken rule is raised."""

    def __init__(self, inst, chunk):
        self.inst, self.chunk, self.now, self.doubt = inst, chunk, Fraction(0), Fraction(0)
        self.jobs, self.done = {}, {}  # by request, in order of admission or resumption
        # the prefix cache, by group: tokens in use by request, all there, when somebody came or went
        self.users, self.there, self.last = {}, {}, {}
        self.total, self.peak, self.saved = dict.fromkeys(TOTALS, 0), 0, 0

    def active(self, fresh):  # those not paused, with their first token ahead or behind
        return [j for j in self.jobs.values() if j.paused is None and (j.first is None) == fresh]

    def resident(self):  # those that take memory and a slot
        return [j for j in self.jobs.values() if j.paused is None or self.inst.pause == "held"]

    def longest(self, group):  # tokens of a prefix that are in use
        return max(self.users[group].values(), default=0)

    def cached(self, job):  # tokens that were processed for it
        return job.prompt - job.found - job.unread * (not self.inst.exclusive) + job.made

    def job(self, i, does, paused=None):
        job = self.jobs.get(i)
        fits = job is not None and paused in (None, job.paused is not None)
        require(fits, self.where, f"{does} {self.inst.ids[i]!r}, which is not there to be")
        return job

    def segment(self, at, does, where):
        inst, law, total, self.where = self.inst, self.inst.law, self.total, where
        late = 0 if inst.unit else EARLY + self.doubt
        require(at >= self.now - late, where, f"begins at {float(at)}, before the last one ends")
        if at > self.now:
            total["idle_rounds"] += at - self.now if inst.unit else 0
            self.wait(at - self.now)
        for i in does["evict"]:
            job = self.job(i, "evicts")
            total["evictions"] += 1
            total["recomputed_tokens"] += self.cached(job)
            self.unpause(job)
            self.leave(job)
        out = back = 0
        for i in does["pause"]:
            job = self.job(i, "pauses", False)
            require(inst.pause, where, "pauses a request, which this server does not do")
            job.paused, out = self.now, out + self.cached(job)
            total["pauses"] += 1
        for i, slot in does["resume"]:
            job = self.job(i, "resumes", True)
            back += self.cached(job)
            self.unpause(job)
            self.jobs[i] = self.jobs.pop(i)
            self.take_slot(job, job.slot if slot is None else slot)
        unread = [self.admit(i, slot) for i, slot in does["admit"]]
        busy = len(self.resident())
        require(busy <= (inst.slots or busy), where, f"{busy} requests in {inst.slots} slots")
        if inst.pause == "swapped":
            total["swapped_tokens"] += out
            if copying := out * law["swap_out_per_token"] + back * law["swap_in_per_token"]:
                self.wait(copying)
        if inst.exclusive and unread:
            self.wait(law["base"] + self.prefill(sum(unread)))
        for i, _ in does["chunks"] or ():
            fresh = self.job(i, "has a chunk of", False).first is None
            require(fresh and not inst.exclusive, where, "has a chunk of what is not there")
        whole = inst.exclusive or does["chunks"] is None
        self.decode(does["rounds"], None if whole else dict(does["chunks"]))

    def admit(self, i, slot):
        inst, words = self.inst, f"admits {self.inst.ids[i]!r}"
        require(i not in self.done and i not in self.jobs, self.where, f"{words} a second time")
        early = self.now < inst.arrival[i] - EARLY * (not inst.unit)
        require(not early, self.where, f"{words} before it arrives")
        group, tokens, found = inst.group[i], inst.shared[i], 0
        if tokens:
            there = self.there.get(group, 0)
            self.users.setdefault(group, {})[i], found = tokens, min(tokens, there)
            self.there[group], self.last[group] = max(tokens, there), self.now
        self.total["prompts"] += inst.prompt[i]
        self.total["cached_prompt_tokens"] += found
        self.jobs[i] = Job(inst, i, self.now, slot, found)
        self.take_slot(self.jobs[i], slot)
        return self.jobs[i].unread

    def take_slot(self, job, slot):
        job.slot = slot
        if slot is not None:
            free = all(other is job or other.slot != slot for other in self.resident())
            fits = free and 0 <= slot < (self.inst.slots or inf)
            require(fits, self.where, f"slot {slot} for {self.inst.ids[job.i]!r} is not free")

    def unpause(self, job):
        if job.paused is not None:
            job.in_pauses += self.now - job.paused
            self.total["paused"] += self.now - job.paused
            job.paused = None

    def leave(self, job):  # done or evicted; others read of its prefix what it leaves unread
        inst, group, tokens = self.inst, self.inst.group[job.i], self.inst.shared[job.i]
        del self.jobs[job.i]
        in_pauses = job.in_pauses if inst.pause == "swapped" else 0
        self.total["slot"] += self.now - job.begin - in_pauses
        if not tokens:
            return
        del self.users[group][job.i]
        read = job.prompt - job.unread * (not inst.exclusive)
        for other in self.active(True):
            more = min(tokens, inst.shared[other.i]) - read
            if inst.group[other.i] == group and more > 0:
                other.unread, other.found, read = other.unread + more, other.found - more, read + more
                self.total["cached_prompt_tokens"] -= more
        there = read if read < tokens else self.there[group]
        self.there[group] = max(there if inst.keep else 0, self.longest(group))
        self.last[group] = self.now

    def held(self):  # tokens in the memory, and by how many less these are for being shared
        saved = sum(sum(some.values()) - self.longest(g) for g, some in self.users.items())
        return sum(job.prompt + job.made for job in self.resident()) - saved, saved

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
        held, _ = self.held()
        self.fill(held)
        self.total["token"] += held * duration
        self.pass_time(duration)

    def pass_time(self, duration):  # so much more may the doubles be off of who wrote the file
        self.now += duration
        self.doubt += self.now / 2**52

    def prefill(self, tokens):
        law, levels = self.inst.law, self.inst.levels
        if not levels:
            return law["prefill_base"] + law["prefill_per_token"] * tokens
        lasting = [ms for capacity, ms in levels if capacity >= tokens]
        require(lasting, self.where, f"a prefill of {tokens} tokens, more than any level holds")
        return min(lasting)

    def decode(self, rounds, said):  # ``said``: prompt tokens that each round processes, by request
        inst, total, law = self.inst, self.total, self.inst.law
        total["rounds"] += rounds
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
            held, saved = self.held()
            self.peak, self.saved = max(self.peak, held), max(self.saved, saved)
            total["token"] += lasts * held
            total["decode"] += lasts * (len(fresh) + len(running))
            self.pass_time(lasts)
            self.fill(held)
            rounds -= n
            for job in made:
                job.first = self.now if job.first is None else job.first
                if job.made == job.output:
                    self.done[job.i] = job.first, self.now
                    self.leave(job)
        if rounds:
            total["idle_rounds"] += rounds
            idle = rounds * (law["base"] + law["decode_base"]) if inst.exclusive else 0
            self.wait(Fraction(rounds) if inst.unit else idle)

def replay(inst, schedule):
    """The replicas after a schedule, and first token and completion of each request."""
    keys(schedule, "schedule", "segments tokens_per_iteration")
    limit(sum(inst.output) + sum(inst.prompt) // 100, "schedule")
    if (chunk := schedule.get("tokens_per_iteration")) is not None:
        number(chunk, "schedule.tokens_per_iteration", 1, 10**15)
        require(inst.mixed, "schedule", "splits prompts, which this clock does not")
    servers, home = {1: Replica(inst, chunk)}, {}
    for at, given in enumerate(schedule["segments"]):
        where, does = f"schedule.segments[{at}]", {"chunks": None}
        keys(given, where, "at admit evict rounds replica pause resume chunks")
        for key in ("evict", "pause", "admit", "resume", "chunks"):
            if given.get(key) is not None or key != "chunks":
                pairs = [(k, None) if isinstance(k, str) else k for k in given.get(key, ())]
                for name, value in pairs:
                    require(name in inst.index, where, f"names {name!r}, which is no request")
                    number(1 if value is None else value, where, -(10**15), 10**15)
                pairs = [(inst.index[name], value) for name, value in pairs]
                does[key] = [i for i, _ in pairs] if key in ("evict", "pause") else pairs
        for _, tokens in does["chunks"] or ():
            number(tokens, f"{where}.chunks", 1, 10**15)
        does["rounds"] = number(given.get("rounds", 0), where, 0, 10**15)
        replica = number(given.get("replica", 1), where, -(10**15), 10**15)
        require(1 <= replica <= inst.replicas, where, f"is on replica {replica}")
        for i, _ in does["admit"]:
            here = home.setdefault(i, replica) == replica
            require(here, where, f"admits {inst.ids[i]!r} on a second replica")
        time = exact(number(given["at"], where, 0, 10**15, False)) * (1 if inst.unit else 1000)
        require(not inst.unit or time.denominator == 1, where, "begins within a round")
        servers.setdefault(replica, Replica(inst, chunk)).segment(time, does, where)
    done = {i: times for server in servers.values() for i, times in server.done.items()}
    for i, key in enumerate(inst.ids):
        require(i in done, "schedule", f"ends before request {key!r} is done")
    return list(servers.values()), [done[i] for i in range(len(inst.ids))]

def metrics(inst, servers, times, slo):
    """Every metric of a valid schedule, exactly; None where there is none."""
    unit, second, thousand = ("rounds", "round", 1) if inst.unit else ("ms", "second", 1000)
    ttft = [first - a for (first, _), a in zip(times, inst.arrival)]
    latency = [end - a for (_, end), a in zip(times, inst.arrival)]
    tpot = [(end - first) / Fraction(o - 1) for (first, end), o in zip(times, inst.output) if o > 1]
    makespan = Fraction(max(end for _, end in times))
    total = {key: sum(server.total[key] for server in servers) for key in TOTALS}
    def per(amount, most, unit=1):
        return amount * unit / (most * makespan) if most and makespan else None
    slots, memory = ((most or 0) * inst.replicas for most in (inst.slots, inst.capacity))
    every = {key: total[key] for key in TOTALS[:7]} | {
        f"total_latency_{unit}": sum(latency), "total_ttft_ms": sum(ttft),
        f"makespan_{unit}": makespan, f"paused_{unit}": total["paused"],
        f"throughput_tokens_per_{second}": per(sum(inst.output), 1, thousand),
        "slot_utilisation": per(total["slot"], slots), "kv_utilisation": per(total["token"], memory),
        "slot_decode_utilisation": per(total["decode"], slots),
        "peak_kv_tokens": max(server.peak for server in servers),
        "peak_saved_tokens": max(server.saved for server in servers),
        "prefix_hit_share": Fraction(total["cached_prompt_tokens"], total["prompts"])}
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
                  f"requests_outside_slo{tail}": len(those) - good,
                  f"within_slo{tail}": Fraction(good, len(those)),
                  f"goodput_requests_per_second{tail}": per(good, 1, 1000),
                  f"goodput_tokens_per_second{tail}": per(sum(o for k, o in those if k), 1, 1000)}
    return every

def within(limits, ttft, latency, output):
    """Whether a request keeps its service levels, to the microsecond."""
    spent = {"ttft_ms": ttft, "latency_ms": latency, "tpot_ms": latency - ttft}
    return all(spent[key] <= exact(limits[key]) * (output - 1 if key == "tpot_ms" else 1) + EARLY
               for key in LIMITS if key in limits)

# --- certificates under the unit clock, and of stages (section 5) -------------------------------

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

def priced(requests, capacity, pauses, proof, where):
    """What prices on rounds prove of requests (a, s, o)."""
    d = number(proof["denominator"], f"{where}.denominator", 1, 2**60)
    rounds = [0, *numbers(proof["rounds"], f"{where}.rounds", 1, 10**12)]
    prices = [0, *numbers(proof["numerators"], f"{where}.numerators", 0, 2**62, len(rounds) - 1)]
    require(all(a < b for a, b in pairwise(rounds)), where, "rounds do not increase")
    require(capacity or rounds == [0], where, "there is no memory that could have a price")
    falls = rounds == list(range(len(rounds))) and all(a >= b for a, b in pairwise(prices[1:]))
    require(falls or not pauses, where, "prices that rise prove nothing where there are pauses")
    paid = list(accumulate(prices))  # up to a round, and times the round
    timed = list(accumulate(t * price for t, price in zip(rounds, prices)))
    def charge(begin, end, more):  # of the rounds behind begin up to end, round t with t + more tokens
        x, y = bisect_right(rounds, begin) - 1, bisect_right(rounds, end) - 1
        return more * (paid[y] - paid[x]) + timed[y] - timed[x]
    total = -(capacity or 0) * paid[-1]
    for a, s, o in requests:
        best, spans = d * o + charge(a, a + o, s - a), [(a + 1, rounds[-1])]
        while spans:  # of starts; each pays for the rounds that all share, with the last one's tokens
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
    requests = list(zip(inst.arrival, inst.unshared(True), inst.output))
    memory = inst.capacity and inst.capacity * inst.replicas
    return priced(requests, memory, inst.pause, proof, "prices")

def kv_partitions(inst, proof):
    """5.2: multipliers, over multisets of parts."""
    on(inst.unit and inst.capacity and not inst.pause, "the unit clock, a memory and no pauses")
    n, d = len(inst.ids), number(proof["denominator"], "partitions.denominator", 1, 2**40)
    floors = numbers(proof["floors"], "partitions.floors", 1, 10**9, n)
    pays = numbers(proof["multipliers"], "partitions.multipliers", -(2**60), 2**60, n)
    total, kinds, spans = 0, {}, []
    for a, s, o, low, pay in zip(inst.arrival, inst.unshared(True), inst.output, floors, pays):
        require(low >= s, "partitions.floors", f"{low}, below a prompt of {s} tokens")
        total += pay if s + o > low else d * o
        if s + o > low:
            kinds.setdefault((s + o, low), []).append((a, a + o, pay))
            spans += [(a + o - max(inst.output), a + pay // d)] if a + o <= a + pay // d else []
    def older(state):
        return tuple((h - 1, low) for h, low in state if h - 1 > low)
    states, todo = {()}, [()]
    while todo:
        state = todo.pop()
        room = inst.capacity * inst.replicas - sum(h for h, _ in state)
        more = {older(state), *(tuple(sorted((*state, k))) for k in kinds if k[0] <= room)} - states
        todo += more
        states |= more
        limit(len(states), "partitions.floors", 60_000)
    order = sorted(states, key=lambda state: (sum(h for h, _ in state), state))
    at = {state: x for x, state in enumerate(order)}
    aged, x_down = [at[older(state)] for state in order], range(len(order) - 1, -1, -1)
    added = {k: [(x, at.get(tuple(sorted((*order[x], k))), 0)) for x in x_down] for k in kinds}
    added = {k: [(x, y) for x, y in pairs if y] for k, pairs in added.items()}
    limit(sum(last - first for first, last in spans), "partitions.multipliers", 10**7)
    rounds = sorted({c for first, last in spans for c in range(first, last + 1)})
    limit(len(rounds) * sum(map(len, added.values())), "partitions")
    least = [0] * len(order)  # of what it takes back from a state in a round
    for c in rounds:
        least = [least[x] for x in aged]
        for k, of in kinds.items():
            cost = min((d * (c - a) - pay for a, end, pay in of if c >= end), default=0)
            for x, y in added[k] if cost < 0 else ():
                least[x] = min(least[x], least[y] + cost)
    return Fraction(total + least[0], d)

def kv_volume(inst, _):
    """5.3: memory and slots of all rounds."""
    on(inst.unit, "the unit clock")
    ends = sorted(a + o for a, o in zip(inst.arrival, inst.output))
    volume = [s * o + o * (o + 1) // 2 for s, o in zip(inst.unshared(True), inst.output)]
    for speed, work in ((inst.capacity, volume), (inst.slots, inst.output)):
        speed = (speed or 0) * inst.replicas
        machine = shortest_first([(a * speed, w) for a, w in zip(inst.arrival, work)]) if speed else ()
        ends = [max(end, -(-done // speed)) for end, done in zip(ends, machine)] or ends
    return Fraction(sum(ends) - sum(inst.arrival))

def slot_rounds(inst, _):
    """5.4: rounds on slots."""
    on(inst.unit and inst.slots, "the unit clock and slots")
    slots = inst.slots * inst.replicas
    machine = shortest_first([(a * slots, o) for a, o in zip(inst.arrival, inst.output)])
    alone = sorted((a + o * 1) * slots for a, o in zip(inst.arrival, inst.output))
    return Fraction(sum(map(max, machine, alone)), slots) - sum(inst.arrival)

def stages(inst, proof):
    """5.5: rounds that some slot decodes at least, by closed form or by weights."""
    on(inst.exclusive and inst.slots and inst.replicas == 1, "mixed = false, slots, one replica")
    law, slots, output, held = inst.law, inst.slots, inst.output, 0
    longest = [*sorted(output, reverse=True), *[0] * slots]
    rounds = max(-(-sum(output) // slots), longest[0],
                 longest[slots - 1] + longest[slots] if longest[slots] else 0)
    if proof is not None:
        rounds = number(proof["rounds"], "weights.rounds", 1, 10**12)
        weights = numbers(proof["values"], "weights.values", 0, 10**15, len(output))
        limit(len(output) * rounds, "weights.rounds")
        most = [0] * rounds  # of weight, by tokens, in a slot that decodes less than these rounds
        for o, weight in zip(output, weights):
            if o < rounds:
                most[o:] = map(max, most[o:], [more + weight for more in most[:-o]])
        require(sum(weights) > slots * most[-1], "weights", f"do not prove {rounds} rounds")
    times, tokens, base = -(-len(output) // slots), sum(inst.prompt), law["base"]
    prefills = (base + law["prefill_base"]) * times + law["prefill_per_token"] * tokens
    if inst.levels:
        prefills = max(times * min(base + ms for _, ms in inst.levels),
                       tokens * min((base + ms) / most for most, ms in inst.levels))
    held = sum(s * o + o * (o + 1) // 2 for s, o in zip(inst.prompt, output))
    return (base + law["decode_base"]) * rounds + prefills + (
        law["decode_per_request"] * sum(output) + law["decode_per_kv_token"] * held)

# --- certificates in real time (section 6) ------------------------------------------------------

class Costs:
    """6.1: what serving costs at least [2^-30 ms], arrivals [tick]; lists have one entry each."""

    def __init__(self, inst, prompt):
        on(not inst.unit, "the linear clock")
        law, mixed, n = inst.law, int(inst.mixed), len(prompt)
        both, fixed = law["base"] * (not mixed), law["prefill_base"]
        each = law["prefill_per_token"]
        if inst.levels:
            fixed, each = 0, min(ms / most for most, ms in inst.levels)
        self.base, self.p0, self.p1, self.b0, self.b1, self.b2 = (floor(ms * COSTS) for ms in (
            law["base"] - both, fixed + both, each, law["decode_base"] + both,
            law["decode_per_request"], law["decode_per_kv_token"]))
        peaks = sorted(map(sum, zip(prompt, inst.output)), reverse=True)
        self.slots = min(n, inst.slots or n)
        self.capacity = min(sum(peaks[:self.slots]), inst.capacity or inf)
        self.arrival = [max(0, floor((a - EARLY) * TICKS)) for a in inst.arrival]
        self.early = Fraction(sum(self.arrival), TICKS) - sum(inst.arrival)
        self.prompt, self.decodes = prompt, [o - mixed for o in inst.output]
        self.prefilled = [s + (mixed or not inst.pause) for s in prompt]
        self.volume = [s * (o - mixed) + o * (o + 1) // 2 - mixed for s, o in zip(prompt, inst.output)]
        self.reading = [self.p1 * s for s in prompt]
        self.prefill = [self.base + self.p0 + work for work in self.reading]
        levels = [(most, floor((law["base"] + ms) * COSTS)) for most, ms in inst.levels]
        self.alone = [max(p, min((ms for most, ms in levels if mixed or most >= s), default=0))
                      for p, s in zip(self.prefill, prompt)]
        self.work = [self.b1 * k + self.b2 * v for k, v in zip(self.decodes, self.volume)]
        self.decoding = [(self.base + self.b0) * k + w for k, w in zip(self.decodes, self.work)]
        self.residence = list(map(sum, zip(self.alone, self.decoding)))
        self.own = list(map(sum, zip(self.reading, self.work)))

    def charged(self, share, tokens, iterations, fixed):
        """The part of a fixed cost that each request is charged, of memory and of slots."""
        memory, slots = share * self.slots, (SHARE - share) * self.capacity
        whole = SHARE * self.slots * self.capacity
        return [fixed * (memory * t + slots * k) // whole for t, k in zip(tokens, iterations)]

def serving_work(inst, proof, metric):
    """6.2: work of one machine."""
    costs, ones = Costs(inst, inst.unshared(True)), [1] * len(inst.ids)
    share = number(proof["memory_share"], "work.memory_share", 0, SHARE)
    arrival, mixed, fixed = costs.arrival, inst.mixed, costs.base + costs.p0
    begun = costs.charged(share, costs.prefilled, ones, fixed)
    rest = costs.charged(share, costs.volume, costs.decodes, costs.base + costs.b0)
    whole, residence = list(map(sum, zip(costs.own, rest, begun))), costs.residence
    def jobs(sizes):
        return sorted((a, r // TICK, size // (TICK * inst.replicas))
                      for a, r, size in zip(arrival, residence, sizes))
    def ends(sizes):
        return shortest_first([(a, size) for a, _, size in jobs(sizes)])
    if metric == "makespan_ms":
        ahead = accumulate(size for _, _, size in reversed(jobs(whole)))
        busy = max(a + work for (a, _, _), work in zip(reversed(jobs(whole)), ahead))
        return Fraction(max(busy, *(a + r for a, r, _ in jobs(whole))), TICKS)
    sizes = whole
    if metric == "total_ttft_ms":
        first = [0 if mixed else costs.b1 + costs.b2 * (s + 1) for s in costs.prompt]
        begun = costs.charged(share, costs.prefilled, ones, fixed + costs.b0 * (not mixed))
        residence = [p + f + costs.b0 * (not mixed) for p, f in zip(costs.alone, first)]
        sizes = list(map(sum, zip(costs.reading, first, begun)))
        holds = numbers(proof["holding"], "work.holding", 0, 2**62) if inst.pause != "swapped" else ()
        parts = [share * costs.slots * (s + 1) + (SHARE - share) * costs.capacity for s in costs.prompt]
        done, all_of_it = [0] * len(parts), SHARE * costs.slots * costs.capacity
        for g in (0, *holds):
            some = [min(w, size + g * TICK * part // all_of_it)
                    for w, size, part in zip(whole, sizes, parts)]
            done = [max(before, end - g) for before, end in zip(done, ends(some))]
    else:
        done = ends(whole)
    alone = sorted(a + r for a, r, _ in jobs(sizes))
    best = max(sum(alone), sum(map(max, done, alone))) - sum(arrival)
    if metric == "total_ttft_ms":
        best = max(best, sum(done) - sum(arrival))
    if proof.get("cell") is not None:
        best = max(best, in_cells(jobs(sizes), number(proof["cell"], "work.cell", 1, 2**62)))
    best = Fraction(best, TICKS)
    if proof.get("rounds") is not None and metric == "total_latency_ms":
        require(len(set(arrival)) == 1, "work.rounds", "count where all requests arrive together")
        begun = costs.charged(share, costs.prefilled, ones, costs.p0)
        work = sorted(map(sum, zip(costs.own, begun)), reverse=True)
        work = sum(size * (1 + k // inst.replicas) for k, size in enumerate(work))
        rows = [(0, s + mixed, k) for s, k in zip(costs.prompt, costs.decodes) if k]
        memory = inst.capacity and inst.capacity * inst.replicas
        rounds = priced(rows, memory, inst.pause, proof["rounds"], "work.rounds") if rows else 0
        best = max(best, ((costs.base + costs.b0) * rounds + work) / COSTS)
    return best + costs.early

def in_cells(jobs, cell):
    """Time of requests in whole cells: those that must be there, or one machine cannot have done."""
    since, until, present, known = [], -1, 0, 0  # since: the first job since that machine was idle
    for i, (a, _, w) in enumerate(jobs):
        since.append(i if a >= until else since[-1])
        until = max(a, until) + w
    longest = max(r for _, r, _ in jobs)
    latest = jobs[-1][0] + sum(w for _, _, w in jobs) + longest
    limit((latest - jobs[0][0]) // cell * len(jobs), "work.cell")
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
    costs, n = Costs(inst, inst.unshared(False)), len(inst.ids)
    shares = numbers(proof["delay_shares"], "interference.delay_shares", 0, SHARE, n)
    charges = numbers(proof["prefills"], "interference.prefills", 0, 2**62, n)
    changes, owing, total = {}, [], sum(SHARE - share for share in shares) * (costs.p0 // -TICK)
    ends = [a + r // TICK for a, r in zip(costs.arrival, costs.residence)]
    for a, b, share in zip(costs.arrival, ends, shares):
        changes[a], changes[b] = changes.get(a, 0) + SHARE - share, changes.get(b, 0) - SHARE + share
    times = sorted(changes)
    present, order = list(accumulate(changes[t] for t in times)), sorted(zip(costs.arrival, count()))
    for t, others in zip(times, present):
        new = bisect_right(order, (t, inf))
        owing, order = owing + [i for _, i in order[:new]], order[new:]
        rests = {i: SHARE * charges[i] - shares[i] * (t - costs.arrival[i]) for i in owing}
        owing, p0 = [i for i in owing if rests[i] > 0], costs.p0 // TICK
        fair = all(rests[i] <= (SHARE - shares[i]) * p0 for i in owing)
        fair = fair or sum(rests[i] for i in owing) <= p0 * others
        require(fair, "interference.prefills", f"charge too much at {t / TICKS} ms")
    for i, (a, b, share) in enumerate(zip(costs.arrival, ends, shares)):
        own, prefill, decode = (c[i] // TICK for c in (costs.reading, costs.prefill, costs.decoding))
        fixed, behind = costs.base + costs.b0, prefill + decode
        first, last = (costs.b1 + costs.b2 * (costs.prompt[i] + j)
                       for j in (1 + inst.mixed, inst.output[i]))
        dense, cap = (COSTS * first // (fixed + first), min(SHARE * n, share * (fixed + last) // last)
                      ) if costs.decodes[i] and first else (0, 0)
        best, reach = SHARE * charges[i] if share == 0 else inf, 2 * behind + 1
        while share * (reach - behind) < best and share:  # starts up to where delay alone is more
            reach *= 2
            some = slice(bisect_right(times, a) - 1, bisect_right(times, a + reach))
            knots, here = times[some], [p - (SHARE - share) * (t < b)
                                        for t, p in zip(times[some], present[some])]
            rates = list(accumulate(here, min)), [min(cap, rate) for rate in here]
            spans = [after - t for t, after in pairwise(knots)]
            sums = [[0, *accumulate(map(mul, row, spans))] for row in rates]
            def paid(x, y, row, knots=knots, rates=rates, sums=sums):  # over [x, y]
                p, q = bisect_right(knots, x) - 1, bisect_right(knots, y) - 1
                return (sums[row][q] + rates[row][q] * (y - knots[q])
                        - sums[row][p] - rates[row][p] * (x - knots[p]))
            starts = {t - off for t in knots for off in (0, own, prefill, behind)}
            starts |= {a, a + Fraction(SHARE * charges[i], share)}
            best = min(max(SHARE * charges[i], share * (x - a)) + paid(x, x + own, 0)
                       + dense * paid(x + prefill, x + behind, 1) // COSTS
                       for x in starts if a <= x <= a + reach - behind)
        total += SHARE * behind + floor(best)
    return Fraction(total, SHARE * TICKS) + costs.early

def serving_prices(inst, proof):
    """6.4: prices on time."""
    costs, n, where = Costs(inst, inst.unshared(False)), len(inst.ids), "serving_prices"
    start, length = number(proof["start"], where, 0, 2**62), number(proof["bucket"], where, 1, 2**62)
    unit, buckets = number(proof["denominator"], where, 1, 2**60), len(proof["server"])
    pi, memory, slots, prompt_memory, prompt_slots = (
        numbers(proof[key], f"{where}.{key}", 0, 2**41, buckets)
        for key in ("server", "memory", "slots", "prompt_memory", "prompt_slots"))
    first = numbers(proof["first"], f"{where}.first", 0, 2**62, n)
    rho, prompt_rho = ([dict(zip(count(at), numbers(some, f"{where}.{key}", 0, 2**41)))
                        for at, some in zip(first, proof[key], strict=True)]
                       for key in ("decoding", "prompts"))
    require(start <= min(costs.arrival), f"{where}.start", "lies behind the first arrival")
    both, m, j = costs.base + costs.b0, costs.capacity, costs.slots
    for fixed, rows, *shared in ((both, rho, memory, slots),
                                 (costs.p0, prompt_rho, prompt_memory, prompt_slots)):
        charged = dict(enumerate(map(sum, zip(*shared))))
        for b, price in (pair for some in rows for pair in some.items()):
            charged[b] = charged.get(b, 0) + price
        fits = all(c * COSTS <= fixed * (pi[b] if b < buckets else 0) for b, c in charged.items())
        require(fits, where, "are more than what iterations cost")
    fine, theta = 2**64, Fraction(costs.base, max(1, both))  # rates are rounded down to 2^-64
    total, per_ms = 0, Fraction(fine * TICKS, unit)
    for i, a in enumerate(costs.arrival):
        e, w, r = (c[i] // TICK for c in (costs.decoding, costs.reading, costs.residence))
        f = (costs.prefill[i] - costs.reading[i] * inst.mixed) // TICK
        each, once = Fraction(costs.decodes[i], e or 1) * (e > 0), per_ms / f if f else 0
        half, held = costs.prompt[i] + inst.mixed + Fraction(1, 2), costs.prefilled[i]
        low, rates, sums = (a - start) // length, [], [[0] * 6]
        a, last, own, own_prompt = a - start - low * length, max(0, buckets - low), rho[i], prompt_rho[i]
        def charges(b):  # of an iteration, of tokens in it, of a token more, of reading, of the rest
            if b >= buckets:
                return [0] * 5
            of_token = per_ms * each * (Fraction(costs.b2 * pi[b], COSTS) + Fraction(memory[b], m))
            of_one = Fraction(costs.b1 * pi[b], COSTS) + Fraction(slots[b], j) + own.get(b, 0)
            rest = Fraction(held, m) * (prompt_memory[b] + theta * memory[b])
            rest += (prompt_slots[b] + theta * slots[b]) / j + own_prompt.get(b, 0) + theta * own.get(b, 0)
            return [floor(c) for c in (per_ms * each * of_one, half * of_token, each * of_token,
                                       Fraction(fine * pi[b], unit), once * rest)]
        def upto(y):  # the integrals of these, each the least since the arrival; twice that of t times
            k = min(y // length, last)
            while len(rates) <= k:
                new, at = charges(low + len(rates)), len(rates) * length
                rates.append([min(pair) for pair in zip(rates[-1], new)] if rates else new)
                sums.append(whole(len(rates) - 1, at + length))
            return whole(k, y)
        def whole(k, y):
            at = k * length
            more = [rate * (y - at) for rate in rates[k]] + [rates[k][2] * (y * y - at * at)]
            return list(map(sum, zip(sums[k], more)))
        def cost(x):  # twice that of completing at x, above the arrival
            c, s, w_, f_ = upto(x), upto(x - e), upto(x - e - w), upto(x - e - f)
            return (2 * (fine * (x - a) + c[0] - s[0] + c[1] - s[1] - (x - e) * (c[2] - s[2])
                         + s[3] - w_[3] + s[4] - f_[4]) + c[5] - s[5])
        x = a + r
        here = best = cost(x)
        while 2 * fine * (x - a) < best:
            ahead = min((length - y % length for y in (x, x - e, x - e - w, x - e - f)
                         if y < last * length), default=0)
            if not ahead:
                break
            after = cost(x + ahead)
            curve = 2 * (rates[min((x - e) // length, last)][2] - rates[min(x // length, last)][2])
            fall = curve * ahead**2 - 2 * (after - here)
            best = min(best, after)
            if 0 < fall < 2 * curve * ahead**2:
                best = min(best, here - -(-(fall**2) // (8 * curve * ahead**2)))
            x, here = x + ahead, after
        total += best
    paid = Fraction(inst.replicas * length * sum(pi), unit)
    return (Fraction(total, 2 * fine) - paid) / TICKS + costs.early

def goodput(inst, proof):
    """6.5: requests within their service levels, at most."""
    costs, total = Costs(inst, inst.unshared(False)), 0
    slo, d = service_levels(proof.get("slo")) or inst.slo, number(proof["denominator"], "d", 1, 2**80)
    require(slo, "goodput.slo", "there are no service levels")
    begins, ends, prices = (numbers(proof[key], f"goodput.{key}", 0, 2**80, len(proof["charge"]))
                            for key in ("begin", "end", "prices"))
    limit(len(prices) * len(inst.ids), "goodput")
    kinds = [("memory", "slots", "pace-memory", "pace-slots").index(c) for c in proof["charge"]]
    for begin, end, price in zip(begins, ends, prices):
        require(begin <= end, "goodput.end", f"{end} is before its begin, {begin}")
        total += price * inst.replicas * (end - begin)
    base, fixed, late = costs.base + costs.b0, costs.base + costs.p0, ceil(EARLY * COSTS) + TICK
    for i, (s, o, a) in enumerate(zip(costs.prompt, inst.output, costs.arrival)):
        limits = slo.get("class", {}).get(inst.classes[i], slo)
        ttft, tpot, latency = (exact(limits[key]) if key in limits else inf for key in LIMITS)
        def lasting(k, made, s=s):  # k tokens after so many
            return k * (base + costs.b1) + costs.b2 * (k * (s + made) + k * (k + 1) // 2)
        to_first = costs.alone[i] + (0 if inst.mixed else lasting(1, 0))
        to_last, known = lasting(o - 1, 1), ceil(inst.arrival[i] * TICKS)
        def ticks(ms):
            return known + ceil((ms + EARLY) * TICKS) + 1 if ms < inf else inf
        between = min(ceil(tpot * COSTS) * (o - 1) + late if tpot < inf else inf,
                      ceil((latency + EARLY) * COSTS + COSTS * EARLY) + TICK - to_first
                      if latency < inf else inf)
        read = ticks(ttft)
        due = min(ticks(latency), read + between // TICK + 1 if between < inf else inf)
        read = min(read, due - to_last // TICK)
        if a + to_first // TICK > read or to_last > between:
            continue
        pace, q, step = 0, costs.b1 + costs.b2 * (s + 2), costs.b2
        if between < inf and o > 1:
            cuts = [(o - 1) * part // min(16, o - 1) for part in range(min(16, o - 1) + 1)]
            root = {k: isqrt((q + step * k) << 40) for k in {*cuts, *(c - 1 for c in cuts), 0} if k >= 0}
            roots = sum((y - x) * (root[x] + root[y - 1]) // 2 for x, y in pairwise(cuts))
            roots = roots if step else (o - 1) * root[0]
            pace = (base * roots**2 >> 40) // (between - (o - 1) * base) if roots else 0
        held, m, j = costs.prefilled[i], costs.capacity, costs.slots
        prompt = [fixed * held // m, fixed // j, costs.p0 * held // m, costs.p0 // j]
        rests = [base * costs.volume[i] // m, base * costs.decodes[i] // j, pace, pace]
        left = d
        for begin, end, price, k in zip(begins, ends, prices, kinds):
            if a >= begin and due <= end:
                left -= price * ((costs.own[i] + prompt[k] + rests[k]) // TICK)
            elif a >= begin and read <= end:
                left -= price * ((costs.reading[i] + prompt[k]) // TICK)
        total += max(0, left)
    return Fraction(total, d)

# --- claims (sections 7 and 8) ------------------------------------------------------------------

#: Of each kind: what recomputes it, its field, what it bounds, whether it may claim less.
KINDS = {"kv-prices": (kv_prices, "prices", "total_latency_rounds", False),
         "kv-partitions": (kv_partitions, "partitions", "total_latency_rounds", False),
         "kv-volume": (kv_volume, "", "total_latency_rounds", False),
         "slot-rounds": (slot_rounds, "", "total_latency_rounds", False),
         "slot-closed-form": (stages, "", "makespan_ms", False),
         "packing": (stages, "weights", "makespan_ms", False),
         "serving-work": (serving_work, "work", "total_latency_ms makespan_ms total_ttft_ms", True),
         "serving-interference": (serving_interference, "interference", "total_latency_ms", True),
         "serving-prices": (serving_prices, "serving_prices", "total_latency_ms", True),
         "goodput": (goodput, "goodput", "requests_within_slo", False)}

MEASURED = ("_ms", "_second", "_round", "utilisation", "share", "slo", "]")

def stamp(inst, given, where):
    """Whether a file is about this instance."""
    require(given["sha256"] == inst.sha256, where, "is about another instance")
    same = (given["name"], given["requests"], given.get("family"))
    require(same == (inst.name, len(inst.ids), inst.family), where, "says what it is not")

def certificate(inst, given, where):
    """What a certificate proves: the metric, and its least value."""
    proofs = " ".join(field for _, field, _, _ in KINDS.values())
    keys(given, where, f"schema instance kind objective bound seconds {proofs}")
    stamp(inst, given["instance"], f"{where}.instance")
    kind = given.get("kind", "kv-prices")
    if kind not in KINDS:
        raise CannotCheck(f"{where}.kind: {kind!r} is not known here")
    function, field, metrics, less = KINDS[kind]
    metric = given.get("objective") or metrics.split()[0]
    require(metric in metrics.split(), f"{where}.objective", f"{kind} does not bound {metric}")
    for other in proofs.split():
        there = given.get(other) is not None
        require(there == (other == field), f"{where}.{other}", f"is {'' if there else 'not '}there")
    more = [metric] if kind == "serving-work" else []
    bound = function(inst, given[field] if field else None, *more)
    low = number(given["bound"]["denominator"], f"{where}.bound", 1, inf)
    said = Fraction(number(given["bound"]["numerator"], f"{where}.bound", -inf, inf), low)
    holds = said <= bound if less else said == bound
    require(holds, f"{where}.bound", f"says {float(said)}; the proof gives {float(bound)}")
    if kind == "goodput":
        return "requests_outside_slo", max(0, len(inst.ids) - floor(said))
    return metric, said if metric.endswith("ms") else Fraction(ceil(said))

def same(said, known, measure, doubt=0):
    """Whether a file states what is known: exactly what is counted, to 1e-9 what is measured."""
    counted = not measure.endswith(MEASURED) and not measure.startswith("mean")
    if said is None or known is None or counted:
        return said == known
    return abs(Fraction(said) - known) <= Fraction(1, 10**9) * max(1, abs(known)) + doubt

def result(inst, given):
    """What holds of a result, in words."""
    stamp(inst, given["instance"], "instance")
    objective, status, said = given.get("objective") or {}, given["status"], []
    name, value, bound = (objective.get(key) for key in ("name", "value", "bound"))
    name = name or ""
    own = given["producer"]["kind"] == "formulation"
    if given.get("schedule") is None:
        stated = value is not None or given.get("metrics") or given.get("violations")
        require(not stated and status not in ("optimal", "feasible"), "schedule", "is missing")
        if status == "infeasible":
            return infeasible(inst)
    else:
        require(not given.get("violations"), "violations", "are listed, and the schedule has none")
        slo = service_levels(given.get("slo")) or inst.slo
        servers, times = replay(inst, given["schedule"])
        every, doubt = metrics(inst, servers, times, slo), max(server.doubt for server in servers)
        for key, stated in (given.get("metrics") or {}).items():
            known = key in every and same(stated, every[key], key, doubt)
            require(known, f"metrics.{key}", f"is {stated}, the schedule gives {every.get(key)}")
        require(own or name in every, "objective.name", f"{name!r} is no metric")
        require(own or status in ("optimal", "feasible"), "status", f"{status}, of a valid schedule")
        said += [f"schedule of {len(inst.ids)} requests"]
        if name in every:
            fits = same(value, every[name], name, doubt)
            require(fits, "objective.value", f"is {value}, the schedule gives {every[name]}")
            said += [f"{name} = {float(every[name]):.15g}"]
    near = value is not None and bound is not None and same(value, Fraction(bound), name)
    if status in ("optimal", "feasible"):
        require(near == (status == "optimal"), "status", f"{status}, at {value} and bound {bound}")
        require(bound is None or near or bound < value, "objective.bound", "is above the value")
    gap = objective.get("gap")
    if gap is not None and value:
        true = (Fraction(value) - Fraction(bound)) / Fraction(value)
        require(abs(true - Fraction(gap)) <= Fraction(1, 10**9), "objective.gap", f"is {gap}")
    if (proof := given.get("certificate")) is not None:
        metric, least = certificate(inst, proof, "certificate")
        require(metric == name, "certificate.objective", f"{metric}, of the result {name}")
        require(same(bound, least, name), "objective.bound", f"{bound}, the certificate says {least}")
        said += [f"bound {float(least):.15g} proven by {proof['kind']}"]
    elif bound is not None:
        said += [f"bound {bound} not proven here"]
    if not said:
        raise CannotCheck("the result has neither a schedule nor a certificate")
    return "; ".join([*said, *(["rules of its formulation not checked"] if own else [])])

def infeasible(inst):
    """Why there is no schedule."""
    largest = max((most for most, _ in inst.levels), default=inf) if inst.exclusive else inf
    for key, s, o in zip(inst.ids, inst.prompt, inst.output):
        if s + o > (inst.capacity or inf) or s > largest:
            return f"no schedule exists: request {key!r} does not fit the server"
    raise CannotCheck("status: infeasible, though every request fits the server alone")

def main(paths):
    """Check a file; the line to print, and the exit code."""
    try:
        if len(paths) != 2:
            raise CannotCheck("usage: check.py INSTANCE RESULT|CERTIFICATE")
        inst, given = Instance(read(paths[0])), read(paths[1])
        if given["schema"] == "modelkit/result/1":
            return f"valid: {result(inst, given)}", 0
        if given["schema"] == "modelkit/certificate/1":
            metric, least = certificate(inst, given, "certificate")
            return f"valid: no schedule has {metric} below {float(least):.15g}", 0
        raise CannotCheck(f"{paths[1]}: schema {given['schema']!r} is not known here")
    except Invalid as error:
        return f"invalid: {error}", 5
    except CannotCheck as error:
        return f"cannot check: {error}", 2
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        return f"cannot check: malformed: {type(error).__name__}: {error}", 2

if __name__ == "__main__":
    line, code = main(sys.argv[1:])
    print(line)
    sys.exit(code)
