"""Interrupted training goes on as if nothing had happened: bit for bit on a CPU."""

import os
from pathlib import Path

import pytest
from short_training import run, small_config, without_times

from model.counts import counts
from model.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

BUDGET_TOKENS = 128 * 40


def resumable(speeches, folder, **sections):
    """Dropout and accumulation over 3, so that random state and half-filled gradients count."""
    sections["model"] = {"dropout": 0.1} | sections.get("model", {})
    sections["optim"] = {"grad_accum_steps": 3} | sections.get("optim", {})
    sections["data"] = {"num_evals": 8} | sections.get("data", {})
    sections["output"] = {"dir": str(folder), "sample_tokens": 5} | sections.get("output", {})
    return small_config(speeches, **sections)


@pytest.fixture(scope="module")
def reference(speeches, tmp_path_factory):
    points, facts = run(resumable(speeches, tmp_path_factory.mktemp("whole")), BUDGET_TOKENS)
    return without_times(points), Path(facts["weights_path"]).read_bytes()


def check(points, facts, reference):
    assert without_times(points) == reference[0]
    assert Path(facts["weights_path"]).read_bytes() == reference[1]
    assert facts["micro_steps"] == 40
    assert facts["optimizer_steps"] == 14


@pytest.mark.parametrize("stop_after", [1, 3, 4])  # micro-steps 5, 15 and 20 of groups of 3: 15 is a boundary
def test_a_stopped_run_goes_on_and_shows_the_whole_curve(speeches, tmp_path, reference, stop_after):
    config = resumable(speeches, tmp_path)
    first, facts = run(config, BUDGET_TOKENS, stop_after)
    assert facts["stopped"] is True
    assert len(first) == stop_after
    points, facts = run(config, BUDGET_TOKENS)
    assert points[:stop_after] == first  # replayed as they were, times included
    assert points[-1]["elapsed_s"] > first[-1]["elapsed_s"]
    check(points, facts, reference)


def test_checkpoints_by_tokens_fall_in_mid_accumulation_and_between_points(speeches, tmp_path, reference):
    config = resumable(speeches, tmp_path, output={"checkpoint_every_tokens": 128 * 4, "keep_checkpoints": 3})
    run(config, BUDGET_TOKENS)
    kept = sorted((tmp_path / "checkpoints").iterdir())
    assert [int(path.stem.split("-")[1]) for path in kept] == [112, 128, 144]  # sequences, four a micro-batch
    for number, path in enumerate(kept[::-1]):  # the newest first, then after its loss the one before
        points, facts = run(config.model_copy(update={"output": resumable(speeches, tmp_path).output}), BUDGET_TOKENS)
        check(points, facts, reference)
        assert len(list((tmp_path / "checkpoints").iterdir())) == 3 - number
        path.unlink()


def test_the_disk_that_is_counted_is_what_checkpoints_and_export_take(speeches, tmp_path):
    """And once more a checkpoint, for the one that is being written."""
    output = {"checkpoint_every_tokens": 128 * 4, "keep_checkpoints": 2}
    config = resumable(speeches, tmp_path, optim={"grad_accum_steps": 1}, output=output)
    _, facts = run(config, BUDGET_TOKENS)
    kept = [path.stat().st_size for path in (tmp_path / "checkpoints").iterdir()]
    assert len(kept) == 2
    taken = 1.5 * sum(kept) + Path(facts["weights_path"]).stat().st_size
    assert counts(config, facts)["disk_bytes"] == pytest.approx(taken, rel=0.1)


def test_a_torn_newest_checkpoint_falls_back_to_the_one_before(speeches, tmp_path, reference, capsys):
    config = resumable(speeches, tmp_path, output={"checkpoint_every_tokens": 128 * 7})
    run(config, BUDGET_TOKENS, stop_after=6)
    newest = max((tmp_path / "checkpoints").iterdir())
    os.truncate(newest, newest.stat().st_size // 2)
    points, facts = run(config, BUDGET_TOKENS)
    check(points, facts, reference)
    assert f"checkpoint {newest.name} is damaged" in facts["notices"][0]
    assert "is damaged" in capsys.readouterr().out


def test_time_triggers_checkpoints(speeches, tmp_path):
    config = resumable(speeches, tmp_path, output={"checkpoint_every_s": 0.0, "keep_checkpoints": 100})
    run(config, 128 * 6)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 5  # after every micro-step but the last


def test_another_config_or_budget_starts_anew(speeches, tmp_path):
    run(resumable(speeches, tmp_path), BUDGET_TOKENS, stop_after=4)
    for sections, budget_tokens in (({"optim": {"muon_lr": 0.005}}, BUDGET_TOKENS), ({}, BUDGET_TOKENS + 128)):
        points, facts = run(resumable(speeches, tmp_path, **sections), budget_tokens, stop_after=1)
        assert facts["micro_steps"] < 10
        assert len(points) == 1


def test_a_stop_during_the_replay_trains_no_further(speeches, tmp_path):
    config = resumable(speeches, tmp_path)
    run(config, BUDGET_TOKENS, stop_after=4)
    points, facts = run(config, BUDGET_TOKENS, stop_after=2)
    assert (len(points), facts["stopped"], facts["micro_steps"]) == (2, True, 20)


def test_the_loss_scale_of_fp16_is_part_of_the_state(speeches, tmp_path):
    sections = {"system": {"dtype": "fp16"}}
    whole, _ = run(resumable(speeches, tmp_path / "a", **sections), 128 * 16)
    config = resumable(speeches, tmp_path / "b", **sections)
    run(config, 128 * 16, stop_after=4)
    points, _ = run(config, 128 * 16)
    assert without_times(points) == without_times(whole)


def test_told_to_end_sooner_it_ends_there_decayed_also_when_interrupted(speeches, tmp_path):
    """Told at its second point of eight, 1,280 of 5,120 tokens, to end at 2,900."""
    sections = {"optim": {"grad_accum_steps": 3, "decay_frac": 0.2, "final_lr_frac": 0.1}}

    def shortened(folder, stop_after=None):
        points = []

        def report(point):
            points.append(dict(point))
            if len(points) == stop_after:
                return False
            return 2_900 if len(points) == 2 else True

        return points, train(resumable(speeches, folder, **sections), BUDGET_TOKENS, report)

    whole, facts = shortened(tmp_path / "whole")
    assert [point["tokens_seen"] for point in whole] == [640, 1280, 1920, 2560, 2900]
    assert facts["end_tokens"] == 2_900 and facts["micro_steps"] == 23 and not facts["stopped"]
    lrs = [point["muon_lr"] for point in whole]
    # The decay begins at 2,320; the last update before 2,560 was at 2,304.
    assert lrs[1] == lrs[2] == lrs[3] > lrs[4] == pytest.approx(0.1 * lrs[1])
    shortened(tmp_path / "parts", stop_after=4)
    points, again = shortened(tmp_path / "parts")
    assert without_times(points) == without_times(whole)
    assert Path(again["weights_path"]).read_bytes() == Path(facts["weights_path"]).read_bytes()


def answered(config, answers, stop_after=None):
    """Train with the answers to the points of the same number, from 1, and True to the others."""
    points = []

    def report(point):
        points.append(dict(point))
        return len(points) != stop_after and answers.get(len(points), True)

    return points, train(config, BUDGET_TOKENS, report)


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
def test_told_again_and_again_where_to_end_it_resumes_bit_for_bit(speeches, tmp_path, schedule):
    """Sooner, later, sooner: what was asked is part of a checkpoint, and the old answers do not count twice."""
    sections = {"optim": {"grad_accum_steps": 3, "decay_frac": 0.5, "schedule": schedule}}
    answers = {1: 3_000, 2: 2_600, 3: 4_100, 5: 3_700}
    whole, facts = answered(resumable(speeches, tmp_path / "whole", **sections), answers)
    assert [point["tokens_seen"] for point in whole] == [640, 1280, 1920, 2560, 3200, 3700]
    assert whole[-1]["muon_lr"] == 0.0
    config = resumable(speeches, tmp_path / "parts", **sections)
    for stop_after in (2, 4, 5):  # what is answered to the fifth comes when it goes on
        answered(config, answers, stop_after)
    points, again = answered(config, answers)
    assert without_times(points) == without_times(whole)
    assert Path(again["weights_path"]).read_bytes() == Path(facts["weights_path"]).read_bytes()


@pytest.mark.parametrize(
    ("num_evals", "answers", "last"),
    [
        (80, {21: 1_345}, [1280, 1344, 1345]),  # points of 64 tokens, passes of 128
        (80, {20: 1_290}, [1216, 1280, 1290]),  # the 21st is due at once with the 20th
        (8, {2: 700}, [640, 1280, 1281]),  # trained already: as soon as it can
        (8, {8: 6_000, 2: BUDGET_TOKENS}, [3840, 4480, 5120]),  # the end is the end
        (8, {3: 2_000, 4: 4_000}, [1280, 1920, 2000]),  # a run that has ended does not go on
    ],
)
def test_the_last_point_is_the_end_that_was_asked_for(speeches, num_evals, answers, last):
    config = small_config(speeches, data={"num_evals": num_evals}, optim={"grad_accum_steps": 3})
    points, facts = answered(config, answers)
    tokens = [point["tokens_seen"] for point in points]
    assert tokens[-3:] == last and facts["end_tokens"] == last[-1]
    assert tokens == sorted(set(tokens))
    assert points[-1]["muon_lr"] == 0.0
