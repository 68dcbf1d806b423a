"""What each of the machines that shared a study has trained."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autotune.core.records import TrialRecord, TrialStatus
from autotune.store.study_record import StudyRecord


@dataclass(frozen=True)
class MachineShare:
    """What one machine has trained of the search and on fresh seeds.

    Args:
        host: Its name.
        device: The class of its device: card and dtype and, where they are not the study's, versions and code.
        trials: Trials of the search that ended there.
        finals: Runs on fresh seeds that ended there.
        seconds: Sum of all trainings.
        energy_j: What its GPUs used in them, in joules; None where they have no counter.
        median_loss: Of the trials that finished there, by the study's sign; None if none did.
        best_loss: Likewise, the lowest.
    """

    host: str
    device: str
    trials: int
    finals: int
    seconds: float
    energy_j: float | None
    median_loss: float | None
    best_loss: float | None


def by_machine(record: StudyRecord) -> tuple[MachineShare, ...]:
    """Return what each machine has trained, by the machines' names; nothing where there was only one.

    Args:
        record: The study.
    """
    peers = record.attributes.all_peers
    search: dict[tuple[str, str], list[TrialRecord]] = {}
    finals: dict[tuple[str, str], list[TrialRecord]] = {}
    for runs, machines in ((record.trials, search), ((*record.finals, *record.other_finals), finals)):
        for run in runs:
            if (peer := peers.get(run.peer)) is not None and run.result is not None:
                machines.setdefault((peer.host, peer.device_class or peer.device), []).append(run)

    names = sorted(search.keys() | finals.keys())
    if len(names) < 2:
        return ()
    return tuple(_share(*name, search.get(name, []), finals.get(name, [])) for name in names)


def classes_of(shares: Sequence[MachineShare]) -> tuple[str, ...]:
    """Return the classes of devices among machines, by name."""
    return tuple(sorted({share.device for share in shares}))


def trained_on(record: StudyRecord, device_class: str) -> StudyRecord:
    """Return a study with what devices of one class have trained of it alone: others have another pace.

    Args:
        record: The study.
        device_class: The class; "" for a study whose devices are alike, which is returned whole.
    """
    if not device_class:
        return record
    peers = record.attributes.all_peers

    def own(runs: Sequence[TrialRecord]) -> tuple[TrialRecord, ...]:
        return tuple(run for run in runs if run.peer in peers and peers[run.peer].device_class == device_class)

    return replace(record, trials=own(record.trials), finals=own(record.finals))


def _share(host: str, device: str, trials: Sequence[TrialRecord], finals: Sequence[TrialRecord]) -> MachineShare:
    results = [run.result for run in (*trials, *finals) if run.result is not None]
    counted = [result.energy_j for result in results if result.energy_j is not None]
    losses = [trial.loss for trial in trials if trial.loss is not None]
    return MachineShare(
        host=host,
        device=device,
        trials=_ended(trials),
        finals=_ended(finals),
        seconds=sum(result.seconds for result in results),
        energy_j=sum(counted) if counted else None,
        median_loss=statistics.median(losses) if losses else None,
        best_loss=min(losses, default=None),
    )


def _ended(runs: Sequence[TrialRecord]) -> int:
    return sum(run.status is not TrialStatus.INTERRUPTED for run in runs)
