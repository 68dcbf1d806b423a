"""What the page says of the machines that shared a study."""

from __future__ import annotations

from dataclasses import asdict, replace

import study_builder

from autotune.cli import status
from autotune.core.peers import Peer, stored_peer
from autotune.store.by_machine import by_machine, trained_on
from autotune.store.study_record import StudyRecord
from reports.exports import report_json
from reports.markdown import report_markdown
from reports.page import study_page
from reports.sentences.cost import cost
from reports.sentences.machines import machine_rows, mixed_lines

A10 = Peer("aaaa0001", "rack-1", "NVIDIA A10", "", device_class="NVIDIA A10 in bf16")
T4 = Peer("bbbb0002", "rack-2", "Tesla T4", "", device_class="Tesla T4 in fp16")
AGAIN = replace(A10, id="cccc0003", doing="search")


def shared(night: StudyRecord, *peers: Peer) -> StudyRecord:
    """The night, whose trials these processes have trained in turn; the first one has trained the finals."""
    record = study_builder.with_attributes(night, **dict(map(stored_peer, peers)))
    trials = [replace(trial, peer=peers[place % len(peers)].id) for place, trial in enumerate(record.trials)]
    trials[0] = replace(trials[0], result=replace(trials[0].result, energy_j=7.2e6))  # type: ignore[type-var]
    finals = [replace(run, peer=peers[0].id) for run in record.finals]
    return replace(record, trials=tuple(trials), finals=tuple(finals))


def test_a_table_says_what_each_machine_has_trained(night: StudyRecord) -> None:
    record = shared(night, A10, T4, AGAIN)
    first, second = by_machine(record)
    # Two processes of one machine are one row.
    assert (first.host, first.device, second.host, second.device) == (
        "rack-1", "NVIDIA A10 in bf16", "rack-2", "Tesla T4 in fp16",
    )  # fmt: skip
    own = [trial for trial in record.trials if trial.peer == T4.id]
    losses = sorted(trial.loss for trial in own if trial.loss is not None)
    assert second.finals == 0 and first.finals == len(record.finals)
    assert second.seconds == sum(trial.result.seconds for trial in own if trial.result)
    assert second.best_loss == losses[0] and losses[0] <= second.median_loss <= losses[-1]
    assert (first.energy_j, second.energy_j) == (7.2e6, None)

    assert cost(record).energy_j == 7.2e6  # samples of several machines may be mixed in one file
    pace = trained_on(record, T4.device_class)
    assert {trial.peer for trial in pace.trials} == {T4.id} and pace.finals == () and trained_on(record, "") is record

    rows = machine_rows(record)
    assert rows[0][5] == "2.000 kWh" and rows[1][5] == "not measured"
    page, text = study_page(record), report_markdown(record)
    assert 'id="machines"' in page and "Tesla T4 in fp16" in page and "## By machine" in text
    assert '"host": "rack-2"' in report_json(record)
    state = status.summarize(record)
    assert state["machines"] == [asdict(first), asdict(second)]
    assert "rack-1, NVIDIA A10 in bf16: " in status.describe(state) and "2.00 kWh" in status.describe(state)


def test_a_mixed_study_says_so_and_where_it_was_judged(night: StudyRecord) -> None:
    lines = mixed_lines(shared(night, A10, T4))
    assert "2 kinds of devices (NVIDIA A10 in bf16; Tesla T4 in fp16)" in lines[0]
    assert lines[1:] == ["Everything on fresh seeds was trained on NVIDIA A10 in bf16: no pair of runs is split."]
    other_code = replace(T4, device_class="NVIDIA A10 in bf16, trainer's code beef")
    assert "answer different questions" in mixed_lines(shared(night, A10, other_code))[1]


def test_of_one_machine_nothing_is_said(night: StudyRecord) -> None:
    for record in (night, shared(night, A10, AGAIN)):
        assert by_machine(record) == () and mixed_lines(record) == []
        assert 'id="machines"' not in study_page(record) and "By machine" not in report_markdown(record)
    # Two machines of one kind are two rows, and no mixture.
    alike = shared(night, A10, replace(AGAIN, host="rack-3"))
    assert len(by_machine(alike)) == 2 and mixed_lines(alike) == []
