"""What a user reads is plain: phrases that readers stumbled over are in no text, help page or message."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

from modelkit.text import counted

ROOT = Path(__file__).resolve().parents[1]
#: Phrases that were replaced, in lower case; the words of the field took their place.
RIDDLES = (
    "gives all back when it is done", "come along", "comes along", "than anybody could", "believes nothing",
    "prices the memory instead", "remember ever more", "what a law", "it is said whether", "say whether they do",
    "the word of highs", "the word of scip", "the word of the solver", "holds it to", "shows the house", "restless",
    "two kinds of answer", "the same command goes on", "mend the", "mend what", "of the server or more",
    "nobody on the path", "no bound says at most", "by the bound of highs; ", "whose rules and objective a result",
    "who finds the constraints", "where to.", "headings sort", "shown is each", "bound is called that",
    "who says so", "everybody", "nobody knows", "nobody can tell", "anybody", "so many requests", "whose keys it has",
    "the law that", "fitted law", "iteration-time law",
)  # fmt: skip
#: Names that say the same as another word of the code, which is kept.
OLD_NAMES = {"posed", "inner_posed", "Stay", "Stays", "Stretch", "specimen", "specimens"}


def texts() -> dict[str, str]:
    """Every text of the product by its file, in lower case and on one line each."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]
    for folder, ending in (
        ("modelkit", "py"), ("modelkit", "toml"), ("formulations", "py"), ("reports", "*"), ("docs/pages", "md"),
    ):  # fmt: skip
        found += [path for path in (ROOT / folder).rglob(f"*.{ending}") if path.is_file()]
    return {str(path.relative_to(ROOT)): " ".join(path.read_text().lower().split()) for path in found}


def test_no_riddle_is_left() -> None:
    """Tests that no sentence of the code, its help and messages, the reports or the documentation has such a phrase."""
    found = [(name, riddle) for name, text in texts().items() for riddle in RIDDLES if riddle in text]
    assert found == []


def test_former_names_are_gone() -> None:
    """Tests that the code has one name for each thing."""
    found = set()
    for path in (ROOT / "modelkit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "name", None)
            if isinstance(name, str) and name in OLD_NAMES:
                found.add((path.name, name))
    assert found == set()


def test_the_glossary_has_every_term() -> None:
    """Tests that the glossary defines the words which the documentation leans on."""
    glossary = (ROOT / "docs" / "pages" / "glossary.md").read_text()
    for term in (
        "Request", "Round", "Iteration", "Stage", "Hindsight", "Judge", "Prices", "Certificate", "Residency", "Claim",
        "Gate",
    ):  # fmt: skip
        assert f"**{term}**" in glossary, term


def test_what_people_edit_is_narrow() -> None:
    """Tests that lines of the pages which people read in an editor have at most 120 characters."""
    for name in ("CONTRIBUTING.md", "SECURITY.md"):
        wide = [number for number, line in enumerate((ROOT / name).read_text().splitlines(), 1) if len(line) > 120]
        assert wide == [], name


#: What is counted in messages; and what stands before such a noun but is no number, or is certain not to be one.
COUNTED = re.compile(
    r"^ (?:(?!of |in |for |on |to )[a-z-]+ )?"
    r"(request|row|token|turn|event|span|iteration|eviction|prompt|run|instance|line)s\b(?!/)"
)
SURE = {"self.of", "preset.server.kv_capacity_tokens", "name", "kind", "running", "found.capacity"}


def test_one_is_not_called_several() -> None:
    """Tests that numbers before nouns go through the helpers that know of one, in readers, logs and commands."""
    assert [counted(n, "requests that are late, left out of their run") for n in (1, 2)] == [
        "1 request that is late, left out of its run", "2 requests that are late, left out of their run",
    ]  # fmt: skip
    assert counted(1, "failed requests, left out") == "1 failed request, left out"
    assert counted(1, "requests whose stamps are out of order") == "1 request whose stamps are out of order"
    found = []
    for path in sorted((ROOT / "modelkit").rglob("*.py")):
        if path.parts[len(ROOT.parts) + 1] not in ("sources", "cli") and path.name != "logs.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            for value, text in itertools.pairwise(node.values) if isinstance(node, ast.JoinedStr) else ():
                if not (isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant)):
                    continue
                number = ast.unparse(value.value)
                if COUNTED.match(str(text.value)) and not number.isupper() and number not in SURE:
                    found.append(f"{path.name}:{node.lineno}: {{{number}}}{text.value}")
    assert not found, "\n".join(found)
