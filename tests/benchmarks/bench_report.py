"""Size of the report and seconds until it is written and drawn, of a generated study; start of the command line.

usage: python tests/benchmarks/bench_report.py [--trials 1000] [--points 50] [--repeats 3] [--append]
Drawing needs Chromium and Playwright; without them it is left out.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from results import publish

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "browser"), str(HERE.parent / "support")]
import study_builder  # noqa: E402

from reports.exports import report_json  # noqa: E402
from reports.figures.study_cards import draw_cards  # noqa: E402
from reports.markdown import report_markdown  # noqa: E402
from reports.page import study_page, write_report  # noqa: E402


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Returns the median duration of some work."""
    durations = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        durations.append(time.perf_counter() - began)
    return statistics.median(durations)


def drawn(path: Path, repeats: int) -> list[tuple[str, str]]:
    """Returns what a browser needs for the page, wide and narrow."""
    import shutil

    from conftest import ARGUMENTS, NAMES
    from playwright.sync_api import sync_playwright

    executable = next((found for name in NAMES if (found := shutil.which(name))), None)
    if executable is None:
        return [("drawing", "not measured: no browser")]
    rows: list[tuple[str, str]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        for width in (1200, 390):
            painted, first, taken, page = [], [], [], None
            for _ in range(repeats):
                context = browser.new_context(viewport={"width": width, "height": 900})
                page = context.new_page()
                requests: list[str] = []
                page.on("request", lambda request, seen=requests: seen.append(request.url))
                began = time.perf_counter()
                page.goto(path.as_uri())
                page.locator(".plot svg.main-svg").first.wait_for(state="attached")
                first.append(time.perf_counter() - began)
                page.locator("html[data-drawn=all]").wait_for(state="attached")
                taken.append(time.perf_counter() - began)
                paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
                painted.append(page.evaluate(paint))
            assert page is not None
            asked = [url for url in requests if url != path.as_uri() and not url.startswith("data:")]
            facts: Any = page.evaluate("[document.querySelectorAll('*').length, document.documentElement.scrollWidth]")
            rows += [
                (f"words on the screen in Chromium, {width} px wide", f"{statistics.median(painted):.2f} s"),
                (f"first figure, {width} px wide", f"{statistics.median(first):.2f} s"),
                (f"all figures, {width} px wide", f"{statistics.median(taken):.2f} s"),
                (f"elements of the page, {width} px wide", f"{facts[0]:,}"),
                (f"width it takes of {width} px", f"{facts[1]} px"),
                (f"requests it makes, {width} px wide", str(len(asked))),
            ]
        rows.append(("browser", f"Chromium {browser.version}"))
        browser.close()
    return rows


def main() -> None:
    """Measures, prints and, if asked, appends to RESULTS.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--append", action="store_true")
    options = parser.parse_args()
    record = study_builder.large_study(options.trials, options.points)
    with tempfile.TemporaryDirectory() as folder:
        path = write_report(record, Path(folder))  # imports and caches are warm from here on
        rows = [
            ("index.html", f"{path.stat().st_size / 1e6:.2f} MB"),
            ("all files of the report", f"{sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6:.2f} MB"),
            ("written: all files", f"{seconds(lambda: write_report(record, Path(folder)), options.repeats):.2f} s"),
            ("of that the figures", f"{seconds(lambda: draw_cards(record), options.repeats):.2f} s"),
            ("of that index.html", f"{seconds(lambda: study_page(record), options.repeats):.2f} s"),
            ("of that report.json", f"{seconds(lambda: report_json(record), options.repeats):.2f} s"),
            ("of that report.md", f"{seconds(lambda: report_markdown(record), options.repeats):.2f} s"),
            *drawn(path, options.repeats),
        ]
    helped = [sys.executable, "-m", "autotune", "--help"]
    took = seconds(lambda: subprocess.run(helped, check=True, stdout=subprocess.DEVNULL), 10)
    rows.append(("`autotune --help`, median of 10", f"{1000 * took:.0f} ms"))
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d}: the report of {options.trials:,} generated trials x {options.points} points",
        "",
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, "
        f"plotly {version('plotly')}, pandas {version('pandas')}; `make bench BENCH=report`, medians of "
        f"{options.repeats}",
        "",
        "| what | figure |",
        "|---|---|",
        *(f"| {name} | {figure} |" for name, figure in rows),
    ]
    publish(lines, append=options.append)


if __name__ == "__main__":
    main()
