"""All studies in the order of time: rows, groups, Markdown, figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import study_builder

from autotune.core.errors import UserError
from autotune.store.study_record import StudyRecord
from reports import timeline as history
from reports.sentences.study_row import study_row


def of(name: str, created: str, word: str = "better", gain: float = 0.38, **changes: object) -> StudyRecord:
    record = study_builder.study(spec=study_builder.spec(name, **changes), created_at=created)
    said = study_builder.verdict(
        word, baseline_loss=5.0, winner_loss=5.0 - gain, gain=gain, gain_low=gain - 0.05, gain_high=gain + 0.05
    )
    return replace(record, verdict=said)


@pytest.fixture
def three() -> history.Timeline:
    running = replace(study_builder.running_study(), spec=study_builder.spec("third"), created_at="2026-03-01")
    running = replace(running, run=study_builder.HeldDirectory(Path("runs/third")))
    longer = of("longer", "2026-02-01", "no clear gain", 0.02, budget={"tokens": 2000, "trials": 12})
    return history.timeline([running, longer, of("first", "2026-01-01T20:00:00+00:00")], {"broken": "torn | file"})


def test_rows_are_oldest_first_and_say_how_sure(three: history.Timeline) -> None:
    first, longer, third = history._table_cells(three)

    assert first[:2] == ["2026-01-01", "first"]
    assert first[2].startswith("optim.muon_lr 0.02 → 0.05")
    assert first[3:5] == ["5.0000 → 4.6200", "−7.6 %"]
    assert first[6:] == ["20.0 % → 21.5 %", "better: gain +6.6 % to +8.6 %, 3 pairs of runs", "A"]
    assert longer[7] == "no clear gain: gain −0.6 % to +1.4 %, 3 pairs of runs"
    assert third[1] == "third" and third[4] == "–" and third[7] == "still running"


def test_losses_are_grouped_by_what_they_mean(three: history.Timeline) -> None:
    assert three.kinds == ["A", "B", "A"]
    assert three.meanings["A"].startswith("1K tokens a trial, text abc123")
    assert three.meanings["B"].startswith("2K tokens a trial")


def test_markdown_is_a_table_that_names_cannot_break(three: history.Timeline) -> None:
    text = history.timeline_markdown(three, ["shots/gains.png"])
    rows = [line for line in text.splitlines() if line.startswith("| 2026")]

    assert len(rows) == 3 and all(row.replace("\\|", "").count("|") == len(history.heads(three)) + 1 for row in rows)
    assert "broken could not be read: torn \\| file" in text
    assert "![gains](shots/gains.png)" in text
    assert text.startswith(history.BEGIN) and text.endswith(f"{history.END}\n")


def test_a_readme_gets_the_section_once(three: history.Timeline) -> None:
    section = history.timeline_markdown(three)
    once = history.put_into("# Mine\n\ntext\n", section)

    assert once == f"# Mine\n\ntext\n\n{section}"
    assert history.put_into(once, section) == once
    assert history.put_into(f"a\n{section}b\n", f"{history.BEGIN}\nnew\n{history.END}\n") == (
        f"a\n{history.BEGIN}\nnew\n{history.END}\nb\n"
    )
    assert history.put_into("", section) == section
    assert history.put_into("of Windows\r\n", "a\nb\n") == "of Windows\r\n\r\na\r\nb\r\n"


def test_letters_go_on_after_z() -> None:
    records = [of(f"s{place:02}", "2026", budget={"tokens": 1000 + place, "trials": 12}) for place in range(28)]
    assert history.timeline(records).kinds[24:] == ["Y", "Z", "AA", "AB"]


def test_names_stay_text_in_the_page(tmp_path: Path) -> None:
    hostile = study_builder.hostile_study()
    history.write_timeline(history.timeline([hostile, of("first", "2026")], {"<img src=x>": "<b>"}), tmp_path)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")

    assert "<img" not in page.split("<main", 1)[1].split("</main>", 1)[0]
    assert "&lt;img src=x&gt; could not be read: &lt;b&gt;" in page


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no study in {tmp_path}; `autotune run` makes one"):
        history.read_timeline(tmp_path)


def test_a_damaged_study_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "spec.json").write_text("{}")
    with pytest.raises(UserError, match=r"no study in .* can be read \(torn: .*; `autotune run` makes one"):
        history.read_timeline(tmp_path)


def test_a_study_without_verdict_has_no_gain() -> None:
    row = study_row(study_builder.running_study())

    assert row.gain_frac is None and row.moved == "–" and row.sure == "still running"
