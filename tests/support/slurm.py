"""A real Slurm of one machine for tests, from Debian's packages slurmctld, slurmd and munge."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch")
# Slurm waits for a credential to expire before a requeued job begins again.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def served() -> Iterator[Path]:
    """Starts Slurm for as long as the generator lives, and yields the file that SLURM_CONF is to name."""
    missing = [name for name in COMMANDS if not shutil.which(name)]
    if missing or os.geteuid():
        pytest.skip(f"no Slurm: {', '.join(missing) or 'root'} is missing; apt-get install slurmctld slurmd munge")

    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = Path(name)
        started = [_munge(folder)]
        try:
            yield _slurm(folder, started)
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait()


def _munge(folder: Path) -> subprocess.Popen[bytes]:
    folder.chmod(0o755)
    key = folder / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    files = {"key-file": key, "socket": folder / "socket", "pid-file": folder / "munge.pid"}
    files |= {"log-file": folder / "munge.log", "seed-file": folder / "seed"}
    options = [f"--{option}={path}" for option, path in files.items()]
    return subprocess.Popen(["munged", "--foreground", "--force", *options], stderr=subprocess.DEVNULL)


def _slurm(folder: Path, started: list[subprocess.Popen[bytes]]) -> Path:
    """Starts controller and node, whose kind of control groups is that of the machine."""
    for part in ("state", "spool"):
        (folder / part).mkdir()
    host = socket.gethostname().partition(".")[0]
    controller_port, node_port = _free_ports(2)
    fields = {"host": host, "folder": folder, "controller_port": controller_port, "node_port": node_port}
    file = folder / "slurm.conf"
    file.write_text(CONFIGURATION.format(**fields, cpus=os.cpu_count()))

    environment = {**os.environ, "SLURM_CONF": str(file)}
    started.append(subprocess.Popen(["slurmctld", "-D"], env=environment, stderr=subprocess.DEVNULL))
    for kind in ("cgroup/v1", "cgroup/v2"):
        (folder / "cgroup.conf").write_text(f"CgroupPlugin={kind}\n")
        node = subprocess.Popen(["slurmd", "-D"], env=environment, stderr=subprocess.DEVNULL)
        for _ in range(100):
            answer = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
            if answer.stdout.strip() == "idle":
                started.append(node)
                return file
            if node.poll() is not None:
                break
            time.sleep(0.2)
        node.kill()
        node.wait()

    log = folder / "slurmd.log"
    pytest.skip(f"Slurm does not start here: {log.read_text().splitlines()[-1:] if log.exists() else 'no log'}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
