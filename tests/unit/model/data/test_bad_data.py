import pytest
from data_cases import CASES, judge

ALL = [pytest.param(case, id=f"{kind}: {case.name}") for kind, cases in CASES.items() for case in cases]


@pytest.mark.parametrize("case", ALL)
def test_data_of_every_make_are_taken_right_or_refused_by_a_sentence(case, tmp_path, monkeypatch):
    # Not by the environment: the library reads that once, for all tests of a process.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert judge(case, tmp_path) == ""
