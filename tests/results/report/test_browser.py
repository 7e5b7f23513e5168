"""The page in a headless Chromium: with a mouse, a keyboard, on a phone and on a printer."""

from __future__ import annotations

import shutil

import pytest
from sample_rows import crop_set, family, row

from sr_deploy.results.report.html import report_html

pytest.importorskip("jinja2", reason="jinja2 is not installed; it writes the page")
pytest.importorskip("matplotlib", reason="matplotlib is not installed; it draws the charts")
api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed; it drives the browser"
)

CHROMIUM = next(
    (path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path),
    None,
)
if CHROMIUM is None:
    pytest.skip(
        "no chromium here (Debian: apt install chromium): the page is not opened in a browser",
        allow_module_level=True,
    )

HOSTILE = (
    "<img src=http://localhost:9/x.png onerror=alert(1)>"
    "<script src=http://localhost:9/x.js></script>"
)


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    rows = [*family(), row("d1", 15.0, device="another"), row("d9", model=HOSTILE, error=HOSTILE)]
    rows += [
        row(HOSTILE, 60.0),
        row("d1", 9.0, protocol="ntire2022"),
        row("d2", 8.0, protocol="ntire2022"),
    ]
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report_html(rows, [crop_set()]), encoding="utf-8")
    return path


@pytest.fixture()
def open_page(browser, report):
    """Open the page. At the end, nothing was logged, only the page was loaded, no dialog opened."""
    contexts, said, asked = [], [], []

    def open_it(*, width=1200, height=900, scheme="light"):
        contexts.append(
            browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        )
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert said == [] and {url for url in asked if not url.startswith("data:")} == {report.as_uri()}


def column(page, heading):
    """The heading's button in the first table, and a function that reads its column."""
    table = page.locator("table").first
    index = [text.strip() for text in table.locator("thead th").all_inner_texts()].index(heading)
    return table.locator("thead th").nth(index), lambda: [
        r.split("\t")[index] for r in table.locator("tbody tr").all_inner_texts()
    ]


def test_columns_sort_both_ways_by_mouse_and_keyboard_and_what_is_missing_stays_last(open_page):
    page = open_page()
    head, values = column(page, "PSNR [dB]")
    time_head, times = column(page, "Time [ms]")
    assert time_head.get_attribute("aria-sort") == "ascending" and times() == [
        "10.00",
        "20.00",
        "25.00",
        "30.00",
        "40.00",
        "60.00",
    ]
    head.get_by_role("button").click()
    assert (
        head.get_attribute("aria-sort") == "descending"
        and time_head.get_attribute("aria-sort") is None
    )
    assert values() == ["32.000", "31.000", "30.500", "30.000", "30.000", ""], "best first"
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert values() == ["30.000", "30.000", "30.500", "31.000", "32.000", ""]
    time_head.get_by_role("button").click()
    assert times()[0] == "10.00"


def test_names_sort_as_people_count(open_page):
    page = open_page()
    head, names = column(page, "Network")
    head.get_by_role("button").click()
    ours = [n.split()[0] for n in names() if n.startswith("m_x4.d")]
    assert ours == ["m_x4.d1", "m_x4.d2", "m_x4.d10"]


def test_the_slider_compares_two_crops_by_mouse_and_keyboard(open_page):
    page = open_page()
    stage, slider = page.locator(".stage"), page.get_by_role("slider")
    stage.scroll_into_view_if_needed()
    assert slider.get_attribute("aria-valuetext") == "50 % bicubic"
    box = stage.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 3, steps=4)
    page.mouse.up()
    assert abs(int(slider.input_value()) - 25) <= 2
    slider.focus()
    before = int(slider.input_value())
    page.keyboard.press("ArrowRight")
    assert int(slider.input_value()) == before + 1
    page.keyboard.press("Home")
    assert slider.input_value() == "0" and slider.get_attribute("aria-valuetext") == "0 % bicubic"


def test_the_seam_lies_where_the_pixels_change(open_page, tmp_path):
    """Left is bicubic (black), right the largest variant (light grey)."""
    cv2 = pytest.importorskip("cv2", reason="opencv is not installed; it reads the screenshot")
    page = open_page()
    slider, stage = page.get_by_role("slider"), page.locator(".stage")
    for key, share in (("Home", 0.0), ("End", 1.0), (None, 0.3)):
        slider.focus()
        page.keyboard.press(key) if key else slider.fill("30")
        stage.screenshot(path=str(tmp_path / "stage.png"))
        line = cv2.imread(str(tmp_path / "stage.png"))[40, 10:-10, 0]
        assert (
            abs((line < 20).mean() - share) < 0.03
            and abs((line == 200).mean() - (1 - share)) < 0.03
        )


def test_any_two_crops_can_be_chosen(open_page):
    page = open_page()
    left, right = (page.get_by_role("combobox", name=name) for name in ("Left", "Right"))
    assert left.locator("option").all_inner_texts() == ["LR", "bicubic", "m_x4.d1", "m_x4.d2", "HR"]
    assert right.evaluate("e => e.selectedOptions[0].text") == "m_x4.d2"
    left.select_option("LR")
    right.select_option("HR")
    assert (
        page.locator(".over").get_attribute("alt") == "bird.png, LR"
        and page.locator(".under").get_attribute("alt") == "bird.png, HR"
    )
    tiles = page.locator(".tiles img")
    assert page.locator(".over").get_attribute("src") == tiles.first.get_attribute("src")
    assert page.get_by_role("slider").get_attribute("aria-valuetext") == "50 % LR"


def paper(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def luminance(colour):
    parts = [float(v) / 255 for v in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear))


def test_the_theme_follows_the_system_and_the_button_overrides_and_is_remembered(open_page):
    dark, light = paper(open_page(scheme="dark")), paper(open_page())
    assert luminance(dark) < 0.02 and luminance(light) > 0.9
    page = open_page()
    page.get_by_role("button", name="Dark theme").click()
    assert paper(page) == dark
    page.reload()
    assert paper(page) == dark
    page.get_by_role("button", name="Light theme").click()
    assert paper(page) == light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_the_paper(open_page, scheme):
    page = open_page(scheme=scheme)
    behind = luminance(paper(page))
    for selector in (
        "h1",
        ".lead",
        ".note",
        ".how",
        "dt",
        "thead button",
        "tbody a",
        ".charts .tick text",
        ".charts text[style*='--family0']",
        ".charts text[style*='--family1']",
        ".charts text[style*='--soft']",
        ".take code",
        ".charts text[style*='--ink']",
        ".strips .tick",
        ".strips .num",
    ):
        words = luminance(
            page.locator(selector).first.evaluate(
                "e => getComputedStyle(e)[e instanceof SVGElement ? 'fill' : 'color']"
            )
        )
        contrast = (max(words, behind) + 0.05) / (min(words, behind) + 0.05)
        assert contrast >= 4.5, (selector, contrast)


@pytest.mark.parametrize("width", [320, 360, 768, 1200])
def test_the_page_never_scrolls_sideways(open_page, width):
    page = open_page(width=width, height=740)
    page.locator("summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 360:
        region = page.locator(".scroll").first
        assert region.evaluate("e => e.scrollWidth > e.clientWidth"), (
            "the table scrolls within its own frame"
        )
        region.focus()
        page.keyboard.press("ArrowRight")
        moved = region.evaluate(
            "e => new Promise(done => e.scrollLeft ? done(true) :"
            " e.addEventListener('scroll', () => done(true)))"
        )
        assert moved
        tall = page.locator("button, select").evaluate_all(
            "all => all.filter(e => !e.closest('thead')).map(e => e.offsetHeight)"
        )
        assert min(tall) >= 36, "large enough for a finger"


def test_a_name_leads_to_its_open_receipt(open_page):
    page = open_page()
    name = page.locator("tbody a").first
    receipt = page.locator(name.get_attribute("href"))
    assert not receipt.is_visible()
    name.focus()
    page.keyboard.press("Enter")
    receipt.wait_for(state="visible")
    assert "latency_ms_median" in receipt.inner_text()


def test_everything_is_reached_by_tab_and_shows_it(open_page):
    page = open_page()
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "[document.activeElement.tagName,"
                " getComputedStyle(document.activeElement).outlineStyle]"
            )
        )
    assert (
        seen[0][0] == "A"
        and {"A", "BUTTON", "SELECT", "DIV"} <= {tag for tag, _ in seen}
        and {outline for _, outline in seen} == {"solid"}
    )


def test_a_screen_reader_is_told(open_page):
    page = open_page()
    assert (
        page.get_by_role("img", name="PSNR against Latency").count() >= 1
        and page.get_by_role("main").count() == 1
    )
    assert (
        page.get_by_role("columnheader", name="Time [ms]").count() >= 1
        and page.get_by_role("rowheader", name="m_x4.d2").count() >= 1
    )
    assert page.get_by_role("region", name="All numbers").count() >= 1
    unnamed = page.locator(
        "img, svg:not([aria-hidden], [aria-hidden] *), select, input, button"
    ).evaluate_all(
        "all => all.filter(e => !(e.getAttribute('alt') || e.getAttribute('aria-label')"
        " || e.textContent.trim() || e.labels?.length))"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert unnamed == []
    levels = page.locator("h1, h2, h3").evaluate_all("all => all.map(e => Number(e.tagName[1]))")
    assert (
        levels[0] == 1
        and levels.count(1) == 1
        and all(b - a <= 1 for a, b in zip(levels, levels[1:]))
    )


def test_a_mark_shows_its_numbers_under_the_pointer_and_follows_the_theme(open_page):
    fills = []
    for scheme in ("light", "dark"):
        page = open_page(scheme=scheme)
        mark = page.locator(".charts .mark.best").first
        mark.hover()
        assert mark.locator("title").text_content() == (
            "m_x4.d1, torch fp32: 30.000 dB, 10.0 Latency [ms]"
        )
        fills.append(mark.locator("path").evaluate("e => getComputedStyle(e).fill"))
    assert luminance(fills[0]) < 0.2 < luminance(fills[1])


def test_print_is_light_without_controls_and_fits(open_page):
    page = open_page(scheme="dark", width=720)
    page.emulate_media(media="print", color_scheme="dark")
    assert paper(page) == "rgb(255, 255, 255)"
    assert (
        not page.locator("#theme").is_visible() and not page.locator(".compare").first.is_visible()
    )
    assert (
        page.locator("table").first.is_visible() and page.locator(".tiles img").first.is_visible()
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 720
    assert page.pdf()[:4] == b"%PDF"


def test_the_widest_table_fits_a_printed_page(browser, tmp_path):
    wide = {
        "model": "imdeception_x4",
        "backend": "tensorrt-rtx",
        "protocol": "ntire2025",
        "deployed": {"macs": 20_710_000_000},
    }
    rows = [
        row(f"c{n}-nla", 1000.0 * n, counter="fvcore", mem_peak_mib=1234.5, **wide) for n in (4, 16)
    ]
    (tmp_path / "wide.html").write_text(report_html(rows), encoding="utf-8")
    page = browser.new_page(
        viewport={"width": 688, "height": 900}
    )  # A4 between its margins, in pixels of CSS
    page.goto((tmp_path / "wide.html").as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 688
    page.close()


def test_without_a_script_all_is_still_said(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert (
        page.locator("tbody tr").count() == 11
        and not page.locator("#theme").is_visible()
        and not page.locator(".compare").is_visible()
    )
    context.close()


def test_filters_leave_the_rows_that_are_asked_for_and_a_link_brings_the_others_back(open_page):
    page = open_page()
    rows, groups = page.locator("tbody tr[data-id]"), page.locator("section.group")
    family = page.get_by_role("combobox", name="Family")
    family.select_option("other_x4")
    assert rows.locator("visible=true").count() == 1 and groups.locator("visible=true").count() == 1
    assert page.locator(".charts .mark:visible").count() == 3
    assert page.locator(".tools output").inner_text() == "1 of 9 rows"
    family.select_option("")
    page.get_by_role("combobox", name="Group").select_option("g2")
    assert groups.locator("visible=true").evaluate_all("all => all.map(e => e.id)") == ["g2"]
    page.locator(".glance a").first.click()
    page.wait_for_function("!document.querySelector('.off')")


def test_filters_stay_in_view(open_page):
    page = open_page()
    page.locator("footer").scroll_into_view_if_needed()
    assert page.locator(".tools").bounding_box()["y"] == 0


def test_tables_and_commands_are_copied(open_page):
    page = open_page()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])

    def copied(button):
        button.click()
        page.get_by_role("button", name="Copied").last.wait_for()
        return page.evaluate("navigator.clipboard.readText()")

    assert copied(page.locator(".take .copy").first) == (
        "srdeploy upscale PHOTO -m m_x4.d1 --runtime torch"
    )
    csv = copied(page.get_by_role("button", name="Copy as CSV").first).splitlines()
    assert csv[0].startswith("Network,Run by,PSNR [dB],Time [ms],Params [M]") and len(csv) == 7
    assert csv[1].startswith("m_x4.d1,torch fp32,30.000,10.00,0.090")
    latex = copied(page.get_by_role("button", name="Copy as LaTeX").first)
    assert latex.startswith("% Set5, x4") and "m\\_x4.d1 & torch fp32 & 30.000 & 10.00 &" in latex
    assert latex.endswith("\\bottomrule\n\\end{tabular}\n")


def test_psnr_and_time_are_in_view_on_a_phone(open_page):
    page = open_page(width=390, height=800)
    table = page.locator("table").first
    table.scroll_into_view_if_needed()
    for cell in table.locator("tbody tr").first.locator("td").all()[:2]:
        box = cell.bounding_box()
        assert box["x"] + box["width"] <= 390
