"""The written page in a real browser: it draws everything, asks the network for nothing and runs no foreign script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import study_builder
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from reports import timeline
from reports.compare import write_compare
from reports.figures import pictures
from reports.page import write_report

ODD_NAME = "a?b#c%20d (x) 'q\" ü"
DARK_INK, LIGHT_INK = "rgb(230, 234, 240)", "rgb(28, 36, 48)"


@dataclass
class Visit:
    """A page and everything suspicious that it did."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def open(self, path: Path) -> None:
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.page.goto(path.as_uri())
        # The policy forbids the page to evaluate text, so wait by selector.
        self.page.locator("html[data-drawn=all]").wait_for(state="attached")
        self.requests = [url for url in self.requests if url != path.as_uri() and not url.startswith("data:")]

    def hear(self, line: ConsoleMessage) -> None:
        if line.type in ("error", "warning"):
            self.errors.append(line.text)

    def quiet(self) -> bool:
        return not (self.errors or self.requests or self.dialogs)

    def plots(self) -> tuple[int, int]:
        """How many figures there are, and how many of them hold a drawing."""
        cards = self.page.locator(".plot[role=img]")
        return cards.count(), cards.filter(has=self.page.locator("svg.main-svg .cartesianlayer .trace")).count()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light")
    yield made
    made.close()


@pytest.fixture
def visit(context: BrowserContext) -> Visit:
    return Visit(context.new_page())


@pytest.fixture(scope="session")
def forty_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(study_builder.large_study(40, 20), tmp_path_factory.mktemp("forty"))


def ink(visit: Visit) -> str:
    text = ".plot .xtitle, .plot .xtick text"
    return str(visit.page.evaluate(f"getComputedStyle(document.querySelector('{text}')).fill"))


def test_every_figure_is_drawn_without_errors_or_requests(visit: Visit, forty_report: Path) -> None:
    visit.open(forty_report)

    assert visit.quiet(), visit
    assert visit.plots() == (17, 17)


@pytest.mark.parametrize("name", study_builder.STUDIES)
def test_every_kind_of_study_opens_cleanly(name: str, visit: Visit, tmp_path: Path) -> None:
    visit.open(write_report(study_builder.STUDIES[name](), tmp_path))

    assert visit.quiet(), visit
    there, drawn = visit.plots()
    assert there == drawn
    assert visit.page.locator("h1").count() == 1


def test_no_script_runs_from_names(visit: Visit, tmp_path: Path) -> None:
    visit.open(write_report(study_builder.hostile_study(), tmp_path))
    visit.page.locator("summary").first.click()

    assert visit.quiet(), visit
    assert visit.page.evaluate("typeof window.ran") == "undefined"
    assert visit.page.locator("img").count() == 0
    assert visit.page.locator("text={{7*7}}").count() > 0
    there, drawn = visit.plots()
    assert there == drawn > 0


def test_a_script_put_into_the_file_does_not_run(visit: Visit, forty_report: Path, tmp_path: Path) -> None:
    html = forty_report.read_text(encoding="utf-8")
    changed = tmp_path / "index.html"
    attack = '<script>window.ran = 1</script><img src="http://127.0.0.1:9/x" onerror="window.ran = 1">'
    changed.write_text(html.replace("<main", f"{attack}<main"), encoding="utf-8")
    visit.open(changed)

    assert visit.page.evaluate("typeof window.ran") == "undefined"
    assert any("Content Security Policy" in error for error in visit.errors)
    assert visit.plots() == (17, 17)


def test_dark_mode_is_followed_while_the_page_is_open(visit: Visit, forty_report: Path) -> None:
    visit.open(forty_report)
    assert ink(visit) == LIGHT_INK
    light = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")

    visit.page.emulate_media(color_scheme="dark")
    expect(visit.page.locator(".plot .xtick text").first).to_have_css("fill", DARK_INK)
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    assert ink(visit) == DARK_INK
    bars = "document.querySelector('#importance .point path')"
    assert visit.page.evaluate(f"getComputedStyle({bars}).fill") == "rgb(74, 168, 232)"
    assert visit.quiet(), visit


def test_a_page_opened_in_the_dark_prints_on_white(browser: Browser, forty_report: Path) -> None:
    context = browser.new_context(color_scheme="dark")
    visit = Visit(context.new_page())
    visit.open(forty_report)
    assert ink(visit) == DARK_INK

    visit.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert ink(visit) == LIGHT_INK
    visit.page.emulate_media(media="print")
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    visit.page.emulate_media(media="screen")
    visit.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert ink(visit) == DARK_INK
    assert len(visit.page.pdf()) > 50_000
    context.close()


def test_a_page_that_is_printed_at_once_has_its_figures(visit: Visit, forty_report: Path) -> None:
    visit.page.add_init_script(
        "addEventListener('DOMContentLoaded', () => { dispatchEvent(new Event('beforeprint')); "
        "window.atOnce = document.querySelectorAll('.plot .cartesianlayer .trace').length; })"
    )
    visit.open(forty_report)

    assert visit.page.evaluate("window.atOnce") >= 17
    assert visit.quiet(), visit


def test_the_words_come_before_plotly_is_read(visit: Visit, forty_report: Path) -> None:
    visit.page.add_init_script("addEventListener('DOMContentLoaded', () => { window.early = typeof Plotly; })")
    visit.open(forty_report)

    assert visit.page.evaluate("window.early") == "undefined"
    assert visit.page.evaluate("typeof Plotly") == "object"


def test_a_far_figure_is_reached_by_its_anchor_and_answers_the_mouse(visit: Visit, forty_report: Path) -> None:
    visit.open(forty_report)
    visit.page.evaluate("location.hash = 'speed'")
    assert abs(visit.page.evaluate("document.getElementById('speed').getBoundingClientRect().top")) < 1

    visit.page.locator("#speed .points path").first.hover(force=True)
    expect(visit.page.locator("#speed .hoverlayer .hovertext").first).to_contain_text("tokens/s, loss")
    assert visit.quiet(), visit


def test_only_figures_with_long_labels_are_drawn_again_for_a_wider_margin(visit: Visit, forty_report: Path) -> None:
    visit.open(forty_report)
    widened = visit.page.evaluate(
        """[...document.querySelectorAll('.plot')].filter(({ _fullLayout: { margin, _size } }) =>
          ['l', 'r', 't', 'b'].some((side) => margin[side] !== _size[side])).map((plot) => plot.closest('.card').id)"""
    )

    assert set(widened) <= {"best-so-far", "which-change", "importance"}


@pytest.mark.parametrize("width", [390, 768])
def test_a_narrow_screen_needs_no_sideways_scrolling(browser: Browser, width: int, forty_report: Path) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    visit = Visit(context.new_page())
    visit.open(forty_report)
    for summary in visit.page.locator("summary").all():
        summary.click()

    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.plots() == (17, 17)
    context.close()


def test_the_page_is_usable_with_the_keyboard(visit: Visit, forty_report: Path) -> None:
    visit.open(forty_report)
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.className") == "jump"

    visit.page.locator("#best-so-far summary").focus()
    visit.page.keyboard.press("Enter")
    assert visit.page.locator("#best-so-far details").get_attribute("open") is not None
    assert visit.page.locator("#best-so-far tbody tr").count() == 40


def test_the_command_can_be_copied(visit: Visit, context: BrowserContext, forty_report: Path) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.open(forty_report)
    visit.page.locator("button.copy").click()
    expect(visit.page.locator("button.copy")).to_have_text("Copied")

    assert visit.page.evaluate("navigator.clipboard.readText()") == "autotune promote night"


def test_the_toolbar_offers_no_upload(visit: Visit, forty_report: Path) -> None:
    visit.open(forty_report)
    visit.page.locator("#best-so-far .plot").first.hover()
    titles = visit.page.evaluate("[...document.querySelectorAll('.modebar-btn')].map((b) => b.dataset.title || '')")

    assert titles
    assert not any("cloud" in title.lower() or "plotly" in title.lower() for title in titles)


def test_the_comparison_opens_cleanly(visit: Visit, tmp_path: Path) -> None:
    first = study_builder.study()
    second = study_builder.study(spec=study_builder.spec("second"), created_at="2026-01-07")
    visit.open(write_compare([first, second], tmp_path))

    assert visit.quiet(), visit
    assert visit.plots() == (1, 1)


def test_the_timeline_opens_cleanly(visit: Visit, tmp_path: Path) -> None:
    first = study_builder.study()
    second = study_builder.study(spec=study_builder.spec("second"), created_at="2026-01-07")
    timeline.write_timeline(timeline.timeline([first, second, study_builder.hostile_study()]), tmp_path)
    visit.open(tmp_path / "index.html")

    assert visit.quiet(), visit
    assert visit.plots() == (2, 2)
    assert visit.page.evaluate("typeof window.ran") == "undefined"


def test_a_page_of_a_study_at_work_renews_itself_as_it_was(visit: Visit, tmp_path: Path) -> None:
    path = write_report(study_builder.running_study(), tmp_path, renewed_s=600)
    visit.page.clock.install()
    visit.open(path)
    visit.page.locator("#best-so-far summary").click()
    visit.page.evaluate("scrollTo(0, 900)")
    write_report(
        replace(study_builder.running_study(), spec=study_builder.spec(title="Renewed")), tmp_path, renewed_s=600
    )
    visit.page.clock.fast_forward(600_000)

    expect(visit.page.locator(".study")).to_contain_text("Renewed", timeout=20_000)
    visit.page.locator("html[data-drawn=all]").wait_for(state="attached")
    assert visit.page.locator("#best-so-far details").get_attribute("open") is not None
    assert visit.page.evaluate("scrollY") == pytest.approx(900, abs=40)
    assert not visit.errors


def test_a_renewing_page_can_be_paused_with_the_keyboard(visit: Visit, tmp_path: Path) -> None:
    path = write_report(study_builder.running_study(), tmp_path, renewed_s=600)
    visit.page.clock.install()
    visit.open(path)
    button = visit.page.locator(".renewal button")
    button.focus()
    visit.page.keyboard.press("Enter")
    expect(button).to_have_text("Resume")
    write_report(study_builder.study(spec=study_builder.spec("night", title="Renewed")), tmp_path, renewed_s=600)
    visit.page.clock.fast_forward(1_200_000)
    expect(button).to_have_text("Resume")
    assert "Renewed" not in visit.page.locator(".study").inner_text()

    visit.page.keyboard.press("Enter")
    visit.page.clock.fast_forward(600_000)
    expect(visit.page.locator(".study")).to_contain_text("Renewed", timeout=20_000)


def test_a_finished_page_does_not_renew_itself(visit: Visit, forty_report: Path) -> None:
    visit.open(forty_report)

    assert visit.page.locator(".renewal").count() == 0
    assert visit.page.evaluate("document.documentElement.dataset.renewedS") is None


def test_every_control_is_reached_by_tab(visit: Visit, tmp_path: Path) -> None:
    visit.open(write_report(study_builder.study(), tmp_path, renewed_s=600))
    place = "[...document.querySelectorAll('*')].indexOf(e)"
    controls = visit.page.evaluate(
        f"[...document.querySelectorAll('a[href], button, summary')].filter((e) => e.offsetParent).map((e) => {place})"
    )
    seen = set()
    for _ in range(3 * len(controls)):
        visit.page.keyboard.press("Tab")
        seen.add(visit.page.evaluate(f"((e) => {place})(document.activeElement)"))

    assert set(controls) <= seen


# --- folders of any name ---


def test_pages_in_a_folder_of_any_name_open_and_their_anchors_lead(visit: Visit, tmp_path: Path) -> None:
    folder = tmp_path / ODD_NAME
    visit.open(write_report(study_builder.study(), folder))
    assert visit.quiet(), visit

    anchors = visit.page.locator("a[href]").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert anchors and all(anchor.startswith("#") for anchor in anchors), "no trial of this study has a log"
    visit.page.locator("a[href='#glossary']").first.click()
    assert visit.page.url == f"{(folder / 'index.html').as_uri()}#glossary"
    assert visit.page.locator("#glossary").is_visible()


def test_pictures_of_a_timeline_in_a_folder_of_any_name_are_found(visit: Visit, tmp_path: Path) -> None:
    """By the links of the README beside it, which a browser is given as they are written."""
    figures = timeline.write_timeline(timeline.timeline([study_builder.study()]), tmp_path / ODD_NAME)
    assert pictures.write_pictures(figures, tmp_path / ODD_NAME) == ""
    paths = [f"{ODD_NAME}/{name}" for name in figures]
    links = re.findall(r"^!\[\S+\]\((\S+)\)$", timeline.timeline_markdown(timeline.timeline([]), paths), re.MULTILINE)
    assert len(links) == len(paths) > 0

    (tmp_path / "readme.html").write_text("".join(f'<img src="{link}">' for link in links))
    visit.page.goto((tmp_path / "readme.html").as_uri())
    widths = visit.page.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert len(widths) == len(links) and all(width > 0 for width in widths)


# --- the table of all trials ---


def column(visit: Visit, place: int) -> list[str]:
    """The words of a column of the rows that are shown; place 1 is the trial's number."""
    cells = visit.page.locator(f".trials tbody tr:not([hidden]) td:nth-child({place + 1})")
    return cells.evaluate_all("cells => cells.map(cell => (cell.querySelector('span') || cell).textContent)")


def test_trials_are_sorted_by_a_heading_and_filtered_by_words(visit: Visit, tmp_path: Path) -> None:
    visit.open(write_report(study_builder.study(), tmp_path))
    assert column(visit, 1)[:3] == ["6", "9", "1"], "best first"

    visit.page.locator(".trials th button", has_text="seconds").click()
    seconds = [float(words.replace(",", "")) for words in column(visit, 6)]
    assert seconds == sorted(seconds)
    visit.page.locator(".trials th button", has_text="seconds").click()
    assert [float(words.replace(",", "")) for words in column(visit, 6)] == seconds[::-1]
    assert visit.page.locator(".trials th[aria-sort=descending]").inner_text().startswith("seconds")

    # What has no loss comes last, whichever way the others are sorted.
    for _ in range(2):
        visit.page.locator(".trials th button").nth(3).click()
        assert column(visit, 4)[-6:] == ["–"] * 6

    visit.page.locator("input[type=search]").fill("pruned 0.3")
    assert column(visit, 1) == ["8"]
    expect(visit.page.locator(".tools [role=status]")).to_have_text("1 of 12")
    assert visit.quiet(), visit


def test_any_two_trials_are_seen_side_by_side(visit: Visit, tmp_path: Path) -> None:
    visit.open(write_report(study_builder.study(), tmp_path))
    side = visit.page.locator(".side")
    assert side.locator("tr").first.inner_text().split() == ["trial", "0", "6"], "default and winner, without a script"

    for trial in ("9", "3", "1"):
        visit.page.get_by_label(f"Compare trial {trial}", exact=True).check()
    assert side.locator("tr").first.inner_text().split() == ["trial", "3", "1"], "the last two that were ticked"
    assert not visit.page.get_by_label("Compare trial 9", exact=True).is_checked()
    different = side.locator(".differs th").all_inner_texts()
    assert "optim.muon_lr" in different and "optim.grad_accum_steps" not in different
    assert visit.quiet(), visit


def test_a_trials_log_is_one_click_away(visit: Visit, tmp_path: Path) -> None:
    run = study_builder.FinishedDirectory(tmp_path)
    (tmp_path / "trials/0006").mkdir(parents=True)
    (tmp_path / "trials/0006/log.txt").write_text("step 1: loss 6.0")
    visit.open(write_report(replace(study_builder.study(), run=run), tmp_path / "report"))

    links = visit.page.locator(".trials a")
    assert links.count() == 1, "only logs that are there"
    links.click()
    assert visit.page.locator("body").inner_text() == "step 1: loss 6.0"


def test_without_a_script_the_table_is_plain_and_whole(browser: Browser, tmp_path: Path) -> None:
    path = write_report(study_builder.study(), tmp_path)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())

    assert page.locator(".trials tbody tr").count() == 12 and page.locator(".side tr").count() == 11
    assert not page.locator(".tools").is_visible() and page.locator(".trials input").count() == 0
    context.close()


def test_names_in_the_table_stay_text_when_they_are_compared(visit: Visit, tmp_path: Path) -> None:
    visit.open(write_report(study_builder.hostile_study(), tmp_path))
    for trial in ("2", "3"):
        visit.page.get_by_label(f"Compare trial {trial}", exact=True).check()
    visit.page.locator("input[type=search]").fill("<script>")
    visit.page.locator(".trials th button").last.click()

    assert visit.quiet(), visit
    assert visit.page.evaluate("typeof window.ran") == "undefined"
    assert visit.page.locator("img").count() == 0


def test_the_first_screen_has_verdict_promoted_cost_and_next_command(browser: Browser, tmp_path: Path) -> None:
    path = write_report(study_builder.attributed_study(), tmp_path)
    for width, height in ((1200, 800), (390, 844)):
        context = browser.new_context(viewport={"width": width, "height": height})
        page = context.new_page()
        page.goto(path.as_uri())
        for words in ("h1", ".key div:last-child", ".next code"):
            box = page.locator(words).first.bounding_box()
            assert box is not None and box["y"] + box["height"] <= height, (width, words)
        context.close()


def test_a_renewed_page_keeps_how_its_trials_are_shown(visit: Visit, tmp_path: Path) -> None:
    path = write_report(study_builder.running_study(), tmp_path, renewed_s=600)
    visit.page.clock.install()
    visit.open(path)
    visit.page.locator("input[type=search]").fill("finished")
    visit.page.locator(".trials th button", has_text="seconds").click()
    visit.page.get_by_label("Compare trial 3", exact=True).check()
    before = column(visit, 1)
    visit.page.evaluate("document.body.dataset.old = 1")
    visit.page.clock.fast_forward(600_000)

    visit.page.locator("body:not([data-old])").wait_for(state="attached")
    visit.page.locator("html[data-drawn=all]").wait_for(state="attached")
    assert column(visit, 1) == before == ["1", "0", "3"]
    assert visit.page.get_by_label("Compare trial 3", exact=True).is_checked()
