"""Reports in a real headless Chromium: they load alone, show their figures, sort, print, and fit a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import opened, running

import modelkit as mk
from modelkit.instance import Instance
from modelkit.result import Result
from modelkit.sources.families import generate


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests here."""
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every kind of figure but the solver's."""
    folder = tmp_path_factory.mktemp("report")
    instance = generate("chat", requests=60, kv_capacity=900, rate=6.0)
    results: list[Any] = [mk.simulate(instance, n) for n in ("mc-sf", "mc-benchmark", "alpha-protection")]
    path = mk.report([*results, mk.bound(instance, time_limit=0.5)], folder / "report.html", instances=[instance])
    assert path is not None
    return path


def column(page: Any, k: int) -> list[str]:
    """Texts of a column of the first table."""
    texts: list[str] = page.eval_on_selector_all(
        f"table >> nth=0 >> tbody tr > :nth-child({k})", "c => c.map(x => x.innerText)"
    )
    return texts


def test_loads_alone(browser: Any, page_file: Path) -> None:
    """Tests that the page asks for nothing, reports no error, and that every figure has something in it."""
    with opened(browser, page_file) as watched:
        page = watched.page
        assert watched.requests == [page_file.resolve().as_uri()]
        assert watched.errors == watched.dialogs == []
        figures = page.query_selector_all("figure")
        assert len(figures) >= 6
        for plot in page.query_selector_all("svg.plot"):
            box = plot.bounding_box()
            assert box["width"] > 300
            assert box["height"] > 20
            assert plot.evaluate(
                "s => [...s.querySelectorAll('rect, path, circle')].some(m => m.getBoundingClientRect().width > 1)"
            ), plot.get_attribute("aria-label")
        for mark, pattern in ((".prefill", "hatch-prefill"), (".evicted", "cross-evicted"), (".doubt", "hatch-doubt")):
            fill = page.locator(f"figure .plot {mark}").first.evaluate("m => getComputedStyle(m).fill")
            assert pattern in fill
            assert page.locator(f"#{pattern}").count() == 1


def test_sorts_by_keyboard(browser: Any, page_file: Path) -> None:
    """Tests that headings are reached and pressed by keys alone, both ways, unknown values last."""
    with opened(browser, page_file) as watched:
        page = watched.page
        latency = [int(t.replace(",", "")) for t in column(page, 2)]
        assert latency == sorted(latency)
        heading = page.locator("table >> nth=0 >> th button").nth(1)
        for _ in range(40):
            page.keyboard.press("Tab")
            if heading.evaluate("b => b === document.activeElement"):
                break
        page.keyboard.press("Enter")
        assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
        page.keyboard.press("Enter")
        assert [int(t.replace(",", "")) for t in column(page, 2)] == sorted(latency, reverse=True)
        page.locator("table >> nth=0 >> th button").first.click()
        names = column(page, 1)
        assert names == sorted(names)
        page.locator("table >> nth=0 >> th button").nth(4).click()
        assert [t for t in column(page, 5) if t == "–"] == column(page, 5)[1:]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser: Any, page_file: Path, scheme: Any) -> None:
    """Tests that text has a contrast of at least 4.5 to the page, in both colour schemes."""
    measure = """() => {
      const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      const light = (c) => {
        const [r, g, b] = c.match(/[\\d.]+/g).map((v) => linear(Number(v) / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const paper = light(getComputedStyle(document.body).backgroundColor);
      const ratio = (c) => { const l = light(c); return (Math.max(l, paper) + 0.05) / (Math.min(l, paper) + 0.05); };
      return [...document.querySelectorAll("h1, h2, h3, p, li, td, th, dt, dd, a, caption, svg.plot text")]
        .map(e => ratio(e instanceof SVGElement ? getComputedStyle(e).fill : getComputedStyle(e).color));
    }"""
    with opened(browser, page_file, color_scheme=scheme) as watched:
        ratios = watched.page.evaluate(measure)
        assert len(ratios) > 100
        assert min(ratios) >= 4.5
        paper = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(253, 252, 250)") == (scheme == "light")


def test_narrow_and_printed(browser: Any, page_file: Path) -> None:
    """Tests that nothing sticks out of a phone's screen or a sheet of paper, and that it prints to a few pages."""
    with opened(browser, page_file, viewport={"width": 360, "height": 740}) as watched:
        page = watched.page
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        plot = page.locator("svg.plot").first.bounding_box()
        assert plot["x"] + plot["width"] <= 360
    with opened(browser, page_file, viewport={"width": 688, "height": 1000}) as watched:  # A4 within its margins
        page = watched.page
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("document.documentElement.scrollWidth") <= 688
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        page.evaluate(
            "document.body.insertAdjacentHTML('beforeend', '<details><summary>a</summary><p>b</p></details>')"
        )
        assert page.locator("details p").last.is_visible()
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("details").last.get_attribute("open") is None
        printed = page.pdf(format="A4", print_background=True)
        assert printed.startswith(b"%PDF")
        assert 3 <= printed.count(b"/Type /Page\n") <= 15


def test_curves_tell_their_values_where_the_pointer_is(browser: Any, page_file: Path) -> None:
    """Tests that a curve is read as it is drawn, in the units of its axes, and that the box goes with the pointer."""
    with opened(browser, page_file, viewport={"width": 1280, "height": 900}) as watched:
        page = watched.page
        plot = page.locator("#latency svg.plot")
        plot.scroll_into_view_if_needed()
        frame = plot.bounding_box()
        page.mouse.move(frame["x"] + frame["width"] - 0.5, frame["y"] + 60)
        told = page.locator(".tip-box").inner_text().splitlines()
        assert told[0].startswith("latency [rounds]: ")
        assert all(float(line.rpartition(": ")[2].removesuffix(" %")) > 98 for line in told[1:])
        assert len(told) == 1 + page.locator("#latency .legend li").count()
        page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] - 100)
        assert page.locator(".tip-box").is_hidden()
        assert watched.errors == []


def test_figures_can_be_taken_away(browser: Any, page_file: Path, tmp_path: Path) -> None:
    """Tests the data of a figure as CSV, without a script, and the figure as an SVG that stands alone."""
    with opened(browser, page_file, accept_downloads=True) as watched:
        page = watched.page
        figures = page.query_selector_all("figure")
        assert all(figure.query_selector(".take a") for figure in figures)
        for pressed, name in (("a", "latency.csv"), ("button", "latency.svg")):
            with page.expect_download() as download:
                page.locator(f"#latency .take {pressed}").click()
            assert download.value.suggested_filename == name
            download.value.save_as(tmp_path / name)
        assert watched.errors == []
    rows = (tmp_path / "latency.csv").read_text().splitlines()
    assert rows[0] == "schedule,latency [rounds],share of requests"
    assert len(rows) > 60
    with opened(browser, tmp_path / "latency.svg") as watched:
        page = watched.page
        assert page.locator("path.line").count() >= 3
        stroke = page.locator("path.line.s0").first.evaluate("m => getComputedStyle(m).stroke")
        assert stroke.startswith("rgb(")
        assert watched.errors == []


def test_hostile_names_do_nothing(browser: Any, tmp_path: Path, hostile: tuple[Instance, list[Result]]) -> None:
    """Tests that no script of a name, message or option runs, and that they are shown as text."""
    instance, results = hostile
    path = mk.report(results, tmp_path / "hostile.html", instances=[instance], title=instance.name)
    assert path is not None
    with opened(browser, path) as watched:
        page = watched.page
        page.mouse.move(300, 60)
        page.wait_for_timeout(200)
        assert watched.requests == [path.resolve().as_uri()]
        assert watched.errors == watched.dialogs == []
        assert page.locator("img, iframe, script[src], body script + :not(.tip-box)").count() == 0
        assert "<script>alert(1)</script>" in page.inner_text("body")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_policy_of_the_page_stops_scripts(browser: Any, page_file: Path, tmp_path: Path) -> None:
    """Tests the second wall: even markup that got in could run nothing and load nothing."""
    forged = tmp_path / "forged.html"
    attack = "<script>alert(1)</script><img src='http://127.0.0.1:9/x' onerror='alert(2)'>"
    forged.write_text(page_file.read_text(encoding="utf-8").replace("<h1>", f"{attack}<h1>"), encoding="utf-8")
    with opened(browser, forged) as watched:
        watched.page.wait_for_timeout(200)
        assert watched.dialogs == []
        assert any("Content Security Policy" in error for error in watched.errors)


def test_pages_of_many_instances_are_linked(browser: Any, tmp_path: Path) -> None:
    """Tests the summary of a comparison, and that its links lead to a page on each instance."""
    instances = [generate("kv-synthetic", requests=5, seed=k) for k in range(3)]
    comparison = mk.compare(
        instances, tmp_path / "a folder", formulations=[], policies=["mc-sf", "svf"], time_limit=0.2, jobs=1
    )
    path = mk.report(comparison, tmp_path / "a folder" / "report.html")
    assert path is not None
    with opened(browser, path) as watched:
        page = watched.page
        assert page.locator("#instances").count() == 1
        page.locator("table a").first.click()
        page.wait_for_load_state()
        assert page.locator("#timeline").count() == 1
        assert watched.errors == []


def test_pages_of_real_time_fit_phones_and_print(browser: Any, tmp_path: Path) -> None:
    """Tests the figures of real time: bars that reach the bound's line, and curves above the least number present."""
    chat = generate("chat", requests=40, rate=8.0, server="llama2-70b-2xa100")
    results: list[Any] = [mk.simulate(chat, n) for n in ("vllm-like", "wait")]
    path = mk.report([*results, mk.bound(chat, time_limit=0.5)], tmp_path / "chat.html", instances=[chat])
    assert path is not None
    for width, scheme in ((1280, "light"), (390, "dark")):
        with opened(browser, path, viewport={"width": width, "height": 800}, color_scheme=scheme) as watched:
            page = watched.page
            assert watched.errors == []
            assert page.evaluate("document.documentElement.scrollWidth") == width
            line = page.locator("#values .plot line.limit").bounding_box()
            for bar in page.query_selector_all("#values .plot rect.decode"):
                box = bar.bounding_box()
                assert box["x"] + box["width"] >= line["x"] - 1
            least = page.locator("#present .plot path.held").bounding_box()
            curve = page.locator("#present .plot path.line.s0").bounding_box()
            assert curve["y"] <= least["y"] + 1
            page.emulate_media(media="print")
            assert page.pdf(format="A4", print_background=True).startswith(b"%PDF")
