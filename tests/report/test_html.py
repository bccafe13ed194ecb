from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from chromium import Page, chromium_path
from matplotlib.image import imread
from small_comparison import small_comparison

from scheduler.analysis.comparison.compare import Comparison
from scheduler.report.answer import verdict_lines
from scheduler.report.html import report_html, script_json

SECTIONS = ("verdict", "trust", "table", "rates", "batches", "over_time", "more")
EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"
needs_chromium = pytest.mark.skipif(chromium_path() is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def hostile() -> Comparison:
    """A comparison whose names, paths and notes try to become markup."""
    found = small_comparison(requests=60, name=f"pool {EVIL}", origin=f"file {EVIL}.json")
    found.requests[0] = type(found.requests[0])(
        found.requests[0].arrival_ns,
        found.requests[0].prompt_tokens,
        found.requests[0].output_tokens,
        notes=(f"trace read from {EVIL}.csv",),
    )
    found.failure = f"stopped at {EVIL}"
    return found


@pytest.fixture(scope="module")
def hostile_page(hostile: Comparison) -> str:
    return report_html(hostile, command=f"python run.py --trace '{EVIL}'")


class Elements(HTMLParser):
    """Collects start tags, and attributes that could load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "data", "srcset") or name.startswith("on"):
                self.references.append(f"{name}={value}")


def elements(page: str) -> Elements:
    found = Elements()
    found.feed(page)
    return found


def test_what_inputs_say_stays_text(hostile_page: str) -> None:
    found = elements(hostile_page)
    assert found.tags.count("script") == 1  # the summary, which is data
    assert "img" not in found.tags
    assert EVIL not in hostile_page
    assert hostile_page.count("&lt;img src=x onerror=alert(1)&gt;") >= 4


def test_the_page_refers_to_nothing_outside_itself(hostile_page: str) -> None:
    references = [r for r in elements(hostile_page).references if not re.fullmatch(r"(xlink:)?href=#\w+", r)]
    assert references == ["href=data:,"]
    assert not re.search(r"@import|url\((?!#)", hostile_page)
    assert "default-src 'none'" in hostile_page


def test_the_summary_inside_the_page_is_the_summary(hostile_page: str, hostile: Comparison) -> None:
    data = re.search(r'<script type="application/json" id="summary">(.*?)</script>', hostile_page, re.DOTALL)
    assert data is not None
    assert "<" not in data[1]
    assert json.loads(data[1])[0]["variant"] == hostile.pools[0].name


def test_json_in_a_script_cannot_close_it() -> None:
    text = script_json({"a": "</script><!--&"})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": "</script><!--&"}


def test_the_page_has_the_answer_the_card_the_plots_and_the_command(
    result_folder: Path, comparison: Comparison
) -> None:
    page = (result_folder / "report.html").read_text(encoding="utf-8")
    found = [section for section in SECTIONS if f'<section id="{section}"' in page]
    assert found == list(SECTIONS)
    assert [page.index(f'<section id="{section}"') for section in found] == sorted(
        page.index(f'<section id="{section}"') for section in found
    )
    assert "python run.py small.yaml" in page
    assert "TTFT p99 ms" in page
    assert "batch sizes 17–64 have no graph" in page
    drawn = 4 + 3 + 3 + 1  # distributions; batches and time of each variant; step times
    assert page.count("<svg ") == drawn
    assert len(page.encode()) < 2_000_000
    assert all(verdict in html.unescape(page) for verdict in verdict_lines(comparison))


def test_every_pool_is_held_against_eager_and_every_further_one_against_the_first(
    comparison: Comparison,
) -> None:
    page = html.unescape(report_html(comparison, command=""))
    header = page[page.index("<thead>") : page.index("</thead>")]
    assert re.findall(r"<th[^>]*>([^<]*)</th>", header) == [
        *("", "eager", "graphs", "against eager", "vllm-64", "against eager", "against graphs"),
    ]


# In a real browser.


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with Page(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@needs_chromium
def test_the_browser_notices_what_must_not_happen(browser: Page, tmp_path: Path) -> None:
    """A page that does complain and does ask for a file: the checks below can fail."""
    path = tmp_path / "bad.html"
    path.write_text("<img src='missing.png'><script>console.error('oops')</script>")
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(path)
    assert "oops" in browser.complaints
    assert any(url.endswith("missing.png") for url in browser.requests)


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_the_report_opens_without_complaint_or_request(
    browser: Page, result_folder: Path, dark: bool
) -> None:
    browser.requests.clear()
    browser.complaints.clear()
    report = result_folder / "report.html"
    browser.open(report, dark=dark)
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [report.as_uri()]
    boxes = browser.evaluate(
        "[...document.querySelectorAll('.panels svg')].filter(e => e.checkVisibility())"
        ".map(e => [e.clientWidth, e.clientHeight])"
    )
    assert len(boxes) == 2 + 3 + 3
    assert all(width > 340 and height > 190 for width, height in boxes)


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_is_wider_than_the_page_and_no_text_is_too_small(
    browser: Page, result_folder: Path, width: int, dark: bool
) -> None:
    """Only what stands in a box that scrolls by itself may be wider; everything folded is unfolded first."""
    browser.open(result_folder / "report.html", width=width, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    wide = browser.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll > *, figure.wide > *'))"
        f".filter(e => e.getBoundingClientRect().right > {width} + 0.5 && e.checkVisibility())"
        ".filter(e => !e.closest('svg') || e.tagName === 'svg').map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    cut = browser.evaluate(
        "[...document.querySelectorAll('p, h1, h2, li, dd, dt, summary, pre.flag, figcaption')]"
        ".filter(e => e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert cut == []
    sizes = browser.evaluate(
        "[...document.querySelectorAll('.panels svg text')].map(e => parseFloat(getComputedStyle(e).fontSize)"
        " * e.ownerSVGElement.clientWidth / e.ownerSVGElement.viewBox.baseVal.width)"
    )
    assert min(sizes) >= 11
    page_sizes = browser.evaluate(
        "[...document.querySelectorAll('p, td, th, dd, dt, li, pre, figcaption, summary')]"
        ".map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(page_sizes) >= 11


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_text_and_figures_can_be_seen(browser: Page, result_folder: Path, tmp_path: Path, dark: bool) -> None:
    browser.open(result_folder / "report.html", dark=dark)
    browser.screenshot(tmp_path / "page.png")
    pixels = (imread(tmp_path / "page.png")[..., :3] * 255).round().astype(int)
    ground = pixels[2, 2]
    assert (ground.mean() < 60) == dark
    colour = np.array([0x4B, 0xA6, 0xE0] if dark else [0, 0x72, 0xB2])
    assert (np.abs(pixels - colour).max(axis=2) < 6).sum() > 4_000  # bars and lines of the first pool
    white = (pixels.min(axis=2) > 250).mean()
    assert white < 0.02 if dark else white > 0.5  # drawings stand on the page's own ground
    ink = pixels[:400].reshape(-1, 3)
    assert np.abs(ink.mean(axis=1) - ground.mean()).max() > 150  # text stands out


@needs_chromium
def test_an_injected_script_stays_text_in_a_browser(browser: Page, hostile_page: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    # Without its policy the page must be safe by escaping alone.
    path.write_text(re.sub(r"<meta http-equiv=[^>]*>", "", hostile_page), encoding="utf-8")
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(path)
    assert browser.evaluate("document.title") == "small: CUDA graphs against eager"
    assert browser.evaluate("document.querySelectorAll('script').length") == 1
    assert browser.evaluate("document.body.innerText.includes('onerror=alert(1)')")
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [path.as_uri()]


@needs_chromium
def test_the_report_prints_without_cutting_the_card(browser: Page, result_folder: Path) -> None:
    browser.open(result_folder / "report.html")
    browser.send("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("getComputedStyle(document.querySelector('#card pre')).whiteSpace") == "pre-wrap"
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.send("Emulation.setEmulatedMedia", media="")
