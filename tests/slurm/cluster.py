"""A Slurm cluster of two nodes on this machine, for tests.

It is run as root, without systemd, and writes into one folder only.
"""

import os
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
# a requeued job starts cred_expire + 1 seconds later, by default after two minutes
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
ReturnToService=2
SlurmdParameters=config_overrides
{user_signal}
SchedulerParameters=bf_interval=1,sched_interval=5,sched_min_interval=100000,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
MinJobAge=86400
MaxArraySize={max_array_size}
MaxJobCount=20000
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1_port} CPUs={cpus} RealMemory=8000 Gres=gpu:a100:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2_port} CPUs={cpus} RealMemory=8000 Gres=gpu:a100:2
PartitionName=DEFAULT Nodes=ALL DefaultTime=00:10:00 PriorityTier=10 PreemptMode=OFF
PartitionName=short MaxTime=04:00:00 Default=YES
PartitionName=normal MaxTime=48:00:00
PartitionName=gengpu MaxTime=48:00:00
PartitionName=scavenge MaxTime=48:00:00 PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
"""


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Cluster:
    "Slurm on this machine while the `with` block lasts; its commands are run by `run`, or with the environment `env`."

    nodes = ("n1", "n2")

    def __init__(
        self,
        folder: Path,  # a folder of its own
        cpus: int = 2,  # of each node
        grace: int = 10,  # seconds a preempted job of `scavenge` has left; below 15 it still gets 15
        max_array_size: int = 1001,  # array indices are smaller than this
        user_signal: bool = True,  # a preempted job gets the signal it asked for by --signal at once
    ):
        self.folder = Path(folder).resolve()
        outside = {
            name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SQUEUE"))
        }
        self.env = {
            **outside,
            "SLURM_CONF": f"{self.folder}/slurm.conf",
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        }
        self.daemons = {}
        for name in ("state", *(f"spool-{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True)
        for gpu in ("gpu0", "gpu1"):
            (self.folder / gpu).symlink_to("/dev/null")
        controller_port, n1_port, n2_port = free_ports(3)
        conf = CONF.format(
            folder=self.folder,
            host=socket.gethostname().split(".")[0],
            cpus=cpus,
            grace=grace,
            max_array_size=max_array_size,
            controller_port=controller_port,
            n1_port=n1_port,
            n2_port=n2_port,
            user_signal="SlurmctldParameters=preempt_send_user_signal" if user_signal else "",
        )
        (self.folder / "slurm.conf").write_text(conf)
        (self.folder / "gres.conf").write_text(f"NodeName=n[1-2] Name=gpu Type=a100 File={self.folder}/gpu[0-1]\n")
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")  # loaded, never used
        (self.folder / "munge.key").touch(mode=0o600)
        (self.folder / "munge.key").write_bytes(os.urandom(128))

    def __enter__(self):
        try:
            files = {
                "key-file": "munge.key",
                "socket": "munge.sock",
                "pid-file": "munge.pid",
                "seed-file": "munge.seed",
                "log-file": "munge.log",
            }
            self.start(
                "munged",
                "munged",
                "--foreground",
                "--force",
                *(f"--{key}={self.folder}/{file}" for key, file in files.items()),
            )
            self.wait_for((self.folder / "munge.sock").exists, "munge")
            self.start("slurmctld", "slurmctld", "-D")
            for node in self.nodes:
                self.start_node(node)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error):
        self.stop()

    def start(self, name: str, *command: str):
        "Start a daemon; should this process be killed, it ends too."
        with open(self.folder / f"{name}.out", "ab") as output:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.env,
                start_new_session=True,
            )

    def run(self, *command: str, **options) -> str:
        "What one of Slurm's commands prints, e.g. `run('sbatch', '--parsable', input=script)`; fails if it does."
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=600, **options)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def wait_for(self, condition, what: str, seconds: float = 600):
        "Wait until `condition()` holds; a daemon that ended meanwhile is an error."
        end = time.monotonic() + seconds
        while not condition():
            ended = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            if ended or time.monotonic() > end:
                raise TimeoutError(f"waited for {what}; daemons that ended: {ended}; logs are in {self.folder}")
            time.sleep(0.1)

    def start_node(self, node: str):
        self.start(node, "slurmd", "-D", "-N", node)

        def is_up():
            with suppress(RuntimeError):  # the controller does not answer yet
                return self.run("sinfo", "-h", "-n", node, "-o", "%T") in ("idle", "mixed", "allocated")

        self.wait_for(is_up, f"node {node}")

    def kill_node(self, node: str, jobs: bool = True):
        "The node dies with all that runs on it; without `jobs` it is only lost from sight, and its jobs run on unseen."
        self.daemons[node].kill()
        self.daemons.pop(node).wait()
        if jobs:
            self.kill_processes(node)
        self.run(
            "scontrol", "update", f"nodename={node}", "state=down", "reason=test"
        )  # or Slurm would notice in half a minute

    def processes(self, *nodes: str) -> list[int]:
        "Processes of the jobs on these nodes: what the jobs started, and Slurm's slurmstepd above each."
        marks = {f"SLURMD_NODENAME={node}".encode() for node in nodes}
        logs = {f"{self.folder}/slurmd-{node}.log" for node in nodes}
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has just ended
                variables = (place / "environ").read_bytes().split(b"\0")
                ours = f"SLURM_CONF={self.env['SLURM_CONF']}".encode() in variables and not marks.isdisjoint(variables)
                if (
                    place / "comm"
                ).read_text() == "slurmstepd\n":  # it wipes its environment, but keeps its node's log open
                    ours = any(os.readlink(file) in logs for file in (place / "fd").iterdir())
                if ours:
                    found.append(int(place.name))
        return found

    def kill_processes(self, *nodes: str):
        def none_left():
            left = self.processes(*nodes)
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            return not left

        self.wait_for(none_left, "the jobs' processes to end")

    def stop(self):
        "End the daemons and what is left of the jobs."
        for name in list(reversed(self.daemons)):  # munge last: the others speak through it
            daemon = self.daemons.pop(name)
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.kill_processes(*self.nodes)
