"""One registry: formulations, policies, families, trace formats, servers, solvers and rules by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import modelkit as mk
from modelkit import backends, policies
from modelkit.authoring.check import RULES, check
from modelkit.errors import UsageError
from modelkit.formulation import loading
from modelkit.registry import Generators, Registry
from modelkit.sources import families, servers, traces

#: Each registry with what its users call to look something up.
REGISTRIES: list[tuple[Registry, Callable[[str], object]]] = [
    (loading.REGISTRY, loading.load_formulation),
    (policies.REGISTRY, policies.get_policy),
    (families.REGISTRY, mk.generate),
    (traces.REGISTRY, lambda name: mk.import_trace(name, "trace.csv")),
    (servers.REGISTRY, mk.find_server),
    (backends.REGISTRY, backends.backend),
    (RULES, lambda name: check("kv-hindsight", rules=[name])),
]


@pytest.mark.parametrize(("registry", "look_up"), REGISTRIES, ids=lambda value: getattr(value, "kind", ""))
def test_unknown_names_are_answered_alike(registry: Registry, look_up: Callable[[str], object]) -> None:
    """Tests that each answers an unknown name with the nearest one and the list of all."""
    names = list(registry)
    assert len(names) == len(registry) == len(registry.entries())
    near = names[0] + "x"
    for ask in (look_up, registry.__getitem__):
        with pytest.raises(UsageError) as caught:
            ask(near)
        assert str(caught.value).startswith(f"unknown {registry.kind} {near!r}; did you mean ")
        assert str(caught.value).endswith(f"\n  known: {', '.join(sorted(names))}")
    assert near not in registry
    assert names[0] in registry


def test_a_name_is_taken_once() -> None:
    """Tests that only the place that registered a name may do so again, and that a name can be given up."""

    def thing() -> None: ...

    def other() -> None: ...

    registry: Registry[int] = Registry("thing", {"first": 0})
    registry.add("one", 1, thing)
    registry.add("one", 2, thing)
    assert registry["one"] == 2
    for name, generator in (("one", other), ("first", thing)):
        with pytest.raises(ValueError, match=f"thing '{name}' is registered twice"):
            registry.add(name, 3, generator)
    registry.remove("one")
    registry.remove("one")
    assert list(registry) == ["first"]


def test_modules_and_files_are_looked_up_late(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests that modules are imported at the first look and found names anew at each, and the order of all."""
    (tmp_path / "registers_itself.py").write_text(
        "import sys\nsys.modules['registry_of_test'].REGISTRY.register('b', summary='', reference='')(lambda: None)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    home = ModuleType("registry_of_test")
    files: dict[str, object] = {}
    home.REGISTRY = generators = Generators("generator", {"z": None}, modules=["registers_itself"], find=lambda: files)
    monkeypatch.setitem(sys.modules, "registry_of_test", home)
    assert "registers_itself" not in sys.modules
    assert list(generators) == ["z", "b"]
    files["a"] = 1
    assert list(generators) == ["z", "a", "b"]
    monkeypatch.delitem(sys.modules, "registers_itself")
