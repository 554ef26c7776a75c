"""Random histories of the Python interface: whatever happened before in a process, answers are those of a fresh one.

A history is a process that solves, fails, raises in callbacks, is interrupted, loses its solver, solves in threads and
in forks, with HiGHS and SCIP in turn. Run with the number of a question, this file is a fresh process that answers it.
"""

from __future__ import annotations

import collections
import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import modelkit as mk
from modelkit.backends import backend
from modelkit.errors import ModelkitError

SOLVERS = ("highs", "scip")
INSTANCES, STEPS = 6, 5
#: Seconds after which a history is given up as hung.
TIMEOUT = 120.0
#: Status, stop, value, bound, message.
Answer = tuple[Any, ...]
Question = tuple[int, str]

QUESTIONS: list[Question] = [(k, solver) for k in range(INSTANCES) for solver in SOLVERS]


class OwnError(Exception):
    """What a caller's callback raises."""


def instance(number: int) -> mk.Instance:
    """A small instance with weights, by number; different ones have different optima."""
    rng = random.Random(number)
    requests = tuple(
        mk.Request(id=f"r{i}", prompt_tokens=rng.randint(1, 3), output_tokens=rng.randint(1, 4)) for i in range(4)
    )
    weights = {request.id: rng.randint(1, 5) for request in requests}
    server = mk.Server(kv_capacity_tokens=8)
    return mk.Instance(name=f"h{number}", server=server, requests=requests, extra={"weight": weights})


def solved(question: Question, **arguments: Any) -> Answer:
    """The answer to a question; the solver has no start to lean on."""
    number, solver = question
    settings = {"formulation": "kv-weighted-latency", "solver": solver, "warm_start": "none", "threads": 1}
    result = mk.solve(instance(number), **settings, **arguments)
    return result.status, result.stop, result.objective.value, result.objective.bound, result.message


def fresh_answers() -> dict[Question, Answer]:
    """The answer of a process of its own to each question."""
    answers = {}
    for index, question in enumerate(QUESTIONS):
        command = [sys.executable, __file__, str(index)]
        answers[question] = tuple(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    return answers


class History:
    """One history; ``faults`` says where it went wrong."""

    def __init__(self, seed: int, fresh: dict[Question, Answer]) -> None:
        self.rng = random.Random(seed)
        self.fresh = fresh
        self.faults: list[str] = []
        self.done: collections.Counter[str] = collections.Counter()

    def run(self) -> None:
        """Random steps, STEPS of them, then every solver once more."""
        kinds = [self.solve, self.mistake, self.refusal, self.callback, self.interrupt, self.death, self.threads,
                 self.fork]  # fmt: skip
        for _ in range(STEPS):
            kind = self.rng.choice(kinds)
            self.done[kind.__name__] += 1
            kind()
        for solver in SOLVERS:
            self.ask((self.rng.randrange(INSTANCES), solver), "at the end")

    def question(self) -> Question:
        return self.rng.choice(QUESTIONS)

    def ask(self, question: Question, where: str, answer: Answer | None = None) -> None:
        """Solve, unless the answer is there, and compare with a fresh process."""
        found = answer if answer is not None else solved(question)
        if found != self.fresh[question]:
            self.faults.append(f"{where}: {question} gave {found}, a fresh process {self.fresh[question]}")

    def solve(self) -> None:
        self.ask(self.question(), "plain")

    def mistake(self) -> None:
        """An argument of a wrong kind."""
        wrong = self.rng.choice([{"time_limit": "5"}, {"gap": float("nan")}, {"seed": -1}, {"listen": 3}])
        self.expect(lambda: solved(self.question(), **wrong), ModelkitError)

    def refusal(self) -> None:
        """An option that the solver process refuses."""
        self.expect(lambda: solved(self.question(), options={"no_such_option": 1}), ModelkitError)

    def callback(self) -> None:
        """A callback that raises at some news."""
        left = self.rng.randrange(1, 8)

        def listen(news: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise OwnError

        question = self.question()
        try:
            self.ask(question, "callback that did not raise", solved(question, listen=listen))
        except OwnError:
            return

    def interrupt(self) -> None:
        """Ctrl-C at some news, once or twice."""
        left, times = self.rng.randrange(1, 8), self.rng.choice((1, 1, 2))

        def listen(news: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)

        question = self.question()
        try:
            found = solved(question, listen=listen)
        except KeyboardInterrupt:
            return
        self.sane(question, found)

    def death(self) -> None:
        """The solver process dies at some news."""
        question = self.question()

        def listen(news: Any) -> None:
            if news.bound is not None:
                for process in list(backend(question[1]).crew.all):  # type: ignore[attr-defined]
                    if not process.free:
                        process.process.kill()

        self.sane(question, solved(question, listen=listen))

    def threads(self) -> None:
        """Several questions at once."""
        questions = [self.question() for _ in range(3)]
        found: dict[int, Any] = {}

        def work(index: int) -> None:
            try:
                found[index] = solved(questions[index])
            except BaseException as error:
                found[index] = (repr(error),)

        workers = [threading.Thread(target=work, args=(index,)) for index in range(len(questions))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        for index, question in enumerate(questions):
            self.ask(question, "thread", found[index])

    def fork(self) -> None:
        """A question in a forked process, and one here meanwhile."""
        theirs, ours = self.question(), self.question()
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        child = context.Process(target=lambda: answers.put(solved(theirs)), daemon=True)
        child.start()
        self.ask(ours, "beside a fork")
        self.ask(theirs, "fork", answers.get())
        child.join()

    def expect(self, call: Callable[[], Any], kind: type[Exception]) -> None:
        try:
            self.faults.append(f"no error, but {call()}")
        except kind:
            return

    def sane(self, question: Question, found: Answer) -> None:
        """Whether an answer cut short holds: the optimum lies between bound and value."""
        optimum = self.fresh[question][2]
        _, _, value, bound, _ = found
        if (bound is not None and bound > optimum) or (value is not None and value < optimum):
            self.faults.append(f"{question} cut short gave {found}, the optimum is {optimum}")


def performed(seed: int, fresh: dict[Question, Answer]) -> tuple[list[str], collections.Counter[str]]:
    """Faults and kinds of steps of one history, in a process of its own that has not solved anything."""
    context = multiprocessing.get_context("fork")
    reading, writing = context.Pipe(duplex=False)

    def live() -> None:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        history = History(seed, fresh)
        try:
            history.run()
        except BaseException as error:
            history.faults.append(repr(error))
        writing.send((history.faults, history.done))

    child = context.Process(target=live)
    child.start()
    writing.close()
    try:
        if not reading.poll(TIMEOUT):
            os.killpg(child.pid or 0, signal.SIGKILL)
            return [f"hung: nothing after {TIMEOUT:g} s"], collections.Counter()
        faults, done = reading.recv()
        return faults, done
    except EOFError:
        return ["the process died"], collections.Counter()
    finally:
        child.join()


def load_all() -> None:
    """Load what a solve needs, once for all histories, and begin no solver."""

    def listen(news: Any) -> None:
        if news.phase.startswith("solving"):
            raise OwnError

    with contextlib.suppress(OwnError):
        solved(QUESTIONS[0], listen=listen)


if __name__ == "__main__":
    print(json.dumps(solved(QUESTIONS[int(sys.argv[1])])))
