"""A better winner's changes are told apart on fresh seeds, and those that made no difference are not promoted."""

from __future__ import annotations

import tomllib
from typing import Any

from study_folder import StudyFolder, wait_for

from autotune.core.records import VerdictWord
from autotune.core.study_results import Attribution
from autotune.engine.deadline import REPORT_S, Deadline
from autotune.finals.verdict import ATTRIBUTE
from autotune.night.session import Options, Session
from autotune.study.study_file import load

# layers and heads change nothing in the fake trainer; its noise depends on seed and lr alone.
SPACE: dict[str, Any] = {
    "gain": {"choices": [0.0, 0.5]},
    "layers": {"choices": [2, 4]},
    "heads": {"choices": [2, 4]},
    "lr": {"low": 0.001, "high": 0.1, "log": True},
}
WINNER = {"gain": 0.5, "layers": 4, "heads": 4, "lr": 0.01}


def write(folder: StudyFolder, **finals: int) -> None:
    folder.write(
        budget={"trials": 2},
        base={"heads": 2, "sigma": 0.001},
        space=SPACE,
        enqueue=[WINNER],
        finals={"finalists": 1, "prove_seeds": 3, "max_seeds": 3, "attribute_seeds": 2, **finals},
    )


def found_in(folder: StudyFolder) -> Attribution:
    return folder.record().attributes.attribution


def test_idle_changes_go_back_to_their_default_in_what_is_promoted(folder: StudyFolder) -> None:
    write(folder)
    run = folder.run("--set", "promote.automatic=true", "--set", "promote.tokens=200000")
    assert run.end() == 0, run.text
    record = folder.record()
    assert record.verdict is not None and record.verdict.word is VerdictWord.BETTER
    assert record.verdict.params == WINNER
    found = found_in(folder)
    assert found.seeds == record.verdict.seeds[:2]
    assert {change.path: change.is_tie for change in found.changes} == {
        "lr": False,
        "gain": False,
        "layers": True,
        "heads": True,
    }
    assert found.params == {"gain": 0.5, "layers": 2, "heads": 2, "lr": 0.01}
    config = tomllib.loads(folder.directory().best_config.read_text())
    assert (config["config"]["layers"], config["config"]["heads"], config["config"]["gain"]) == (2, 2, 0.5)
    assert "no gain could be measured for" in config["provenance"]["why"]
    assert "left at default" in run.text
    trained = folder.optuna_trials()["fake.full-1-200000"][-1]
    assert trained.user_attrs["params"] == found.params
    # Four arms less one change each and two more on the path, on two seeds; the ends of the path were there already.
    assert sum(each.stage == ATTRIBUTE for each in record.finals) == (4 + 2) * 2


def test_killed_in_the_midst_of_it_nothing_is_trained_twice(folder: StudyFolder) -> None:
    write(folder)
    run = folder.start()
    wait_for(lambda: "to find out which change gave what" in run.text)
    wait_for(lambda: len(folder.started()) >= 12)
    run.kill()
    folder.wait_until_empty()
    again = folder.run()
    assert again.end() == 0, again.text
    ended = [(tuple(sorted(each.params.items())), each.seed) for each in folder.record().finals if each.loss]
    assert len(ended) == len(set(ended))
    assert found_in(folder).params["layers"] == 2


def test_nothing_is_told_apart_where_nothing_was_found_or_wanted(folder: StudyFolder) -> None:
    write(folder, attribute_seeds=0)
    assert folder.run().end() == 0
    assert folder.record().attributes.attribution is None


class SpentAfterTheFinals(Deadline):
    """A deadline that leaves half a second beyond the report once all of the finals have begun."""

    def __init__(self, folder: StudyFolder) -> None:
        super().__init__()
        self._folder = folder

    @property
    def seconds_left(self) -> float:
        return REPORT_S + 0.5 if len(self._folder.started()) >= 2 + 6 else super().seconds_left


def test_without_time_for_it_the_whole_winner_is_promoted(folder: StudyFolder) -> None:
    write(folder)
    folder.place_hardware()
    said: list[str] = []
    changes = ["base.seconds=0.1"]
    options = Options(
        out=folder.directory().root.parent, device="cpu", say=said.append, deadline=SpentAfterTheFinals(folder)
    )
    assert Session(load(folder.file, changes), options).work() == 0
    record = folder.record()
    assert record.verdict is not None and record.verdict.word is VerdictWord.BETTER
    assert record.attributes.attribution is None
    assert any("no time is left to find out which change gave what" in line for line in said)
    assert tomllib.loads(folder.directory().best_config.read_text())["config"]["layers"] == 4
