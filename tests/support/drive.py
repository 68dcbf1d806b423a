"""The `autotune` command without its report, so that tests of the engine stand without the report room.

It runs on a card of another name where `AUTOTUNE_TEST_CARD` has one.
"""

import os
import sys


def _no_report(*_: object) -> list[str]:
    """Takes the place of the report."""
    return []


if __name__ == "__main__":
    from autotune.cli import launch, main
    from autotune.machine import host

    main.finish_report = launch.refresh_report = _no_report
    main.try_to_report = lambda root, storage: ([], None)
    if sys.argv[1:2] == ["--serve"]:
        import prepared

        prepared.serve()
    if card := os.environ.get("AUTOTUNE_TEST_CARD"):
        host.cpu_name = lambda: card
    main.main()
