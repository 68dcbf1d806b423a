"""What changes for the long run: rows, losses, words, the figure's traces, and where the page shows them."""

from __future__ import annotations

from dataclasses import replace

import study_builder

from autotune.core.metric import TEXT_LOSS
from autotune.core.promotion_results import Bracket, LengthChange, Promotion, Scaling
from autotune.store.study_record import StudyRecord
from reports.figures.brackets import brackets
from reports.figures.study_cards import draw_cards
from reports.markdown import report_markdown
from reports.sentences import promotion
from reports.tables.promotion import bracket_table, promotion_table

FOUND = Promotion(
    trial=3,
    trial_tokens=1_000,
    tokens=9_000,
    scaling=Scaling(0.5, 0.4, 0.6, 0.3, 0.1),
    changes=(LengthChange("optim.muon_lr", 0.02, 0.01, "learning rate x 0.5"),),
    brackets=(
        Bracket(1_000, (0.5, 1.0, 2.0), (4.1, 4.0, 4.2)),
        Bracket(3_000, (0.35, 0.7, 1.4), (3.8, 3.7, None)),
        Bracket(3_000, (1.0, 2.0), (3.7, 3.6), "batch"),
    ),
    batch=Scaling(3.0, 1.5, 6.0, 0.5, 0.1),
    batch_worth=(0.006, 0.0314),
    repeats="the run reads its text 9.0 times, a trial 1.0 times",
)


def with_promotion(found: Promotion) -> StudyRecord:
    record = study_builder.attributed_study()
    return study_builder.with_attributes(record, promotion=found.to_json())


def test_rows_and_losses() -> None:
    assert promotion_table(FOUND).to_numpy().tolist() == [["optim.muon_lr", 0.02, 0.01, "learning rate x 0.5"]]
    table = bracket_table(FOUND)
    assert table["factor"].tolist() == [0.5, 1.0, 2.0, 0.35, 0.7, 1.4, 1.0, 2.0]
    assert table["multiplied"].tolist() == 6 * ["learning rates"] + 2 * ["batch"]
    assert table["loss"].tolist()[:5] == [4.1, 4.0, 4.2, 3.8, 3.7] and table["loss"].isna().tolist()[5]


def said_of(long_run: Promotion) -> list[str]:
    return promotion.sentences(long_run, TEXT_LOSS)


def test_words_say_what_changes_by_what_evidence() -> None:
    said = " ".join(said_of(FOUND))
    assert "For a run 9.0 times as long as a trial" in said
    assert "multiplied by 0.50 (95 % interval 0.40 to 0.60)" in said
    assert "So the batch is multiplied by 3.00 (95 % interval 1.50 to 6.00)" in said
    assert "Keeping the trial's would cost about 0.6 to 3.1 % of the loss" in said
    assert "at lower and higher batches and learning rates are shown below" in said
    assert "optim.muon_lr 0.02 → 0.01 (learning rate x 0.5)" in said
    assert said.endswith("The run reads its text 9.0 times, a trial 1.0 times.")
    unchecked = " ".join(said_of(replace(FOUND, brackets=(), note="not checked by shorter runs")))
    assert "what is known of other runs (not checked by shorter runs)" in unchecked
    kept = " ".join(said_of(replace(FOUND, batch=None, batch_worth=None)))
    assert "batch" not in kept and "The best learning rate moves with the length of a run. For a run" in kept
    least = " ".join(said_of(replace(FOUND, has_least_batch=True, batch_worth=None)))
    assert least.startswith("The smallest batch that was searched won") and "a batch of text" not in least
    others = said_of(replace(FOUND, best_batch=0.5))
    assert others[0].startswith(f"The best trials had smaller batches than trial {FOUND.trial}. ")
    assert "best trials" not in " ".join(said_of(replace(FOUND, best_batch=0.9)))
    shorter = said_of(replace(FOUND, batch=Scaling(0.5, 0.2, 0.9, 0.5, 0.1)))
    assert shorter[0] == "The batch is multiplied by 0.50 (95 % interval 0.20 to 0.90)."
    as_is = said_of(Promotion(3, 1_000, 9_000, None, note="as requested"))
    assert as_is == ["The long run takes the settings of trial 3 as they are (as requested)."]


def test_a_figure_has_a_line_for_each_length_and_marks_the_choice() -> None:
    figure, of_batch = brackets(FOUND)
    assert (list(of_batch.data[0].x), of_batch.layout.shapes[0].x0) == ([1.0, 2.0], 3.0)
    assert [trace.name for trace in figure.data] == ["1K tokens", "3K tokens"]
    assert list(figure.data[0].x) == [0.5, 1.0, 2.0] and list(figure.data[0].y) == [4.1, 4.0, 4.2]
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.shapes[0].x0 == 0.5


def test_page_and_markdown_show_it_once_there_is_something() -> None:
    record = with_promotion(FOUND)
    card = next(card for card in draw_cards(record) if card.key == "promotion")
    assert (card.problem, len(card.plots), len(card.rows)) == ("", 2, 8)
    text = report_markdown(record)
    assert "## Settings for the long run" in text and "| 3000 | learning rates | 0.35 | 3.8 |" in text
    unchecked = with_promotion(replace(FOUND, brackets=()))
    card = next(card for card in draw_cards(unchecked) if card.key == "promotion")
    assert (card.problem, len(card.plots), len(card.rows)) == ("", 0, 1)
    assert "promotion" not in [card.key for card in draw_cards(study_builder.attributed_study())]


def test_names_in_it_stay_text() -> None:
    for payload in study_builder.PAYLOADS:
        found = replace(FOUND, changes=(LengthChange(payload, 1.0, 2.0, "learning rate x 2"),))
        card = next(card for card in draw_cards(with_promotion(found)) if card.key == "promotion")
        assert "\x1b" not in card.sentence and "\x00" not in card.sentence
