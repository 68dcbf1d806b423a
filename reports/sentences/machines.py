"""What the machines that shared a study have trained, and what their differences mean for it."""

from __future__ import annotations

from autotune.core.metric import Metric
from autotune.core.peers import Peer
from autotune.store.by_machine import MachineShare, by_machine, classes_of
from autotune.store.study_record import StudyRecord
from reports.formats import duration, plain

_JOULES_PER_KWH = 3.6e6
_UNKNOWN = "–"


def machine_head(record: StudyRecord) -> tuple[str, ...]:
    """Return the head of `machine_rows`."""
    name = plain(record.attributes.metric.name)
    return ("machine", "trains on", "trials", "on fresh seeds", "training", "energy", f"median {name}", f"best {name}")


def machine_rows(record: StudyRecord) -> list[tuple[str, ...]]:
    """Return a row for each machine that has trained; none where there was only one.

    Args:
        record: The study.
    """
    return [_row(share, record.attributes.metric) for share in by_machine(record)]


def _row(share: MachineShare, metric: Metric) -> tuple[str, ...]:
    energy = "not measured" if share.energy_j is None else f"{share.energy_j / _JOULES_PER_KWH:.3f} kWh"
    losses = [_UNKNOWN if loss is None else metric.number(loss) for loss in (share.median_loss, share.best_loss)]
    counts = (str(share.trials), str(share.finals))
    return (plain(share.host), plain(share.device), *counts, duration(share.seconds), energy, *losses)


def mixed_lines(record: StudyRecord) -> list[str]:
    """Return what it means that devices of several classes have trained; nothing where they were alike.

    Args:
        record: The study.
    """
    classes = classes_of(by_machine(record))
    if len(classes) < 2:
        return []

    lines = [
        f"This study is mixed: it was trained on {len(classes)} kinds of devices ({plain('; '.join(classes))}). Their "
        "trials are ranked together, so what tells the kinds apart is part of the noise of the search."
    ]
    if any("trainer's code" in name for name in classes):
        lines.append("The trainer's code was not the same on all of them: their losses may answer different questions.")

    judges = sorted({peer.device_class for peer in _judges(record)})
    if judges:
        lines.append(f"Everything on fresh seeds was trained on {plain(', '.join(judges))}: no pair of runs is split.")
    return lines


def _judges(record: StudyRecord) -> list[Peer]:
    peers = record.attributes.all_peers
    return [peers[run.peer] for run in record.finals if run.peer in peers and run.result is not None]
