"""A peer that is suspended while it holds the lock of a shared study: takes the database's URL and the study's name."""

import os
import signal
import sys
from pathlib import Path

from autotune.store.database import exclusive, open_storage
from autotune.store.run_directory import RunDirectory

if __name__ == "__main__":
    storage = open_storage(RunDirectory(Path("unused")), sys.argv[1], heartbeat_s=1)
    with exclusive(storage, sys.argv[2]):
        os.kill(os.getpid(), signal.SIGSTOP)
    print("went on")
