import csv
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import study_builder
from plotly.offline import get_plotlyjs_version

from autotune.core.attributes import Snapshot, StudyAttributes
from autotune.core.promotion_results import Promotion
from autotune.store.study_record import StudyRecord
from reports import page
from reports.figures import figure_cards, study_cards
from reports.figures.study_tables import StudyTables
from reports.markdown import report_markdown


class Outline(HTMLParser):
    """Collects headings, scripts, ids and attributes that could run code."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.scripts: list[str] = []
        self.ids: list[str] = []
        self.handlers: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag == "script":
            self.scripts.append(values.get("type") or "javascript")
        self.ids += [values["id"]] if values.get("id") else []
        self.handlers += [name for name in values if name.startswith("on")]
        self.links += [value for name, value in attrs if name in ("src", "href") and value]


def outline(html: str) -> Outline:
    found = Outline()
    # The parser is slow on plotly's 1.2 MB, which is not ours to check.
    found.feed(re.sub(r"(<script[^>]*>)/\*\*\n\* plotly.js.*?</script>", r"\1</script>", html, flags=re.DOTALL))
    return found


@pytest.mark.parametrize("name", study_builder.STUDIES)
def test_every_kind_of_study_gets_a_whole_report(name: str, tmp_path: Path) -> None:
    path = page.write_report(study_builder.STUDIES[name](), tmp_path / "report")

    files = {file.name for file in path.parent.iterdir()}
    assert path.name == "index.html"
    assert files == {"index.html", "report.md", "report.json", "trials.csv", "curves.csv"}
    html = path.read_text(encoding="utf-8")
    assert "Could not draw" not in html
    found = outline(html)
    assert len(found.ids) == len(set(found.ids))
    assert found.levels[0] == 1 and found.levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(found.levels, found.levels[1:], strict=False))
    assert not found.handlers
    assert all(link.startswith(("#", "data:")) for link in found.links)
    assert path.stat().st_size < 6_000_000


def test_sections_are_in_the_order_of_the_specification(night: StudyRecord) -> None:
    html = page.study_page(night)
    order = [
        'class="hero better"', "<dt>Promoted</dt>", "<dt>Cost</dt>", 'id="next"', 'id="before-after"', 'id="how-sure"',
        'id="cost"', 'id="changed"', 'id="trials"', 'id="figures"', 'id="health"', 'id="failed"', 'id="provenance"',
        'id="glossary"',
    ]  # fmt: skip
    places = [html.index(mark) for mark in order]

    assert places == sorted(places)


def test_figure_cards_are_in_order_each_with_a_sentence_and_a_table(forty: StudyRecord) -> None:
    drawn = study_cards.draw_cards(forty)

    assert [card.key for card in drawn] == [
        "best-so-far", "finals", "which-change", "learning-curves", "settings", "importance", "pairs", "pruning",
        "timeline", "gpu", "speed", "parallel",
    ]  # fmt: skip
    assert all(card.sentence and card.plots and card.rows and not card.problem for card in drawn)
    html = page.study_page(forty)
    assert html.count("<figure>") == html.count("<figcaption>") == len(drawn)
    assert html.count('class="plot"') == html.count('type="application/json"') == len(drawn) - 2 + 4 + 3


def test_plotly_is_inlined_once_and_left_out_where_nothing_is_drawn(night: StudyRecord) -> None:
    assert page.study_page(night).count("* plotly.js (") == 1
    assert page.study_page(study_builder.empty_study()).count("* plotly.js (") == 0


def test_the_vendored_plotly_is_of_the_version_of_the_python_package() -> None:
    found = re.search(r"\* plotly\.js \(basic - minified\) v([\d.]+)\n", page.PLOTLY.read_text(encoding="utf-8"))

    assert found is not None
    assert found[1] == get_plotlyjs_version(), "reports/vendor/README.md says how to renew it"
    assert f"plotly.js {found[1]} " in (page.PLOTLY.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", study_builder.STUDIES)
def test_figures_have_no_trace_that_the_vendored_plotly_lacks(name: str) -> None:
    drawn = [plot for card in study_cards.draw_cards(study_builder.STUDIES[name]()) for plot in card.plots]

    assert {trace.type for plot in drawn for trace in plot.data} <= {"scatter", "bar"}


def test_only_scripts_with_the_stated_hashes_may_run(night: StudyRecord) -> None:
    html = page.study_page(night)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)

    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1] or "default-src 'none'" in policy[1]
    assert "unsafe-eval" not in policy[1] and "http:" not in policy[1] and "https:" not in policy[1]
    assert not re.search(r"script-src[^;]*unsafe-inline", policy[1])
    scripts = re.findall(r"<script(?: type=\"text/plain\" id=\"plotly\")?>(.*?)</script>", html, flags=re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        assert page._digest(script) in policy[1].replace("&#43;", "+")


@pytest.mark.parametrize("key", study_cards.CARDS)
def test_a_card_that_raises_costs_only_itself(
    key: str, night: StudyRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(study: StudyTables) -> figure_cards.Drawn:
        raise ZeroDivisionError("<b>the axis</b> is empty")

    title, _ = study_cards.CARDS[key]
    monkeypatch.setitem(study_cards.CARDS, key, (title, broken))
    points = [{"tokens_seen": 1, "val_loss": 5.0}]
    # One for which every card is drawn.
    spec = night.spec.model_copy(update={"objective": "loss_and_seconds"})
    promoted = Promotion(0, 1_000, 8_000, None).to_json()
    attributes = {"full": {"status": "finished", "points": points}, "promotion": promoted}
    record = replace(night, spec=spec, attributes=StudyAttributes(Snapshot(attributes)))
    html = page.write_report(record, tmp_path).read_text(encoding="utf-8")

    assert html.count("Could not draw: &lt;b&gt;the axis&lt;/b&gt; is empty") == 1
    assert html.count("<figure>") >= 8
    assert (tmp_path / "report.json").exists()


def test_a_table_that_raises_costs_only_its_cards(night: StudyRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(trials: object) -> None:
        raise ValueError("torn")

    monkeypatch.setattr("reports.figures.study_tables.curves_table", broken)
    problems = {card.key: card.problem for card in study_cards.draw_cards(night) if card.broken}

    assert problems == {"learning-curves": "Could not draw: torn"}


def test_names_are_never_html_script_template_or_formula(tmp_path: Path) -> None:
    path = page.write_report(study_builder.hostile_study(), tmp_path)
    html = path.read_text(encoding="utf-8")
    found = outline(html)

    assert "Could not draw" not in html
    assert (found.scripts.count("javascript"), found.scripts.count("text/plain")) == (1, 1)
    assert not found.handlers
    assert "<img src=x" not in html and "<svg onload" not in html and "<script>window" not in html
    assert "{{7*7}}" in html and "\x1b" not in html and "\0" not in html
    plots = re.findall(r'<script type="application/json">(.*?)</script>', html, flags=re.DOTALL)
    assert plots and not any("<" in plot or ">" in plot for plot in plots)
    texts = json.dumps([json.loads(plot) for plot in plots])
    assert "<script>" not in texts and "<img" not in texts, "plotly would read tags in its texts"
    assert "<script" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    with (tmp_path / "trials.csv").open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert any(cell.startswith("'=HYPERLINK") for cell in cells)
    assert not any(cell.startswith(("=", "@")) for cell in cells)


def test_json_twin_holds_the_page_without_nan(night: StudyRecord, tmp_path: Path) -> None:
    record = study_builder.study(verdict=study_builder.verdict(gain_low=math.nan, winner_metrics={"x": math.inf}))
    page.write_report(record, tmp_path)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    assert content["headline"]["word"] == "better"
    assert content["verdict"]["gain_low"] is None and content["verdict"]["winner_metrics"]["x"] is None
    assert content["cost"]["counts"]["pruned"] == 2
    assert content["next"]["command"] == "autotune promote night"
    assert [check["status"] for check in content["health"]].count("warn") == 3
    assert content["provenance"]["git commit"] == "fedcba" and content["provenance"]["torch version"] == "2.10"


def test_csv_twins_hold_every_trial_and_evaluation(night: StudyRecord, tmp_path: Path) -> None:
    page.write_report(night, tmp_path)
    with (tmp_path / "trials.csv").open(encoding="utf-8", newline="") as file:
        trials = list(csv.DictReader(file))
    with (tmp_path / "curves.csv").open(encoding="utf-8", newline="") as file:
        curves = list(csv.DictReader(file))

    assert len(trials) == 12 and trials[6]["loss"] == "4.6" and trials[6]["params_optim.muon_lr"] == "0.05"
    assert trials[5]["status"] == "out of memory" and trials[5]["loss"] == ""
    assert len(curves) == 32 + 8 * 4
    assert {row["queue"] for row in curves} == {"search", "finals"}


def test_markdown_twin_says_the_same(night: StudyRecord, tmp_path: Path) -> None:
    page.write_report(night, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")

    assert text.startswith("# A night of search\n\n**✓ better**: Better settings were found")
    assert "| Loss | 5.020 | 4.640 | 7.6 % lower |" in text
    assert "    autotune promote night\n" in text


def test_provenance_names_seeds_and_both_configurations(night: StudyRecord) -> None:
    trials = list(night.trials)
    trials[6] = replace(trials[6], result=replace(trials[6].result, config={"optim": {"muon_lr": 0.0512}}))
    spec = study_builder.spec(seed=0)
    html = page.study_page(replace(night, trials=tuple(trials), spec=spec))

    assert "<dt>seed of the search</dt><dd>0</dd>" in html
    assert "<dt>seeds of the finals</dt><dd>1001, 1002, 1003, 1004</dd>" in html
    assert f"<dt>spec hash</dt><dd>{spec.fingerprint()}</dd>" in html
    assert "&#34;muon_lr&#34;: 0.0512" in html and "&#34;muon_lr&#34;: 0.02" in html


def test_settings_that_are_not_proven_are_called_so(night: StudyRecord) -> None:
    tie = replace(night, verdict=study_builder.verdict("no clear gain"))

    html = page.study_page(tie)
    assert "the default stays in use" in html
    assert "7.6 % lower, may be chance" in html and "lower, better" not in html
    assert "7.6 % lower, better" in page.study_page(night)
    assert "the default stays in use" not in page.study_page(night)


def test_the_report_is_a_pure_function_of_the_record(night: StudyRecord, tmp_path: Path) -> None:
    first = page.write_report(night, tmp_path / "a").read_bytes()

    assert page.write_report(study_builder.study(), tmp_path / "b").read_bytes() == first


def test_the_full_run_and_what_it_writes_are_shown(night: StudyRecord) -> None:
    full = {
        "status": "finished", "tokens": 8000, "val_loss": 4.1, "seconds": 1600.0, "trial": 6,
        "sample": "The state\nof the union", "points": [{"tokens_seen": 8000, "val_loss": 4.1}],
    }  # fmt: skip
    html = page.study_page(study_builder.with_attributes(night, full=full))

    assert 'id="full-run"' in html and "The state\nof the union" in html
    assert "autotune promote night --tokens 16000" in html
    assert 'id="full-run"' not in page.study_page(night)


def test_a_large_study_fits_the_page(tmp_path: Path) -> None:
    path = page.write_report(study_builder.large_study(1000, 50), tmp_path)

    assert path.stat().st_size < 6_000_000


def test_markdown_twin_shows_pictures_where_they_are(night: StudyRecord) -> None:
    shown = report_markdown(night, [("Best so far", "Lower | better. " + 60 * "words ", ["a.png", "a-2.png"])])

    assert "### Best so far\n\nLower \\| better. words" in shown
    assert "![Best so far](a.png)\n![Best so far](a-2.png)" in shown
    assert "in pictures" not in report_markdown(night)


def test_markdown_twin_escapes_the_metrics_own_names_everywhere(night: StudyRecord) -> None:
    spec = night.spec.model_copy(update={"objective": "loss_and_seconds"})
    named = {"name": "top|5 <b>", "budget_unit": "steps|<i>"}
    shown = report_markdown(study_builder.with_attributes(replace(night, spec=spec), metric=named))

    assert "| number | top\\|5 &lt;b&gt; | training\\_s |" in shown
    assert "<b>" not in shown and "<i>" not in shown


def test_summary_lines_for_the_console(night: StudyRecord) -> None:
    lines = page.summary_lines(night)

    assert lines[0].startswith("✓ better: Better settings were found")
    assert lines[1].startswith("loss 5.020 → 4.640; perplexity 151.4 → 103.5; accuracy 20.0 % → 21.5 %")
    assert "95 % interval +0.3552 to +0.4048" in lines[2]
    assert lines[-2] == "Train the full model with the settings found."
    assert lines[-1] == "next: autotune promote night (8K tokens, about 13 min, 2.0 GiB of memory)"
    assert page.summary_lines(study_builder.empty_study())[-1] == "next: autotune watch night"


def test_a_study_without_a_trial_has_no_pictures_and_names_none(tmp_path: Path) -> None:
    empty = study_builder.study(trials=(), finals=(), verdict=None, gpu=(), events=())
    assert page.add_pictures(empty, tmp_path) == "no pictures: there is nothing to draw yet"
    assert not list(tmp_path.iterdir())
