"""Which change gave what: its rows, words and card, and what the whole page says is promoted."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import study_builder
from study_builder import around, attributed_study, change

from autotune.core.attributes import Snapshot, StudyAttributes
from autotune.core.config_paths import get_path
from autotune.core.metric import TEXT_LOSS
from autotune.core.promotion_results import Promotion
from autotune.core.study_results import AttributedChange, Attribution
from autotune.finals.runner import NO_TIME, NOT_ALL_ENDED
from autotune.promotion.best_config import best_config_of
from autotune.promotion.selection import attribution_of, select_trial_to_promote
from autotune.store.run_directory import RunDirectory
from autotune.store.study_record import StudyRecord
from autotune.study.trainer import load_trainer
from reports import page
from reports.exports import report_json
from reports.figures.study_cards import draw_cards
from reports.markdown import report_markdown
from reports.sentences import attribution
from reports.sentences.before_after import before_after
from reports.sentences.changes import setting_changes
from reports.sentences.cost import cost, cost_rows
from reports.sentences.how_sure import how_sure
from reports.sentences.study_row import study_row
from reports.sentences.verdict import verdict_summary
from reports.tables.attribution import attribution_table, attribution_words
from reports.tables.finals import finals_runs
from reports.tables.ranges import settings_at_edges

AS_IS = Promotion(0, 1_000, 8_000, None)
TIES = ["model.dropout", "optim.adamw_lr", "optim.decay_frac"]
LEFT = "Left at default, since no difference could be measured: model.dropout, optim.adamw_lr and optim.decay_frac."


@pytest.fixture
def record() -> StudyRecord:
    return attributed_study()


def card(record: StudyRecord, key: str = "which-change") -> Any:
    return next(card for card in draw_cards(record) if card.key == key)


def found(*changes: AttributedChange, **others: Any) -> Attribution:
    """What is promoted is the winner without its ties, unless others say otherwise."""
    params = {each.path: each.before if each.is_tie else each.after for each in changes}
    return study_builder.attribution(changes=changes, **{"params": params, **others})


# --- rows and words ---


def test_rows_are_the_changes_in_the_order_of_the_path() -> None:
    table = attribution_table(study_builder.attribution()).set_index("path")

    assert list(table.index) == ["optim.muon_lr", "model.num_experts", "optim.warmup_frac", *TIES]
    assert tuple(table.loc["optim.muon_lr", ["gain", "gain_low", "gain_high"]]) == around(0.25)
    assert tuple(table.loc["optim.decay_frac", ["harm", "harm_low", "harm_high"]]) == around(-0.01)
    assert list(table["word"]) == ["counts"] * 3 + ["tie"] * 3
    assert list(table["left"]) == [False] * 3 + [True] * 3
    assert (table.at["model.num_experts", "before"], table.at["model.num_experts", "after"]) == (8, 16)


def test_a_tie_that_did_measurable_harm_is_called_worse() -> None:
    table = attribution_table(found(change("a", 0, 1, 0.0, -0.04, True), change("b", 0, 1, -0.04, 0.0, True)))

    assert list(table["word"]) == ["worse", "worse"]


def test_words_name_what_was_not_measured() -> None:
    table = attribution_table(found(change("a", 0.5, 2, None, None, False), change("b", True, False, 0.1, -0.2, True)))

    assert attribution_words(table, TEXT_LOSS).to_numpy().tolist() == [
        ["a", "0.5", "2", "not measured", "cannot be trained without it", "counts: kept"],
        ["b", "on", "off", "+0.1000 (+0.0700 to +0.1300)", "−0.2000 (−0.2300 to −0.1700)", "worse: left at default"],
    ]
    assert list(attribution_words(table, TEXT_LOSS).columns) == [
        "setting", "default", "winner", "gained when added in this order", "lost without it", "what follows",
    ]  # fmt: skip


# --- sentences ---


def test_the_sentence_names_the_largest_gain_and_the_ties() -> None:
    assert attribution.sentences(study_builder.attribution(), TEXT_LOSS) == [
        "optim.muon_lr gave +0.2500 of the +0.3800 gained in loss on 2 fresh seeds, model.num_experts +0.0800 and "
        "optim.warmup_frac +0.0500.",
        "No difference could be measured for model.dropout, optim.adamw_lr and optim.decay_frac, so they stay at "
        "their defaults.",
    ]


COUNTING = change("a", 0, 1, 0.3, 0.2, False)
TIE = change("b", 0, 1, 0.0, 0.0, True)


@pytest.mark.parametrize(
    ("changes", "others", "expected"),
    [
        ([COUNTING], {}, ["a is the only change, so the whole gain of +0.3800 in loss comes from it."]),
        ([COUNTING, TIE], {}, [
            "a gave +0.3000 of the +0.3800 gained in loss on 2 fresh seeds.",
            "No difference could be measured for b, so it stays at its default.",
        ]),
        ([COUNTING, change("c", 0, 1, 0.0, -0.1, True)], {}, [
            "a gave +0.3000 of the +0.3800 gained in loss on 2 fresh seeds.",
            "The loss was higher with c, so it stays at its default.",
        ]),
        ([TIE, replace(TIE, path="c")], {"params": {"b": 1, "c": 1}}, [
            "No gain could be measured for b and c alone, but together they matter, so they are kept.",
        ]),
        ([change("a", 0, 1, None, None, False), COUNTING], {"params": {"a": 1}}, [
            "a gave +0.3000 of the +0.3800 gained in loss on 2 fresh seeds.",
            "What a gave is not known, since a training needed to measure it failed.",
            "Without a, the winner cannot be trained.",
        ]),
        # Its condition went back to the default: without that it has no effect and is not promoted either.
        ([TIE, replace(COUNTING, path="c")], {"params": {"b": 0}}, [
            "No difference could be measured for b and c, so they stay at their defaults.",
        ]),
    ],
)  # fmt: skip
def test_sentences(changes: list[AttributedChange], others: dict[str, Any], expected: list[str]) -> None:
    assert attribution.sentences(found(*changes, **others), TEXT_LOSS) == expected


# --- the card ---


def test_the_card_comes_after_the_finals_with_its_table(record: StudyRecord) -> None:
    keys, drawn = [each.key for each in draw_cards(record)], card(record)

    assert keys.index("which-change") == keys.index("finals") + 1
    assert drawn.sentence.startswith("optim.muon_lr gave +0.2500") and "2 fresh seeds" in drawn.sentence
    assert len(drawn.rows) == 6
    assert drawn.rows[3] == [
        "model.dropout", "0", "0.05", "+0.0100 (−0.0200 to +0.0400)", "+0.0050 (−0.0250 to +0.0350)",
        "tie: left at default",
    ]  # fmt: skip


def without(record: StudyRecord, why: str = "", **finals: int) -> StudyRecord:
    stored = {"why_no_attribution": why} if why else {}
    spec = study_builder.spec(finals={**record.spec.finals.model_dump(), **finals})
    return replace(record, attributes=StudyAttributes(Snapshot(stored)), spec=spec)


def unfinished(record: StudyRecord) -> StudyRecord:
    return replace(without(record), run=RunDirectory(Path("runs/night")))


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda record: replace(record, verdict=None), "after the finals"),
        (lambda record: replace(record, verdict=study_builder.verdict("inconclusive")), "no settings were proved"),
        (lambda record: without(record, attribute_seeds=0), "(finals.attribute_seeds = 0)"),
        (lambda record: without(record, NO_TIME), "no time was left for it"),
        (lambda record: without(record, NOT_ALL_ENDED), "not all of its trainings came to an end"),
        # As a study of an earlier version has it, which stored no reason.
        (without, "it was not measured, so all changes are kept"),
        (unfinished, "have not finished yet"),
    ],
)
def test_without_it_the_card_says_why(made: Any, reason: str, record: StudyRecord) -> None:
    drawn = card(made(record))

    assert drawn.problem.startswith("Not drawn: ") and reason in drawn.problem and not drawn.broken
    assert "Not known: " in report_markdown(made(record))


def test_what_was_found_of_another_winner_is_not_used(record: StudyRecord) -> None:
    other = replace(record, verdict=study_builder.verdict(winner=9))

    assert attribution_of(other) is None and attribution.left_line(other) == ""


def test_the_importance_card_points_to_it(forty: StudyRecord) -> None:
    assert "not the same question" in card(forty, "importance").sentence
    assert "“Which change gave what” above" in card(forty, "importance").sentence


# --- what the page says is promoted ---


def test_report_and_best_config_agree(record: StudyRecord) -> None:
    trial, why = select_trial_to_promote(record)
    written = best_config_of(load_trainer("fake_trainer:train"), record, trial, why, AS_IS).config

    for item in setting_changes(record):
        assert get_path(written, item.path) == item.after
    assert [item.path for item in setting_changes(record) if item.changed] == [
        "optim.muon_lr", "model.num_experts", "optim.warmup_frac",
    ]  # fmt: skip
    assert {item.path for item in setting_changes(record) if item.direction == "left at default"} == set(TIES)


def test_what_changed_comes_with_its_share_of_the_gain(record: StudyRecord) -> None:
    said = {item.path: item.direction for item in setting_changes(record)}

    assert said["optim.muon_lr"] == "2.5 times the default, 66 % of the gain"
    assert said["optim.grad_accum_steps"] == "kept" and said["model.dropout"] == "left at default"


def test_ties_are_told_on_the_page_on_the_console_and_in_markdown(record: StudyRecord) -> None:
    assert LEFT in page.study_page(record)
    assert LEFT in page.summary_lines(record)
    assert LEFT.replace("_", "\\_") in report_markdown(record)
    plain = study_builder.study()
    assert "Left at default" not in page.study_page(plain) + report_markdown(plain)


def test_what_did_harm_is_told_apart_from_ties() -> None:
    changes = (COUNTING, TIE, change("c", 0, 1, 0.0, -0.1, True))
    record = attributed_study(changes=changes, params={"a": 1, "b": 0, "c": 0})

    assert attribution.left_line(record) == (
        "Left at default, since no difference could be measured: b. "
        "Left at default, since the loss was higher with the change: c."
    )


def test_the_page_leads_with_what_is_promoted_and_says_the_whole_winner_below(record: StudyRecord) -> None:
    said = (
        "The promoted settings leave 3 of the winner's changes at default. Their gain in loss on 2 fresh seeds was "
        "+0.3750: 4.6450, where the default had 5.0200."
    )
    lines, rows = how_sure(record), {row.name: row for row in before_after(record)}

    # (5.02 - 4.645) / 5.02, and not the 7.6 % of the winner with all its changes.
    assert "loss is 7.5 % below the default's" in verdict_summary(record).sentence
    assert (rows["Loss"].before, rows["Loss"].after) == (5.02, 4.645)
    assert rows["Accuracy"].after == pytest.approx((1 / 4.635 + 1 / 4.655) / 2)
    assert lines[0] == said
    assert any(line.startswith("Measured gain in loss with all changes of the winner: +0.3800;") for line in lines)
    assert page.summary_lines(record)[1].startswith("loss 5.020 → 4.645;")
    row = study_row(record)
    assert (row.measured, row.interval) == ("5.0200 → 4.6450", "–")
    assert row.sure.startswith("better: gain of the winner with all its changes +7.1 %")

    whole = attributed_study(params=dict(record.verdict.params))
    assert said[:20] not in " ".join(how_sure(whole))
    assert before_after(whole)[0].after == 4.64


def test_the_best_configuration_has_the_ties_at_their_default(record: StudyRecord) -> None:
    trials = list(record.trials)
    config = {"optim": {"muon_lr": 0.05, "decay_frac": 0.3, "adamw_lr": 0.002}, "model": {"dropout": 0.05}}
    trials[6] = replace(trials[6], result=replace(trials[6].result, config=config))
    shown = page._best_config(replace(record, trials=tuple(trials)))

    assert json.loads(shown) == {
        "optim": {"muon_lr": 0.05, "decay_frac": 0.2, "adamw_lr": 0.001}, "model": {"dropout": 0.0},
    }  # fmt: skip


def test_a_tie_at_an_edge_calls_for_no_wider_range(record: StudyRecord) -> None:
    params = {"optim.muon_lr": 0.099, "optim.decay_frac": 0.49}

    assert settings_at_edges(record, params) == {"optim.muon_lr": "high"}
    assert settings_at_edges(replace(record, attributes=StudyAttributes(Snapshot({}))), params) == {
        "optim.muon_lr": "high",
        "optim.decay_frac": "high",
    }


def test_runs_without_some_changes_are_not_the_winners_own(record: StudyRecord) -> None:
    assert any(run.stage == "attribute" for run in record.finals)
    pd.testing.assert_frame_equal(finals_runs(record), finals_runs(study_builder.study()))
    assert dict(cost_rows(cost(record)))["Runs on fresh seeds"] == "11"


# --- the twins ---


def test_json_twin_holds_it(record: StudyRecord) -> None:
    content = json.loads(report_json(record))

    assert Attribution.from_json(content["attribution"]) == study_builder.attribution()
    assert content["left_at_default"] == {"model.dropout": 0.0, "optim.adamw_lr": 0.001, "optim.decay_frac": 0.2}
    assert json.loads(report_json(study_builder.study()))["attribution"] is None


def test_markdown_twin_has_its_table(record: StudyRecord) -> None:
    text = report_markdown(record)

    assert (
        "## Which change gave what\n\n- optim.muon\\_lr gave +0.2500 of the +0.3800 gained in loss on 2 fresh seeds"
        in text
    )
    assert "| model.num\\_experts | 8 | 16 | +0.0800 (+0.0500 to +0.1100) |" in text


def test_injected_names_stay_text(tmp_path: Path) -> None:
    path = page.write_report(study_builder.hostile_study(), tmp_path)
    html = path.read_text(encoding="utf-8")

    assert 'id="which-change"' in html and "Could not draw" not in html
    assert "=HYPERLINK" in html and "<img src=x" not in html and "<svg onload" not in html
    assert "<script" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_interval_is_explained_beside_the_gain_that_it_belongs_to() -> None:
    """What is promoted has no interval of its own, so none may stand beside its gain, on the page or on the console."""
    record = attributed_study()
    promoted, measured, explained, *_ = how_sure(record)

    assert promoted.startswith("The promoted settings leave") and "interval" not in promoted
    assert measured.startswith("Measured gain in loss with all changes of the winner:")
    assert "The whole 95 % interval lies above zero" in explained
    assert f"{promoted} {measured}" in page.summary_lines(record)
