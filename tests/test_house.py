"""The house itself: walls between rooms, light imports, the README's commands, the wheel."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import grimp
import networkx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import modelkit as mk
from modelkit.runtime.resources import bundled

OPTIMA = json.loads((bundled("instances") / "optima.json").read_text())
ROOT = Path(__file__).resolve().parents[1]


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return made.stdout.strip()


def test_walls() -> None:
    """Tests that every import follows the contracts of pyproject.toml."""
    made = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout


def test_no_circles() -> None:
    """Tests that no modules import each other in a circle, not even within functions."""
    graph = networkx.DiGraph()
    found = grimp.build_graph("modelkit", cache_dir=None, exclude_type_checking_imports=True)
    for module in found.modules - {"modelkit"}:
        graph.add_edges_from((module, other) for other in found.find_modules_directly_imported_by(module))
    graph.remove_nodes_from([node for node in graph if node in {"modelkit", "modelkit.__main__"}])
    assert [sorted(group) for group in networkx.strongly_connected_components(graph) if len(group) > 1] == []


def test_import_is_light() -> None:
    """Tests that importing modelkit or its command line loads no solver, no Pyomo and nothing heavy."""
    heavy = {"pyomo", "highspy", "pyscipopt", "numba", "numpy", "pydantic", "rich", "networkx", "jinja2"}
    code = "import sys, modelkit, modelkit.cli; print(*{m.partition('.')[0] for m in sys.modules})"
    assert not heavy & set(python(code).split())


def test_pyomo_is_imported_without_statistics() -> None:
    """Tests that a formulation is loaded without ``scipy.stats``, which Pyomo takes with it where Numba came first."""
    code = (
        "import sys, modelkit.solving; from modelkit.formulation.loading import load_formulation;"
        "load_formulation('kv-hindsight'); print('scipy' in sys.modules, 'scipy.stats' in sys.modules)"
    )
    assert python(code) == "True False"


def test_results_are_read_without_a_solver() -> None:
    """Tests that loading, judging, simulating and verifying load no solver and no Pyomo."""
    code = (
        "import sys, modelkit as mk; from modelkit.sources.families import generate;"
        "i = generate('chat', requests=20); r = mk.simulate(i, 'mc-sf'); assert mk.verify_result(r, i).holds;"
        "print(*{m.partition('.')[0] for m in sys.modules})"
    )
    assert not {"pyomo", "highspy", "pyscipopt"} & set(python(code).split())


def test_public_names() -> None:
    """Tests that every public name is there, sorted, and none is hidden by a module of its name."""
    assert mk.__all__ == sorted(mk.__all__)
    for name in mk.__all__:
        assert callable(getattr(mk, name)), name
    assert set(mk.__all__) <= set(dir(mk))
    order = "import modelkit.simulation.simulate, modelkit.solving, modelkit as mk; print(callable(mk.simulate))"
    assert python(order) == "True"
    tree = ast.parse((ROOT / "modelkit" / "__init__.py").read_text())
    (checking,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {(f"{i.module}", a.name) for i in checking.body if isinstance(i, ast.ImportFrom) for a in i.names}
    assert typed == {(f"modelkit.{module}", name) for name, module in mk._HOMES.items()}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mk.nonsense


def test_readme_commands_are_those_of_ci() -> None:
    """Tests that the README's test command is what continuous integration calls."""
    readme = (ROOT / "README.md").read_text()
    commands = [line for line in readme.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text()


def test_other_systems_are_refused_in_a_sentence() -> None:
    """Tests that the command line and the library say that they need POSIX, where they are not on it."""
    start = "import os, sys, runpy; os.name = 'nt'; "
    made = subprocess.run(
        [sys.executable, "-c", start + "runpy.run_module('modelkit', run_name='__main__')"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (made.returncode, made.stderr) == (2, f"error: {mk.NOT_POSIX}\n")
    code = start + "import modelkit\ntry: modelkit.solve\nexcept ImportError as error: print(error)"
    assert python(code) == mk.NOT_POSIX


def test_everything_that_is_installed_is_constrained() -> None:
    """Tests that constraints.txt has every direct and indirect dependency, in a version that pyproject.toml allows."""
    constraints = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    pinned = {canonicalize_name(pin.name): pin for pin in constraints if pin.marker is None or pin.marker.evaluate()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["test"], *extras["cpsat"], *extras["cluster"], *extras["docs"]]
    for requirement in map(Requirement, wanted):
        (pin,) = pinned[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), requirement
    names = [canonicalize_name(requirement.name) for requirement in map(Requirement, project["dependencies"])]
    names += [canonicalize_name(requirement.name) for requirement in map(Requirement, extras["test"])]
    seen = set(names)
    while names:
        name = names.pop()
        assert name in pinned
        if not pinned[name].specifier.contains(importlib.metadata.version(name)):
            continue  # other versions may need other packages
        for requirement in map(Requirement, importlib.metadata.requires(name) or []):
            indirect = canonicalize_name(requirement.name)
            if indirect not in seen and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
                seen.add(indirect)
                names.append(indirect)


@pytest.mark.slow
def test_the_wheel_works_elsewhere(tmp_path: Path) -> None:
    """Tests that a built wheel, installed in a fresh environment, solves a shipped instance from another folder."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv")
    interpreter = str(tmp_path / "venv" / "bin" / "python")
    site = sysconfig.get_path("purelib", "venv", {"base": str(tmp_path / "venv")})
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "-t", site, str(wheel)], check=True)
    needs = [path for path in sys.path if path.endswith("site-packages")]
    (Path(site) / "needs.pth").write_text("\n".join(needs))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV"))}

    def said(*arguments: str) -> str:
        made = subprocess.run(
            [interpreter, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True, env=clean
        )
        return made.stdout

    code = (
        "import modelkit as mk; from modelkit.formulation.loading import bundled; print(mk.__file__);"
        "i = mk.load(bundled('instances') / 'two-requests.json'); mk.save_instance(i, 'two.json');"
        "r = mk.solve(i, solver='scip', time_limit=None); print(r.status);"
        "print(mk.report([r], 'report.html').stat().st_size)"
    )
    place, status, size = said("-c", code).split()
    assert str(tmp_path) in place
    assert status == "optimal"
    assert int(size) > 20_000
    said("-m", "modelkit", "new", "formulation", "my-own", "--extends", "kv-hindsight-flow")
    assert "all 13 rules hold" in said("-m", "modelkit", "check", "my_own.py", "--instances", "4")
    for solver in ("highs", "scip"):
        words = said("-m", "modelkit", "solve", "two.json", "-f", "my_own.py", "-P", "longest_wait=9", "-s", solver)
        assert "optimal" in words


@pytest.mark.slow
@pytest.mark.parametrize(("name", "optimum"), sorted(OPTIMA.items()))
def test_shipped_optima_are_proven(name: str, optimum: dict[str, float]) -> None:
    """Tests that the optimum beside each shipped instance is proven again."""
    result = mk.solve(mk.load(bundled("instances") / f"{name}.json"), time_limit=300)
    assert (result.status, result.objective.value) == ("optimal", optimum["value"])


def test_the_table_of_benchmarks_says_what_was_measured() -> None:
    """Tests that ``benchmarks/README.md`` is made from the results files, and that every benchmark has a row."""
    folder = ROOT / "benchmarks"
    made = subprocess.run(
        [sys.executable, str(folder / "table.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    text = (folder / "README.md").read_text()
    commands = {path.name for path in folder.glob("*.py") if "def main" in path.read_text()}
    assert sorted(name for name in commands - {"table.py"} if f"`{name}" not in text) == []


def test_formulations_import_public_names_only() -> None:
    """Tests that bundled formulations import Pyomo, NumPy, the standard library and modelkit itself, nothing inner."""
    for path in sorted((ROOT / "formulations").glob("[a-z]*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                allowed = name == "modelkit" or name.partition(".")[0] in {"pyomo", "numpy", *sys.stdlib_module_names}
                assert allowed, (path.name, name)


def test_the_top_level_is_a_table_of_contents() -> None:
    """Tests that ``modelkit/`` has at most 15 packages and 12 modules, all of them in CONTRIBUTING.md."""
    package = ROOT / "modelkit"
    packages = [p.parent.name for p in package.glob("*/__init__.py")]
    modules = [p.name for p in package.glob("*.py")]
    assert len(packages) <= 15
    assert len(modules) <= 12
    described = (ROOT / "CONTRIBUTING.md").read_text()
    for name in [*(f"{p}/" for p in packages), *(m for m in modules if not m.startswith("_"))]:
        assert f"`{name}`" in described, name


def test_tests_stand_alone() -> None:
    """Tests that no test imports a benchmark or another test; what several need is a module beside them."""
    benchmarks = {p.stem for p in (ROOT / "benchmarks").glob("*.py")} - {p.stem for p in (ROOT / "tests").glob("*.py")}
    for path in (ROOT / "tests").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not benchmarks & {name.partition(".")[0] for name in names}, path.name
            assert not any(name.startswith("test_") for name in names), path.name


def test_the_checker_shares_nothing() -> None:
    """Tests that the checker is one file that imports the standard library alone, and lines of it can be read."""
    (file,) = (ROOT / "checker").glob("*.py")
    text = file.read_text()
    nodes = list(ast.walk(ast.parse(text)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {f"{node.module}" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names - {"importlib", "runpy", "subprocess"}
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) <= 1010


def test_files_are_short() -> None:
    """Tests that no file of ``modelkit/`` has more than 400 lines."""
    package = ROOT / "modelkit"
    lines = {str(p.relative_to(package)): len(p.read_text().splitlines()) for p in package.rglob("*.py")}
    assert {name for name, number in lines.items() if number > 400} == set()
