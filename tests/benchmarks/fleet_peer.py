"""The `autotune` command without its report, as one process of many (`bench_fleet.py`): it writes down its locks.

Each line of the file that FLEET_LOCKS names is one time that the study's lock was held: the end by the clock, the
seconds that were waited for it and that it was held, and the processor's seconds of this process meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))


def _write_locks_down() -> None:
    from autotune.engine.trial_store import TrialStore

    real = TrialStore.locked

    @contextlib.contextmanager
    def locked(store: TrialStore) -> Iterator[None]:
        asked = time.perf_counter()
        with real(store):
            began, cpu_began = time.perf_counter(), time.process_time()
            yield
            held_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
        with open(os.environ["FLEET_LOCKS"], "a", encoding="utf-8") as file:
            file.write(f"{time.time()} {began - asked} {held_s} {cpu_s}\n")

    TrialStore.locked = locked  # type: ignore[method-assign]


def _no_report(*_: object) -> list[str]:
    """Takes the place of the report."""
    return []


if __name__ == "__main__":
    from autotune.cli import launch, main

    main.finish_report = launch.refresh_report = _no_report
    if sys.argv[1:2] == ["--serve"]:
        import prepared

        prepared.serve()
    _write_locks_down()
    main.main()
