"""A Ray job: a task for each process of a study, as `autotune submit --ray` submits it.

It is `python -m autotune.launchers.ray_job WORKERS GPUS ARGUMENT...`, with what follows `autotune run`. Ray is imported
here alone; it is installed where Ray clusters are.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

PARKED = 130
"""Exit code of a process that parked, which is no fault."""


def work(arguments: Sequence[str]) -> int:
    """Run one process of the study in this task, and park it when the task is cancelled.

    Args:
        arguments: What follows `autotune run`.

    Returns:
        Its exit code.
    """
    from autotune.core.child import end_with_parent

    child = subprocess.Popen(
        [sys.executable, "-m", "autotune", "run", *arguments],
        # Ray kills a task's process without a word where a job or a node ends.
        preexec_fn=lambda: end_with_parent(signal.SIGTERM),
    )
    try:
        # Ray raises KeyboardInterrupt between two statements, and in no system call.
        while child.poll() is None:
            time.sleep(0.2)
        return child.returncode
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()


def main() -> None:
    """Start the tasks, wait for them, and cancel them when the job is stopped."""
    import ray

    workers, gpus, *arguments = sys.argv[1:]
    ray.init(log_to_driver=True)

    # The task of a node that is lost begins anew elsewhere: the study is in its database.
    task = ray.remote(num_gpus=float(gpus), max_retries=-1)(work)
    tasks = [task.remote(arguments) for _ in range(int(workers))]

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        codes = ray.get(tasks)
    except KeyboardInterrupt:
        for each in tasks:
            ray.cancel(each)
        ray.wait(tasks, num_returns=len(tasks))
        raise SystemExit(PARKED) from None

    print(f"exit codes of the {len(codes)} processes: {' '.join(map(str, codes))}")
    raise SystemExit(max((code for code in codes if code != PARKED), default=0))


if __name__ == "__main__":
    main()
