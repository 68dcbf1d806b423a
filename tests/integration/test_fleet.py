"""One study, one end: who coordinates the processes that share a PostgreSQL, and what belongs to the study."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_attrition
import pytest
from bench_faults import FULL_TOKENS, LONG_TOKENS, write_study
from study_folder import PATIENCE_S, STUDY, Run, StudyFolder, wait_for

from autotune.core.errors import UserError
from autotune.core.files import now_iso
from autotune.core.peers import Peer, Stage
from autotune.core.records import TrialStatus, VerdictWord
from autotune.core.setups import Setup
from autotune.core.study_results import Plan
from autotune.engine.deadline import Deadline, StopRequest
from autotune.engine.session_end import SessionEnd
from autotune.night.agreement import WAITS_FOR_COORDINATOR, Agreement, agree, keep_end, peer_with
from autotune.night.assisting import NOTHING_FINISHED, Steps, assist
from autotune.night.night import Options, StoredSearch
from autotune.night.opening import open_night, open_search, this_peer
from autotune.night.own_machine import measured_hardware
from autotune.store.membership import SharedMembership, living_peers, peers_at_work
from autotune.study.study_file import load


@pytest.fixture
def fleet(empty_database: StudyFolder) -> StudyFolder:
    """A folder whose studies are shared."""
    return empty_database


def _write(folder: StudyFolder, trials: int = 8, **base: Any) -> None:
    folder.write(
        storage=folder.url,
        budget={"trials": trials},
        base={"seconds": 0.3, **base},
        pruner={"name": "none"},
        limits={"heartbeat_s": 1, "min_free_bytes": 0},
    )


def _peers(folder: StudyFolder, out: str) -> dict[str, Peer]:
    """The processes that work on the study, by their id."""
    return {peer.id: peer for peer in folder.record(out).peers}


def _kill_the_coordinator(folder: StudyFolder, runs: dict[str, Run], reader: str) -> Run:
    """Kills whichever process of these coordinates, as nobody but the database knows it; returns it."""

    def leading() -> list[str]:
        log = {out: folder.directory(out).events.read_text() for out in runs}
        return [out for out in runs if "this process coordinates the study now" in log[out]]

    wait_for(leading)  # another one may have led for a moment, and left
    (out,) = leading()
    assert folder.record(reader).peers[0].role == "coordinator"
    runs[out].kill()
    return runs.pop(out)


def test_peers_begin_with_the_settings_that_the_study_file_names(fleet: StudyFolder) -> None:
    """The baseline, which comes first, is held at a gate; its peer trains the others meanwhile."""
    fleet.write(
        storage=fleet.url,
        budget={"trials": 3},
        base={"seconds": 0.1, "fault": "gate", "fault_budget": STUDY["budget"]["tokens"], "strikes": 1},
        enqueue=[{"lr": 0.07}],
        pruner={"name": "none"},
        finals={"finalists": 0},
        limits={"heartbeat_s": 1, "min_free_bytes": 0},
    )
    first = fleet.start(out="a")
    fleet.wait_at_gate()
    second = fleet.start(out="b")
    wait_for(lambda: len(fleet.started()) == 3)
    fleet.open_gate()
    assert (first.end(), second.end()) == (0, 0), first.text + second.text

    trials = fleet.record("a").trials
    assert len(trials) == 3 and trials[1].params["lr"] == 0.07
    assert len({trial.params["lr"] for trial in trials}) == 3
    assert [peer.waits for peer in fleet.record("a").attributes.all_peers.values()] == [True, True], "it is over"


def test_whoever_dies_or_leaves_the_study_comes_to_one_end(fleet: StudyFolder) -> None:
    """The coordinator is killed in the search and the next one in the finals; another peer has limits of its own."""
    _write(fleet, fault="gate", fault_budget=STUDY["budget"]["tokens"], strikes=1)
    full = ("--set", "promote.automatic=true", "--set", "promote.tokens=200000")
    first = fleet.start(*full, out="a")
    fleet.wait_at_gate()
    runs = {out: fleet.start(*full, out=out) for out in "bc"}
    worker = fleet.start("--worker", "--set", "limits.heartbeat_s=2", out="w")
    hasty = fleet.start(*full, "--hours", "0.0015", "--set", "limits.hang_s=0.1", out="h")
    wait_for(lambda: len(_peers(fleet, "a")) >= 4)
    told = fleet.command("status", str(fleet.file), "--out", "nowhere")
    assert told.text.count("  worker ") >= 3 and told.text.count("  coordinator ") == 1, told.text

    first.kill()
    wait_for(lambda: fleet.record("a").attributes.stage is Stage.FINALS)
    wait_for(lambda: any(run.stage == "select" for run in fleet.record("a").finals))
    _kill_the_coordinator(fleet, runs, "a")
    (last,) = runs.values()
    assert (last.end(), worker.end(), hasty.end()) == (0, 0, 130), last.text + worker.text + hasty.text
    assert "heartbeat_s = 1 (here 2)" in worker.text
    assert "this process leaves the study" in hasty.text

    record = fleet.record("a")
    assert record.peers == ()
    assert record.verdict is not None and record.verdict.word is not VerdictWord.FAILED
    assert record.attributes.full_run is not None and record.attributes.full_run.status == "finished"
    assert [training.tokens for training in fleet.started()].count(200_000) == 1
    lost = {trial.number for trial in record.trials if trial.status is TrialStatus.INTERRUPTED}
    again = {trial.retry_of: trial for trial in record.trials if trial.retry_of is not None}
    assert lost and lost <= again.keys()
    whole = [trial for trial in record.trials if trial.number not in lost]
    assert len({trial.params["lr"] for trial in whole}) == len(whole) == 8
    assert {trial.status for trial in whole} == {TrialStatus.FINISHED}
    done = Counter((run.arm, run.seed, run.stage) for run in record.finals if run.status is TrialStatus.FINISHED)
    assert set(done.values()) == {1} and len(done) == 6
    verdicts = [out for out in "abcwh" if "verdict: " in fleet.directory(out).events.read_text()]
    assert len(verdicts) == 1
    fleet.wait_until_empty()

    # On a machine that has nothing but the study file, and for a start not even its trainer.
    text = fleet.file.read_text()
    fleet.file.write_text(text.replace("fake_trainer:train", "absent_trainer:train"))
    told = fleet.command("status", str(fleet.file), "--out", "nowhere")
    assert told.end() == 0 and "fake: not running" in told.text and "verdict: " in told.text
    reported = fleet.whole_command("report", str(fleet.file), "--out", "nowhere", "--json")
    assert reported.returncode == 0, reported.stderr
    assert (fleet.root / "nowhere/fake/report/index.html").exists()
    fleet.file.write_text(text)
    longer = fleet.run("promote", "--tokens", "300000", "--yes", out="elsewhere")
    assert longer.end() == 0, longer.text
    assert [training.tokens for training in fleet.started()].count(300_000) == 1


def test_a_shared_study_is_stopped_on_all_machines_and_goes_on(fleet: StudyFolder) -> None:
    _write(fleet, fault="gate", fault_budget=STUDY["budget"]["tokens"])
    none = fleet.command("stop", str(fleet.file), "--out", "nowhere")
    assert none.end() != 0 and "holds no study fake" in none.text
    runs = [fleet.start(out="a"), fleet.start("--worker", out="w")]
    wait_for(lambda: fleet.directory("a").spec.exists() and len(_peers(fleet, "a")) == 2)
    wait_for(lambda: len({training.pid for training in fleet.started()}) == 2)

    stopped = fleet.command("stop", str(fleet.file), "--out", "nowhere", "--now")
    assert stopped.end() == 0 and stopped.text.count("asked peer ") == 2, stopped.text
    assert [run.end() for run in runs] == [130, 130], runs[0].text + runs[1].text
    again = fleet.command("stop", str(fleet.file), "--out", "nowhere")
    assert again.end() == 2 and "not running on any machine" in again.text
    assert fleet.record("a").attributes.requests[0].is_done

    fleet.open_gate()
    assert fleet.run(out="a").end() == 0
    assert fleet.record("a").verdict is not None


@pytest.mark.thorough
def test_processes_that_die_and_a_server_that_goes_away_leave_a_study_like_that_of_one_alone(tmp_path: Path) -> None:
    """Two of the four have process number 1, where the machine lets them, and one has other limits."""
    small = ["--trials", "16", "--processes", "4", "--kills", "3", "--stops", "1", "--stop-s", "3", "--seconds", "0.3"]
    command = [sys.executable, bench_attrition.__file__, *small]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=5 * PATIENCE_S, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_worker_also_trains_what_precedes_the_full_run(fleet: StudyFolder) -> None:
    base = {"sigma": 0.001, "lr": 0.05, "seconds": 0.05, "fault": "gate", "fault_budget": LONG_TOKENS}
    write_study(fleet, trials=4, base=base, limits={"heartbeat_s": 1, "min_free_bytes": 0})
    first, worker = fleet.start(out="a"), fleet.start("--worker", out="w")
    wait_for(lambda: len({each.pid for each in fleet.started() if each.tokens == LONG_TOKENS}) == 2)
    fleet.open_gate()
    assert (first.end(), worker.end()) == (0, 0), first.text + worker.text
    assert "all but the full run is over" in worker.text
    record = fleet.record("a")
    assert record.attributes.promotion is not None and len(record.attributes.promotion.brackets) == 2
    assert sorted(Counter(each.tokens for each in fleet.started()).items())[-1] == (FULL_TOKENS, 1)


def test_a_study_that_cannot_be_planned_ends_for_all_and_a_worker_says_what_it_waits_for(fleet: StudyFolder) -> None:
    _write(fleet, start_s=4.0, fault="crash")
    worker = fleet.start("--worker", out="w")
    assert worker.says("by the same command without --worker")
    told = fleet.command("status", str(fleet.file), "--out", "nowhere")
    assert "fake: not running" in told.text and "waiting for a process that coordinates" in told.text, told.text
    assert f"next: autotune run {fleet.file}" in told.text
    first = fleet.start(out="a")
    wait_for(lambda: (fleet.log / "started.txt").exists())
    second = fleet.start(out="b")
    wait_for(lambda: sum(not peer.waits for peer in _peers(fleet, "a").values()) == 3)
    seen = fleet.command("watch", str(fleet.file), "--out", "nowhere", "--json", "--once")
    assert seen.text.count('"peer_joined"') == 3 and '"peer_left"' not in seen.text, seen.text

    assert [run.end() for run in (first, second, worker)] == [1, 1, 1], worker.text + first.text + second.text
    assert all("the baseline does not train" in run.text for run in (first, second, worker))
    assert fleet.probed() == 1
    assert worker.text.count("without --worker") == 1
    again = fleet.run(out="b")
    assert again.end() == 1 and fleet.probed() == 2, again.text


# --- what belongs to the study, told by what later processes take -----------------------------------------------


SETUP = Setup("NVIDIA A10", "bf16", {"torch": "2.8.0"}, "c0de" * 4, "7e47" * 4)


class Process:
    """A process as far as its place in the fleet: it has opened the search and agreed, and trains nothing.

    Args:
        folder: The study's folder.
        hours: Its `--hours`.
        heartbeat_s: What its study file says.
        is_worker: Whether it is started as `--worker`.
        setup: What it trains with.
        mixed: What its study file says of that.
        trials: Likewise.
    """

    def __init__(
        self,
        folder: StudyFolder,
        hours: float | None = None,
        heartbeat_s: int = 5,
        is_worker: bool = False,
        setup: Setup = SETUP,
        mixed: bool = False,
        trials: int = 8,
    ) -> None:
        self.setup = setup
        self.stop = StopRequest()
        self.deadline = Deadline(hours, None, is_asked=hours is not None)
        self.session = SessionEnd()
        self.said: list[str] = []
        changes = [f"limits.heartbeat_s={heartbeat_s}", f"mixed={str(mixed).lower()}", f"budget.trials={trials}"]
        study = load(folder.file, changes)
        self.opened = open_search(study, folder.directory(), self.stop, is_worker)
        self.search: StoredSearch = self.opened.__enter__()
        self.is_worker = is_worker

    def agree(self) -> Agreement:
        """Agrees with those that are there."""
        peer = this_peer(self.search.membership, self.is_worker)
        return agree(self.search, peer, self.setup, self.deadline, self.session, self._give_up, self.said.append)

    def _give_up(self) -> None:
        raise TimeoutError

    def end(self) -> None:
        """Ends."""
        self.opened.__exit__(None, None, None)
        self.search.storage.remove_session()
        self.search.storage.engine.dispose()


def test_later_processes_have_the_end_and_the_limits_of_the_first(
    fleet: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "fakes"))
    _write(fleet)
    early = Process(fleet, is_worker=True)
    with pytest.raises(TimeoutError):
        early.agree()  # there is no night to work for
    assert early.said == [WAITS_FOR_COORDINATOR]
    assert [peer.waits for peer in _peers(fleet, "runs").values()] == [True]

    first = Process(fleet, hours=2.0)
    assert first.search.membership.is_coordinator and not early.search.membership.is_coordinator
    agreed = first.agree()
    assert not agreed.joined and agreed.notes == ()
    same = Process(fleet, hours=2.0)
    assert same.agree().notes == () and abs(same.deadline.seconds_left - first.deadline.seconds_left) < 1

    hasty = Process(fleet, hours=0.5, heartbeat_s=1)
    agreed = hasty.agree()
    assert agreed.joined and agreed.search.study.spec.limits.heartbeat_s == 5 == hasty.search.storage.heartbeat_interval
    assert any("heartbeat_s = 5 (here 1)" in note for note in agreed.notes)
    assert hasty.deadline.seconds_left > 7_000 and hasty.session.seconds_left < 1_800
    slow = Process(fleet, hours=9.0)
    assert "`autotune steer --hours`" in slow.agree().notes[0]
    assert slow.deadline.seconds_left < 7_201 and math.isinf(slow.session.seconds_left)
    worker = early.agree()
    assert worker.joined and worker.notes == () and early.deadline.seconds_left < 7_201

    first.deadline.move_to(600.0)
    keep_end(first.search, first.deadline)
    living = living_peers(first.search.storage, "fake")
    assert len(living) == 5 and living[first.search.membership.id] and sum(living.values()) == 1
    first.end()
    assert first.search.membership.id not in living_peers(same.search.storage, "fake")
    assert same.search.membership.confirm() and not hasty.search.membership.confirm()
    late = Process(fleet)
    assert late.agree().joined and late.deadline.seconds_left < 601

    late.search.attributes.stage = Stage.SEARCH
    for process in (same, hasty, slow, early, late):
        process.end()
    # The same command goes on with the night that was under way, another one begins a night of its own.
    resumed = Process(fleet, hours=2.0)
    assert not resumed.agree().joined and resumed.deadline.seconds_left < 601
    resumed.end()
    other = Process(fleet, hours=3.0)
    assert not other.agree().joined and other.deadline.seconds_left > 10_000
    other.end()


def test_a_coordinator_that_was_silent_learns_that_another_one_took_over(
    fleet: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "fakes"))
    _write(fleet)
    first, second = Process(fleet), Process(fleet)
    membership = first.search.membership
    with first.search.storage.engine.connect() as connection:
        # As the server does with a session that gives no sign of life.
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND objid = 0"
        )
    wait_for(second.search.membership.confirm)
    assert not membership.confirm() and first.stop.level == 1
    assert living_peers(second.search.storage, "fake") == {membership.id: False, second.search.membership.id: True}
    assert first.stop.goes_on()

    second.end()
    wait_for(membership.confirm)
    first.end()


def test_a_peer_that_may_lead_once_the_study_has_ended_does_not_begin_it_anew(
    fleet: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator leaves its part a moment before its peers look again whether the study has ended."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "fakes"))
    _write(fleet)
    fleet.place_hardware()
    first, second = Process(fleet), Process(fleet)
    first.agree()
    joined = second.agree()
    first.search.attributes.ended_at = now_iso()
    first.end()
    wait_for(second.search.membership.confirm)

    peer = this_peer(second.search.membership, is_worker=False)
    options = Options(device="cpu", say=lambda line: None)
    hardware = measured_hardware(second.search.study.spec, options, fleet.directory(), second.stop)
    with open_night(options, fleet.directory(), second.search, peer, hardware, second.stop) as night:
        assert assist(night, Steps(night), joined.ended_at) == NOTHING_FINISHED
        assert assist(night, Steps(night), second.search.attributes.ended_at) is None
    second.end()


def test_whoever_only_promotes_is_no_night_to_join_and_other_heartbeats_begin_at_once(
    fleet: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "fakes"))
    _write(fleet)
    before = Process(fleet, hours=2.0)
    assert not before.agree().joined
    beats: list[SharedMembership] = []
    monkeypatch.setattr(SharedMembership, "_beat", lambda membership: beats.append(membership))
    rare = Process(fleet, heartbeat_s=3600, trials=20)
    agreed = rare.agree()
    assert agreed.joined and agreed.search.study.spec.budget.trials == 8
    assert "begun with 8 trials (here 20): `autotune steer --trials`" in agreed.notes[-1]
    assert fleet.record().spec.budget.trials == 8
    wait_for(lambda: rare.search.membership in beats)
    rare.end()
    before.end()

    promoting = Process(fleet)
    attributes = promoting.search.attributes
    attributes.keep_peer(peer_with(this_peer(promoting.search.membership, False), SETUP, attributes))
    other = Process(fleet, hours=3.0, trials=20)
    agreed = other.agree()
    assert not agreed.joined and other.deadline.seconds_left > 10_000
    assert agreed.search.study.spec.budget.trials == 20 and agreed.notes == ()
    for process in (promoting, other):
        process.end()


def test_a_mixed_study_takes_other_cards_and_no_other_text(fleet: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "fakes"))
    _write(fleet)
    # A first night in which nothing was planned binds nobody.
    unborn = Process(fleet, setup=replace(SETUP, card="Tesla V100"))
    assert not unborn.agree().joined
    unborn.end()

    first = Process(fleet, mixed=True)
    assert first.agree().peer.device_class == "NVIDIA A10 in bf16"
    other = Process(fleet, setup=replace(SETUP, card="Tesla T4", dtype="fp16", code="beef" * 4))
    agreed = other.agree()
    assert agreed.search.study.spec.mixed and agreed.peer.device_class.startswith("Tesla T4 in fp16, trainer's code")
    notes = " ".join(agreed.notes)
    assert (
        "mixed = true (here false)" in notes
        and "Tesla T4 in fp16, the study on" in notes
        and "code is another" in notes
    )

    strange = Process(fleet, setup=replace(SETUP, text="feed" * 4), mixed=True)
    with pytest.raises(UserError, match=r"the text is another one here.*\n.*cannot be ranked together") as refusal:
        strange.agree()
    assert refusal.value.exit_code == 3
    assert strange.search.membership.id not in {peer.id for peer in peers_at_work(first.search.storage, "fake")}

    first.search.attributes.plan = Plan()
    for process in (first, other, strange):
        process.end()
    # What the study was begun with holds for its next night too, mixed or not.
    late = Process(fleet, setup=replace(SETUP, versions={"torch": "2.9.1"}))
    with pytest.raises(UserError, match=r"torch is 2\.9\.1 here, the study's is 2\.8\.0"):
        late.agree()
    late.end()
    same = Process(fleet)
    assert not same.agree().search.study.spec.mixed
    same.end()
