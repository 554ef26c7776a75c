"""The tests on the oldest, the constrained and the newest versions of every dependency, and on each Python.

    python benchmarks/versions.py [--python PATH ...] [--resolution oldest constrained newest] [--without pyscipopt]
                                  [--output benchmarks/results/versions.json] [-- PYTEST ARGUMENTS]

For each interpreter and resolution: a fresh environment, filled by ``uv`` (``pip install uv``) from wheels only, then
pytest on this checkout.

``oldest`` takes the lowest version of each direct dependency that is allowed and has a wheel for the interpreter,
``constrained`` those of ``constraints.txt``, ``newest`` the newest of the index, whatever upper limit
``pyproject.toml`` has. A row that was measured on the same sources is not measured again, so an interrupted run can be
resumed.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "versions.json"
RESOLUTIONS = ("oldest", "constrained", "newest")
TOLD = ("click", "highspy", "jinja2", "networkx", "numba", "numpy", "pydantic", "pyomo", "pyscipopt", "rich", "scipy")
#: A test of what this run itself changes: the results, of which `table.py` has not made the page yet.
TABLE = "tests/test_house.py::test_the_table_of_benchmarks_says_what_was_measured"
#: What the tests depend on; a row holds for one state of it.
SOURCES = ("constraints.txt", "formulations", "instances", "modelkit", "pyproject.toml", "reports", "tests")


class InstallError(Exception):
    """The environment cannot be made; the message is the end of what uv said."""


def requirements(resolution: str) -> str:
    """The direct dependencies, a line each; for ``newest`` without their upper limits."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    if resolution == "newest":
        wanted = [re.sub(r",\s*<[^,]*|<[^,]*,?", "", line) for line in wanted]
    return "\n".join(wanted) + "\n"


def install(python: str, resolution: str, without: list[str], folder: Path) -> str:
    """Make an environment in the folder; returns its interpreter."""
    interpreter = str(folder / "venv" / "bin" / "python")
    direct, pinned = folder / "direct.txt", folder / "pinned.txt"
    direct.write_text(requirements(resolution))
    how = {
        "oldest": ["--resolution", "lowest-direct"],
        "constrained": ["-c", str(ROOT / "constraints.txt")],
        "newest": ["--resolution", "highest"],
    }[resolution]
    wheels = ["--only-binary", ":all:"]
    for command in (
        ["venv", "-q", "--no-python-downloads", "--python", python, str(folder / "venv")],
        ["pip", "compile", "-q", "--python", interpreter, *wheels, *how, "-o", str(pinned), str(direct)],
        ["pip", "install", "-q", "--compile-bytecode", "--python", interpreter, *wheels, "-r", str(pinned)],
        *(["pip", "uninstall", "-q", "--python", interpreter, package] for package in without),
    ):
        made = subprocess.run(["uv", *command], capture_output=True, text=True, check=False)
        if made.returncode:
            raise InstallError("\n".join(made.stderr.strip().splitlines()[-8:]))
    return interpreter


def installed(interpreter: str) -> dict[str, str]:
    """Version of every distribution by name, and of ``python``."""
    code = (
        "import json, platform, importlib.metadata as m;"
        "print(json.dumps({'python': platform.python_version(),"
        " **{d.metadata['name'].lower().replace('_', '-'): d.version for d in m.distributions()}}))"
    )
    told = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(told.stdout)
    return versions


def constrained_versions() -> dict[str, set[str]]:
    """The versions in ``constraints.txt`` by name."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if match := re.match(r"([\w.-]+)==([^\s;]+)", line):
            found.setdefault(match[1].lower(), set()).add(match[2])
    return found


def tested(python: str, resolution: str, without: list[str], arguments: list[str]) -> dict[str, Any]:
    """One row: versions installed, those that differ from the constrained ones, and what pytest says."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="versions-") as folder:
        interpreter = install(python, resolution, without, Path(folder))
        versions = installed(interpreter)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        environment["PYTHONPATH"] = str(ROOT)
        made = subprocess.run(
            [interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--deselect", TABLE, *arguments],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    lines = made.stdout.strip().splitlines() or made.stderr.strip().splitlines()
    pins = constrained_versions()
    return {
        "resolution": resolution,
        "without": without,
        "versions": {name: version for name, version in sorted(versions.items()) if name in {"python", *TOLD}},
        "differs": {
            name: [" or ".join(sorted(pins[name])), version]
            for name, version in sorted(versions.items())
            if name in pins and version not in pins[name]
        },
        "passed": made.returncode == 0,
        "summary": lines[-1] if lines else "",
        "failures": [line for line in lines if line.startswith(("FAILED", "ERROR"))][:40],
        "seconds": round(time.perf_counter() - began),
    }


def fingerprint() -> str:
    """Of the sources that the tests depend on."""
    digest = hashlib.sha256()
    names = subprocess.run(["git", "ls-files", *SOURCES], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in sorted(names.splitlines()):
        path = ROOT / name
        digest.update(name.encode() + b"\0" + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()[:16]


def main() -> None:
    """Test and write what was found; exits with 1 when an environment fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=[sys.executable], metavar="PATH")
    parser.add_argument("--resolution", nargs="+", choices=RESOLUTIONS, default=list(RESOLUTIONS))
    parser.add_argument("--without", action="append", default=[], metavar="PACKAGE")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("arguments", nargs="*", metavar="PYTEST ARGUMENT")
    options = parser.parse_args()
    # in the background of a shell it is ignored, for tests too
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sources = fingerprint()
    found = json.loads(options.output.read_text())["environments"] if options.output.exists() else []

    def same(row: dict[str, Any], python: str, resolution: str) -> bool:
        return (row["interpreter"], row["resolution"], row["without"]) == (python, resolution, options.without)

    failed = False
    for path in options.python:
        python = subprocess.run([path, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
        for resolution in options.resolution:
            before = [row for row in found if same(row, python, resolution)]
            if before and (before[0]["sources"], before[0]["arguments"]) == (sources, options.arguments):
                row = before[0]
            else:
                try:
                    row = tested(path, resolution, options.without, options.arguments)
                except InstallError as error:
                    failed = True
                    print(f"Python {python}, {resolution}: cannot be installed\n{error}", flush=True)
                    continue
                date = datetime.date.today().isoformat()
                row |= {"interpreter": python, "sources": sources, "arguments": options.arguments, "date": date}
                found = [other for other in found if not same(other, python, resolution)] + [row]
                found.sort(key=lambda r: ([int(n) for n in r["interpreter"].split(".")],
                                          RESOLUTIONS.index(r["resolution"]), r["without"]))  # fmt: skip
                machine = f"{platform.system()} {platform.machine()}"
                report = {"date": date, "machine": machine, "environments": found}
                options.output.parent.mkdir(parents=True, exist_ok=True)
                options.output.write_text(json.dumps(report, indent=1) + "\n")
            failed |= not row["passed"]
            print(f"Python {python}, {resolution}: {row['summary'].strip('= ')}", flush=True)
            for name, (pinned, version) in row["differs"].items():
                print(f"  {name} {version} instead of {pinned}")
            for line in row["failures"]:
                print(f"  {line}")
    if options.output == RESULTS:
        subprocess.run([sys.executable, str(ROOT / "benchmarks" / "table.py")], check=True)  # a test compares them
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
