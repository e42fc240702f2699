"""A real Slurm in a folder of its own: munged, slurmctld and a slurmd for each node, started by hand.

It needs Debian's packages `munge slurmctld slurmd slurm-client`, but no service, cgroup or database.
`python tests/slurm/slurm_cluster.py FOLDER` starts one for use by hand and stops it at Ctrl-C.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
# Debian keeps daemons where an ordinary user's PATH does not look.
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
START_LIMIT_S = 60.0

CONFIG = """\
ClusterName=vlmdiff
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd_%n.log
# Without cgroups: a job is its process groups; memory is read from /proc, its limit enforced by slurmd.
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
MpiDefault=none
MailProg=/bin/true
KillWait=10
MinJobAge=3600
ReturnToService=2
GresTypes=gpu
{nodes}
PartitionName=cpu Nodes={names} Default=YES MaxTime=1-00:00:00 State=UP
PartitionName=gpu Nodes={names} MaxTime=1-00:00:00 State=UP
"""
# All nodes are this machine, each with a port of its own.
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
    "CPUs={cpus} RealMemory={memory_mb} Gres=gpu:1 State=UNKNOWN"
)


class SlurmError(RuntimeError):
    """A daemon did not start, or a command of Slurm failed."""


def missing_programs() -> list[str]:
    """Return the programs of Slurm and munge that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=SEARCH) is None]


def free_port() -> int:
    """Return a TCP port that nothing listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class SlurmCluster:
    """Two partitions (`cpu`, `gpu`), a declared GPU a node that does not exist, no accounting.

    Args:
        folder: receives key, configuration, state and logs; its path must be shorter than 80 characters.
        cpus: processors that a node offers, whatever the machine has.
        memory_mb: memory that a node offers; jobs that use more than they asked for are killed.
        nodes: how many; tests that lose or drain one need a single node.
    """

    def __init__(self, folder: Path, cpus: int = 2, memory_mb: int = 8000, nodes: int = 1):
        self.folder = Path(folder)
        self.host = socket.gethostname().partition(".")[0]
        self.nodes = [self.host, *(f"{self.host}-{number}" for number in range(2, nodes + 1))]
        self.cpus, self.memory_mb = cpus, memory_mb
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            # Names of nodes that are this machine have no address.
            "MASTER_ADDR": "127.0.0.1",
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{SEARCH}",
        }

    def __enter__(self) -> SlurmCluster:
        """Start the daemons and wait until the node takes jobs."""
        missing = missing_programs()
        if missing:
            raise SlurmError(f"{', '.join(missing)} not found: install munge slurmctld slurmd slurm-client")
        try:
            self.write_files()
            self.launch("munged", "--foreground", "--force", *self.munge_files())
            self.wait_for("munge to listen", lambda: (self.folder / "munge.socket").exists())
            self.launch("slurmctld", "-D")
            self.wait_for("the controller to answer", lambda: self.ask("scontrol", "ping").returncode == 0)
            for name in self.nodes:
                self.launch("slurmd", "-D", "-N", name)
            self.wait_for("the nodes to be idle", lambda: self.node_state() == "idle")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel what still runs and stop the daemons."""
        self.ask("scancel", "--signal=KILL", "--full", "--user", getpass.getuser())
        self.ask("scancel", "--user", getpass.getuser())
        try:
            self.wait_for("jobs to end", lambda: not self.jobs())
        finally:
            self.stop()

    def write_files(self) -> None:
        """Write the key that all daemons share and the configuration."""
        for name in ("state", *(f"spool_{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        values = {"folder": self.folder, "host": self.host, "user": getpass.getuser()}
        size = {"host": self.host, "cpus": self.cpus, "memory_mb": self.memory_mb}
        lines = [NODE.format(name=name, port=free_port(), **size) for name in self.nodes]
        values |= {"nodes": "\n".join(lines), "names": ",".join(self.nodes)}
        text = CONFIG.format(**values, controller_port=free_port())
        (self.folder / "slurm.conf").write_text(text)
        self.write_srun()
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")

    def write_srun(self) -> None:
        """Put an `srun` before Slurm's own: Snakemake drops SLURM_CONF before it starts a job's step."""
        place = self.folder / "bin" / "srun"
        place.parent.mkdir()
        own = shutil.which("srun", path=SEARCH)
        place.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {own} "$@"\n')
        place.chmod(0o755)

    def munge_files(self) -> list[str]:
        """Return the options that keep munge inside the folder."""
        names = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid"}
        names |= {"log-file": "munge.log", "seed-file": "munge.seed"}
        return [f"--{option}={self.folder / name}" for option, name in names.items()]

    def launch(self, program: str, *arguments: str) -> None:
        """Start a daemon in the foreground; what it says goes to `<program>.out`."""
        path = shutil.which(program, path=SEARCH)
        with (self.folder / f"{program}.out").open("wb") as out:
            command = [str(path), *arguments]
            self.daemons.append(
                subprocess.Popen(
                    command,
                    env=self.environment,
                    stdout=out,
                    stderr=out,
                    stdin=subprocess.DEVNULL,
                    # Ctrl-C at the terminal is for Python, which stops the daemons in order.
                    start_new_session=True,
                )
            )

    def wait_for(self, what: str, happened, limit_s: float = START_LIMIT_S) -> None:
        """Wait until `happened()`; say what the daemons said if it does not.

        Raises:
            SlurmError: a daemon ended, or `limit_s` seconds passed.
        """
        end = time.monotonic() + limit_s
        while not happened():
            dead = [daemon.args[0] for daemon in self.daemons if daemon.poll() is not None]
            if dead or time.monotonic() > end:
                logs = "\n".join(
                    f"{path.name}: {path.read_text(errors='replace')[-1500:]}"
                    for path in sorted([*self.folder.glob("*.out"), *self.folder.glob("*.log")])
                )
                raise SlurmError(f"waited for {what}; ended: {dead or 'none'}\n{logs}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop the daemons, the last one first."""
        for daemon in reversed(self.daemons):
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.daemons = []

    def ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands in this cluster."""
        return subprocess.run(command, env=self.environment, text=True, capture_output=True, check=False)

    def tell(self, *command: str) -> str:
        """Run one of Slurm's commands and return what it printed.

        Raises:
            SlurmError: the command failed.
        """
        done = self.ask(*command)
        if done.returncode:
            raise SlurmError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def node_state(self) -> str:
        """Return the state of the node (of all, if they agree) as `sinfo` names it: idle, mixed, drained …"""
        return self.ask("sinfo", "--noheader", "-p", "cpu", "-o", "%T").stdout.strip()

    def drain(self, reason: str = "a test") -> None:
        """Let the node start no further job."""
        self.tell("scontrol", "update", f"NodeName={self.host}", "State=DRAIN", f"Reason={reason}")

    def resume(self) -> None:
        """Let a drained node start jobs again."""
        self.tell("scontrol", "update", f"NodeName={self.host}", "State=RESUME")

    def jobs(self, states: str = "pending,running,completing") -> dict[str, str]:
        """Return `{job id: rule and wildcards}` of the jobs in these states."""
        lines = self.tell("squeue", "--noheader", f"--states={states}", "--format=%i|%k").splitlines()
        return dict(line.split("|", 1) for line in lines)

    def working(self) -> dict[str, str]:
        """Return the running jobs whose step has begun: before that there is nothing to signal."""
        steps = self.tell("squeue", "--steps", "--noheader", "--format=%i").split()
        begun = {step.partition(".")[0] for step in steps if step.rpartition(".")[2].isdigit()}
        return {number: name for number, name in self.jobs("running").items() if number in begun}

    def job(self, number: str) -> dict[str, str]:
        """Return what the controller knows of one job."""
        words = self.tell("scontrol", "show", "job", "--oneliner", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)


if __name__ == "__main__":
    stops = {signal.SIGINT, signal.SIGTERM}
    with SlurmCluster(Path(sys.argv[1]).absolute()) as running:
        signal.pthread_sigmask(signal.SIG_BLOCK, stops)
        print(f"export SLURM_CONF={running.environment['SLURM_CONF']}", flush=True)
        signal.sigwait(stops)
