"""What a study used: hours, trials and energy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autotune.core.records import TrialRecord, TrialResult, TrialStatus
from autotune.core.study_results import TakenAlong
from autotune.store.study_record import StudyRecord
from reports.formats import duration, local_time, plain
from reports.sentences.verdict import ended_finals
from reports.tables.machine import energy_j, gpu_table


@dataclass(frozen=True)
class Cost:
    """What the study used.

    Args:
        wall_s: From the first start to the last end of trials and finals.
        busy_s: Sum of these trainings.
        counts: Search trials of its own by status, every status that occurred.
        finals: Finals' runs that ended.
        energy_j: The GPU's energy, or None when it was not measured.
        taken: Trials of earlier studies that count here: by study, how many and what they took there.
        long_s: Sum of the full run and the shorter runs before it.
    """

    wall_s: float
    busy_s: float
    counts: Mapping[str, int]
    finals: int
    energy_j: float | None
    taken: tuple[TakenAlong, ...] = ()
    long_s: float = 0.0

    @property
    def energy_text(self) -> str:
        """The energy in kWh, or why there is none."""
        return "not measured" if self.energy_j is None else f"{self.energy_j / 3.6e6:.2f} kWh"


def cost(record: StudyRecord) -> Cost:
    """Return hours, trials by status and energy.

    Args:
        record: The study.
    """
    counts: dict[str, int] = {}
    for trial in own_trials(record):
        counts[trial.status.value] = counts.get(trial.status.value, 0) + 1

    results = [run.result for run in _all_runs(record) if run.result is not None]
    busy_s = sum(result.seconds for result in results)
    taken = tuple(each for each in record.attributes.taken_along.values() if each.taken)
    return Cost(
        wall_s=_wall_s(results, busy_s),
        busy_s=busy_s,
        counts=counts,
        finals=ended_finals(record),
        energy_j=_energy_j(record),
        taken=taken,
        long_s=_long_s(record),
    )


def _long_s(record: StudyRecord) -> float:
    full, promotion = record.attributes.full_run, record.attributes.promotion
    return (full.seconds if full else 0.0) + (promotion.bracket_s if promotion else 0.0)


def own_trials(record: StudyRecord) -> list[TrialRecord]:
    """Return the search trials that the study has trained itself."""
    return [trial for trial in record.trials if trial.taken_from is None]


def _energy_j(record: StudyRecord) -> float | None:
    """Return the energy by the samples of the GPU; of a study that machines share, that of each training."""
    shares = [run.result.energy_j for run in _all_runs(record) if run.result is not None]
    counted = [each for each in shares if each is not None]
    if record.attributes.all_peers and counted:
        return sum(counted)
    return energy_j(gpu_table(record))


def _all_runs(record: StudyRecord) -> tuple[TrialRecord, ...]:
    return (*record.trials, *record.finals, *record.other_finals)


def _wall_s(results: list[TrialResult], busy_s: float) -> float:
    """Return the seconds from the first start to the last end; `busy_s` where no start is known."""
    starts = []
    ends = []
    for result in results:
        started_at = local_time(result.started_at)
        if started_at is not None:
            starts.append(started_at.timestamp())
            ends.append(started_at.timestamp() + result.seconds)

    if not starts:
        return busy_s
    return max(ends) - min(starts)


def cost_rows(spent: Cost) -> list[tuple[str, str]]:
    """Return the cost as names and words, in the order of the page."""
    failed = sum(spent.counts.get(status.value, 0) for status in TrialStatus if status.is_failure)
    waiting = sum(spent.counts.get(status.value, 0) for status in (TrialStatus.WAITING, TrialStatus.RUNNING))

    # Several devices train at the same time, and a part is never larger than the whole.
    training = "Of which training" if spent.busy_s <= spent.wall_s else "Training, added over all devices"

    return [
        ("Search and finals, from start to end", duration(spent.wall_s)),
        (training, duration(spent.busy_s)),
        *([("Full run, and shorter runs before it", duration(spent.long_s))] if spent.long_s else []),
        ("Trials", str(sum(spent.counts.values()))),
        ("Finished", str(spent.counts.get("finished", 0))),
        ("Stopped early (pruned)", str(spent.counts.get("pruned", 0))),
        *_when_any("Stopped by you", spent.counts.get(TrialStatus.STOPPED, 0)),
        ("Failed", str(failed)),
        *[
            (f"Taken along from {plain(each.study)}", f"{each.taken} ({duration(each.seconds)} there)")
            for each in spent.taken
        ],
        *_when_any("Interrupted and run again", spent.counts.get(TrialStatus.INTERRUPTED, 0)),
        *_when_any("Not ended yet", waiting),
        ("Runs on fresh seeds", str(spent.finals)),
        ("GPU energy", spent.energy_text),
    ]


def _when_any(name: str, amount: int) -> list[tuple[str, str]]:
    return [(name, str(amount))] if amount else []
