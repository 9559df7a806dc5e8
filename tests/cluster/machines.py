"""Machines for a cluster test, made of Linux namespaces: own processes, network, mounts, name.

Each has its own home (at the same path), temporary folder of Ray, shared memory and sshd; all see
the rest of this machine's files, so a folder of these is storage that they share. Nothing of it
can see, or stop, a process outside.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

UNSHARE = (
    "unshare --mount --net --pid --uts --fork --kill-child --mount-proc --propagation private"
).split()
PROGRAMS = ("unshare", "ip", "mount", "ssh", "ssh-keygen", "rsync")
SSHD = "/usr/sbin/sshd"
GATEWAY = "10.0.0.254"
"""The machine that `ray up` runs on; the others are those of deploy/cluster.local.yaml."""
USER = "ubuntu"
"""A second name of root, which alone may mount."""
SSHD_CONFIG = """
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PasswordAuthentication no
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
Subsystem sftp internal-sftp
"""


def missing() -> list[str]:
    """What this machine lacks for the test."""
    lacking = [] if os.geteuid() == 0 else ["root"]
    lacking += [name for name in PROGRAMS if shutil.which(name) is None]
    return lacking + ([] if os.path.exists(SSHD) else [SSHD])


def call(*words: str | int | Path) -> None:
    subprocess.run([str(word) for word in words], check=True, stdin=subprocess.DEVNULL)


def become(name: str, address: str, folder: Path) -> None:
    """Turn this process's namespaces into a machine of that name.

    Args:
        name: its host name; its home is kept in ``folder / "homes" / name``.
        address: that others will know it by.
        folder: of the test; ``folder / "home"`` is where every machine has its home.
    """
    socket.sethostname(name)
    call("ip", "link", "set", "lo", "up")
    own = folder / "machines" / name
    (own / "ray").mkdir(parents=True)
    Path("/tmp/ray").mkdir(exist_ok=True)
    home = folder / "home"
    call("mount", "--bind", folder / "homes" / name, home)
    call("mount", "--bind", own / "ray", "/tmp/ray")
    call("mount", "-t", "tmpfs", "-o", "size=512m", "shm", "/dev/shm")
    call("mount", "-t", "tmpfs", "run", "/run")
    users = Path("/etc/passwd").read_text().splitlines(keepends=True)
    other = [line for line in users if line.split(":")[0] != USER and line.split(":")[2] != "0"]
    entries = [f"{user}:x:0:0:test:{home}:/bin/bash\n" for user in (USER, "root")]
    (own / "passwd").write_text("".join([*entries, *other]))
    (own / "hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n")
    for file in ("passwd", "hosts"):
        call("mount", "--bind", own / file, f"/etc/{file}")


def serve(folder: Path) -> None:
    """Start sshd; its key is the test's."""
    Path("/run/sshd").mkdir()
    log = open(f"/tmp/ray/sshd-{socket.gethostname()}.log", "w")
    subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)


def reap_until(child: int | None) -> int:
    """What the first process of a pid namespace owes the others; ends with ``child``."""
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return 0
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def make_keys(folder: Path) -> None:
    """The client's key, which all machines accept, theirs, and how their sshd uses them."""
    (folder / "sshd_config").write_text(SSHD_CONFIG.format(folder=folder))
    client = folder / "homes" / "client" / ".ssh"
    client.mkdir(parents=True)
    for path in (client / "id_ed25519", folder / "host_key"):
        call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
    shutil.copy(client / "id_ed25519.pub", folder / "authorized_keys")


def start_switch() -> None:
    """A network that machines can be plugged into; this one has the gateway's address."""
    call("ip", "link", "add", "switch", "type", "bridge")
    call("ip", "addr", "add", f"{GATEWAY}/24", "dev", "switch")
    call("ip", "link", "set", "switch", "up")


def start_machine(name: str, address: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start a machine and plug it in; it ends with this process."""
    command = [sys.executable, "-m", "tests.cluster.machines", name, address, str(folder)]
    process = subprocess.Popen([*UNSHARE, *command], stdin=subprocess.DEVNULL)
    ours, theirs = "/proc/self/ns/net", f"/proc/{process.pid}/ns/net"
    deadline = time.monotonic() + 30
    while os.readlink(ours) == os.readlink(theirs):
        assert process.poll() is None and time.monotonic() < deadline, f"{name} did not start"
        time.sleep(0.05)
    plug = f"to-{name}"
    call("ip", "link", "add", plug, "type", "veth", "peer", "name", "eth0", "netns", process.pid)
    call("ip", "link", "set", plug, "master", "switch", "up")
    wait_for_port(address, 22)
    return process


def wait_for_port(address: str, port: int, patience_s: float = 30.0) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            socket.create_connection((address, port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"{address}:{port} does not answer"
            time.sleep(0.1)


def main(name: str, address: str, folder: Path) -> int:
    """The life of one machine."""
    become(name, address, folder)
    deadline = time.monotonic() + 30
    while "eth0" not in [device for _, device in socket.if_nameindex()]:
        assert time.monotonic() < deadline, "nobody plugged this machine in"
        time.sleep(0.05)
    call("ip", "addr", "add", f"{address}/24", "dev", "eth0")
    call("ip", "link", "set", "eth0", "up")
    call("ip", "route", "add", "default", "via", GATEWAY)
    serve(folder)
    return reap_until(None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
