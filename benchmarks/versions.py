"""The tests on the oldest and the newest versions that ``pyproject.toml`` allows, and without each optional solver.

    python benchmarks/versions.py [--python PATH ...] [--resolution oldest newest] [--without pyscipopt]
                                  [--output benchmarks/results/versions.json] [-- PYTEST ARGUMENTS]

For each interpreter and resolution: a fresh environment, filled by ``uv`` (``pip install uv``) from wheels only, then
pytest on this checkout. ``oldest`` takes the lowest version of each direct dependency that is allowed and has a wheel
for the interpreter.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOLD = ("click", "highspy", "jinja2", "networkx", "numba", "numpy", "pydantic", "pyomo", "pyscipopt", "rich", "scipy")


def tested(python: str, resolution: str, without: list[str], arguments: list[str]) -> dict[str, Any]:
    """Versions installed and what pytest says."""
    began = time.perf_counter()
    strategy = {"oldest": "lowest-direct", "newest": "highest"}[resolution]
    with tempfile.TemporaryDirectory(prefix="modelkit-versions-") as folder:
        interpreter = os.path.join(folder, "venv", "bin", "python")
        wanted = Path(folder) / "requirements.txt"
        install = [
            "uv",
            "pip",
            "install",
            "-q",
            "--compile-bytecode",
            "--python",
            interpreter,
            "--only-binary",
            ":all:",
        ]
        for command in (
            ["uv", "venv", "-q", "--no-python-downloads", "--python", python, os.path.join(folder, "venv")],
            ["uv", "pip", "compile", "-q", "--python", interpreter, "--only-binary", ":all:", "--extra", "test",
             "--resolution", strategy, "-o", str(wanted), str(ROOT / "pyproject.toml")],
            [*install, "-r", str(wanted)],
            *(["uv", "pip", "uninstall", "-q", "--python", interpreter, package] for package in without),
        ):  # fmt: skip
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode:
                return {"python": python, "resolution": resolution, "failed": made.stderr.strip().splitlines()[-5:]}
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        environment["PYTHONPATH"] = str(ROOT)
        told = subprocess.run(
            [interpreter, "-c", f"import json, platform, importlib.metadata as m; print(json.dumps({{'python':"
             f" platform.python_version(), **{{d.metadata['name'].lower(): d.version for d in m.distributions()"
             f" if d.metadata['name'].lower() in {TOLD!r}}}}}))"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        made = subprocess.run(
            [interpreter, "-m", "pytest", "-q", "-n", "1", "-p", "no:cacheprovider", *arguments],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    lines = made.stdout.strip().splitlines() or made.stderr.strip().splitlines()
    return {
        "resolution": resolution,
        "without": without,
        "versions": dict(sorted(json.loads(told.stdout).items())),
        "passed": made.returncode == 0,
        "summary": lines[-1] if lines else "",
        "failures": [line for line in lines if line.startswith(("FAILED", "ERROR"))][:40],
        "seconds": round(time.perf_counter() - began),
    }


def main() -> None:
    """Test and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", metavar="PATH")
    parser.add_argument("--resolution", nargs="+", choices=["oldest", "newest"], default=["oldest", "newest"])
    parser.add_argument("--without", action="append", default=[], metavar="PACKAGE")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "versions.json")
    parser.add_argument("arguments", nargs="*", metavar="PYTEST ARGUMENT")
    options = parser.parse_args()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # in the background of a shell it is ignored, for tests too
    found = json.loads(options.output.read_text())["environments"] if options.output.exists() else []

    def key(row: dict[str, Any]) -> tuple[str, ...]:
        return (row["versions"]["python"], row["resolution"], *row["without"])

    for python in options.python or [sys.executable]:
        for resolution in options.resolution:
            row = tested(python, resolution, options.without, options.arguments)
            print(json.dumps(row, indent=2), flush=True)
            if "versions" not in row:
                continue
            row["arguments"] = options.arguments
            row["date"] = datetime.date.today().isoformat()
            found = sorted([other for other in found if key(other) != key(row)] + [row], key=key)
            report = {"machine": f"{platform.system()} {platform.machine()}", "environments": found}
            options.output.write_text(json.dumps(report, indent=1) + "\n")
            subprocess.run([sys.executable, str(ROOT / "benchmarks" / "table.py")], check=True)  # a test compares them


if __name__ == "__main__":
    main()
