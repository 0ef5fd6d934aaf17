"""The pages in a real browser: no error, no request, nothing overflows, and an accessibility checker is content."""

from __future__ import annotations

import io
import shutil
from itertools import compress
from operator import not_

import matplotlib.image
import numpy as np
import pytest
import simulated_folder
from batchscale.analysis.compare import compare
from batchscale.analysis.pages import comparison
from batchscale.analysis.pages.site import site

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (extra: browser)")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed (extra: browser)")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTHS = (360, 800, 1600)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium in the path"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(reported, tmp_path_factory):
    """One of each: a report, a comparison, the index of a gallery."""
    home = tmp_path_factory.mktemp("browsed")
    for seed, machine in enumerate(("laptop", "server")):
        truth = simulated_folder.Truth(batch_sizes=(16, 64, 256, 1024), confirm_seeds=2)
        simulated_folder.write(home / "published" / "simulated" / machine, truth, seed=seed, machine=machine)
    folders = sorted((home / "published" / "simulated").iterdir())
    return {
        "report": reported / "report.html",
        "compare": comparison.write_comparison(compare.compare(folders), home / "compared"),
        "index": site(home / "published", home / "site"),
    }


@pytest.fixture
def opened(browser, pages):
    """Open a page of the three; whatever it says on the console or asks of a network fails the test."""
    complaints, contexts = [], []

    def open_page(name, width=1600, scheme="light", scripts=True):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: _note(request.url, complaints))
        page.goto(pages[name].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def _note(address, complaints):
    if not address.startswith(("file:", "data:")):
        complaints.append(address)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "compare", "index"])
def test_nothing_overflows(opened, name, width):
    page = opened(name, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        """() => [...document.querySelectorAll('svg, img, p, h1, h2, pre')]
            .filter(element => element.getBoundingClientRect().right > innerWidth + 1)
            .map(element => element.outerHTML.slice(0, 80))"""
    )
    assert outside == []


def frames_of(page):
    """What scrolls sideways inside a page, and what could but need not."""
    frames = [frame for frame in page.locator(".scroll, pre").all() if frame.is_visible()]
    scrolling = [frame.evaluate("frame => frame.scrollWidth > frame.clientWidth") for frame in frames]
    return list(compress(frames, scrolling)), list(compress(frames, map(not_, scrolling)))


@pytest.mark.parametrize("name", ["report", "compare", "index"])
def test_a_frame_that_scrolls_is_named_and_moved_from_the_keyboard(opened, name):
    page = opened(name, 360)
    frames, _ = frames_of(page)
    names = [frame.get_attribute("aria-label") for frame in frames]
    assert len(set(names)) == len(names) > 0
    for frame, called in zip(frames, names, strict=True):
        assert frame.get_attribute("tabindex") == "0"
        assert page.get_by_role("region", name=called, exact=True).count() == 1
        frame.press("ArrowRight")
        assert frame.evaluate("frame => document.activeElement === frame")
        page.wait_for_function("() => document.activeElement.scrollLeft > 0")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "width"), [("report", 360), ("report", 1600), ("compare", 360), ("index", 800)])
def test_a_frame_is_shaded_where_it_holds_more_than_is_seen(opened, name, width, scheme):
    page = opened(name, width, scheme)
    page.add_style_tag(content=".scroll > *, pre > * { visibility: hidden }")
    scrolling, still = frames_of(page)
    assert scrolling
    for frame in scrolling:
        assert [shaded(frame, part) for part in (0, 0.5, 1)] == [(False, True), (True, True), (True, False)]
    assert {shaded(frame, 0) for frame in still} <= {(False, False)}


def shaded(frame, part):
    """Whether the left and the right edge differ from the middle, after scrolling so far of the whole way."""
    frame.evaluate("(frame, part) => { frame.scrollLeft = part * (frame.scrollWidth - frame.clientWidth) }", part)
    seen = matplotlib.image.imread(io.BytesIO(frame.screenshot()))
    row = seen[len(seen) // 2, :, :3]
    return tuple(bool(np.abs(row[at] - row[len(row) // 2]).max() > 0.1) for at in (1, -2))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
@pytest.mark.parametrize("name", ["report", "compare", "index"])
def test_the_accessibility_checker_finds_nothing(opened, name, width, scheme):
    found = axe.Axe().run(opened(name, width, scheme)).response["violations"]
    assert [(one["id"], one["impact"], one["nodes"][0]["html"][:120]) for one in found] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_drawn_text_keeps_its_contrast(opened, scheme):
    page = opened("report", scheme=scheme)
    colors = page.evaluate(
        """() => [...document.querySelectorAll('figure svg text')].map(text =>
            [getComputedStyle(text).fill, getComputedStyle(text.closest('.drawing')).backgroundColor, text.textContent])
            .filter(([, , words]) => isNaN(words))"""
    )
    assert colors
    assert [words for ink, paper, words in colors if contrast(ink, paper) < 4.5] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "compare", "index"])
def test_text_in_frames_keeps_its_contrast(opened, name, scheme):
    """A checker cannot separate the background of a text from gradients over it."""
    colors = opened(name, scheme=scheme).evaluate(
        """() => [...document.querySelectorAll('.scroll :is(th, td, a, button), pre code')].map(text =>
            [getComputedStyle(text).color, getComputedStyle(text.closest('.scroll, pre')).backgroundColor,
             text.textContent])"""
    )
    assert colors
    assert [words for ink, paper, words in colors if contrast(ink, paper) < 4.5] == []


def contrast(*colors):
    """The ratio that WCAG 2 defines."""
    shares = [[int(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]] for color in colors]
    linear = [[part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in one] for one in shares]
    light = sorted(0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in linear)
    return (light[1] + 0.05) / (light[0] + 0.05)


def column(page, at):
    return page.evaluate(
        f"[...document.querySelector('table.sortable').tBodies[0].rows].map(r => r.cells[{at}].dataset.value)"
    )


def test_tables_sort_by_value_both_ways(opened):
    page = opened("report")
    heading = page.locator("table.sortable th").nth(2)
    for direction in ("ascending", "descending"):
        heading.locator("button").press("Enter")
        assert heading.get_attribute("aria-sort") == direction
        shown = [float(value) for value in column(page, 2) if value]
        assert shown == sorted(shown, reverse=direction == "descending")
        assert len(shown) > 5


def test_pointing_at_a_figure_shows_its_row(opened, summarized):
    page = opened("report")
    best = summarized.time_optimal.batch_size
    page.locator(f"#figure-time_to_target .point[data-batch-size='{best}']").hover()
    assert page.locator(".tip").inner_text().startswith(f"Batch size {best}:")
    assert page.locator(f"#cell-{best}").get_attribute("class").split() == ["best", "shown"]
    page.mouse.move(5, 5)
    assert page.locator(".tip").is_hidden()


def test_filters_leave_what_was_asked_for(opened):
    page = opened("index")
    page.locator("select[data-filter=machine]").select_option("server")
    assert page.locator("tr[data-entry]:visible").count() == 1
    assert page.locator("[data-count]").inner_text() == "1 of 2"
    page.locator("select[data-filter=machine]").select_option("")
    assert page.locator("tr[data-entry]:visible").count() == 2


def test_pages_work_without_scripts(opened):
    page = opened("report", scripts=False)
    assert page.locator("figure svg:visible").count() >= 10
    assert page.locator("th button").count() == 0
    assert opened("index", scripts=False).locator(".filters").is_hidden()
