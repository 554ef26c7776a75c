"""What notebooks show: instances, results, comparisons and figures as small pieces of HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import modelkit as mk
from modelkit.errors import UsageError
from modelkit.instance import Instance
from modelkit.reporting.inline import inline_style
from modelkit.reporting.render import cases_of
from modelkit.result import Result
from modelkit.sources.families import generate


class Tags(HTMLParser):
    """Names of the elements of a piece."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.names.append(tag)


def test_figures_and_comparisons_show_themselves(tmp_path: Path) -> None:
    """Tests that figures are drawn without the instance at hand, that a wrong name is answered, and no scripts."""
    chat = generate("chat", requests=12, rate=8.0, server="llama2-70b-2xa100")
    result = mk.simulate(chat, "vllm-like")
    drawing = mk.draw(result, "timeline")
    assert repr(drawing) == "Drawing('timeline')"
    assert {"occupancy", "latency", "present"} <= {figure.key for figure in mk.draw(result).figures}
    with pytest.raises(UsageError, match="timeline"):
        mk.draw(result, "timelime")
    results = (result, mk.simulate(chat, "svf"))
    made = mk.Comparison(tmp_path, results, tuple(cases_of(results)), ("chat",), ())
    for piece in (drawing._repr_html_(), made._repr_html_()):
        assert piece.startswith('<div class="modelkit">')
        assert {"script", "link", "img", "button"}.isdisjoint(Tags(piece).names)
    assert "vllm-like" in made._repr_html_()


def test_the_style_is_for_the_piece_alone() -> None:
    """Tests that no rule reaches what is around the piece, and that light and dark pages are known."""
    style = inline_style()
    outside, depth, outer = "", 0, []
    for character in re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL):
        if character == "{":
            if depth == 0:
                outer.append(outside.strip())
            depth, outside = depth + 1, ""
        elif character == "}":
            depth, outside = depth - 1, ""
        elif depth == 0:
            outside += character
    assert depth == 0
    assert len(outer) == 3
    assert all(part.strip().endswith(".modelkit") for selectors in outer for part in selectors.split(","))
    assert ":root" not in style
    assert '[data-jp-theme-light="false"] .modelkit' in style


def test_results_and_instances_as_tables(hostile: tuple[Instance, list[Result]]) -> None:
    """Tests the numbers of a small result, and that names are text."""
    instance, results = hostile
    for piece in (instance._repr_html_(), *(result._repr_html_() for result in results)):
        assert {"script", "img"}.isdisjoint(Tags(piece).names)
        assert "<script>" not in piece
    chat = generate("chat", requests=4, rate=8.0, server="llama2-70b-2xa100")
    told = mk.simulate(chat, "svf")._repr_html_()
    assert "total" not in told
    assert "mean time to first token" in told
    assert "4 requests" in chat._repr_html_()
