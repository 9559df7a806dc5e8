"""What a user does with deploy/cluster.local.yaml, step by step; runs inside the namespaces."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.cluster import machines
from tests.cluster.environment import make_homes
from tests.support.runs import ROOT, SMALL

SHIPPED = "deploy/cluster.local.yaml"
OF_PROJECT = "configs/tiny/colad_shapes.py"
DASHBOARD = "http://127.0.0.1:8265"
STEP_S = 300
TINY = [item for item in SMALL if "max_iterations" not in item]
OWN_CONFIG = """
_base_ = [{base!r}]
custom_imports = ["my_module"]
"""
OWN_MODULE = """
import os

with open(os.path.join({seen!r}, os.uname().nodename), "a"):
    pass
"""
PROBE = """
import ray

ray.init("{address}")
print("let in:", ray.cluster_resources())
"""


@dataclass
class Scenario:
    """The client, and what it knows of the cluster."""

    folder: Path
    head: str
    workers: list[str]
    table: list[tuple[str, float]] = field(default_factory=list)

    @property
    def shared(self) -> Path:
        """Storage that all machines see at the same path."""
        return self.folder / "shared"

    @property
    def home(self) -> Path:
        """Of every machine, at the same path, with its own contents."""
        return self.folder / "home"

    def run(
        self,
        *words: str | Path,
        says: Sequence[str] = (),
        fails: bool | None = False,
        patience_s: float = STEP_S,
        **environment: str,
    ) -> str:
        """A command of the client, in the project's folder; what it prints.

        Args:
            words: the command line.
            says: patterns that its output must hold.
            fails: whether it must end with an error; None: whatever it does.
            patience_s: how long it may take.
            environment: more variables.
        """
        shown = " ".join(map(str, words))
        print(f"\n$ {shown}", flush=True)
        done = subprocess.run(
            [str(word) for word in words],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=patience_s,
        )
        expected = fails is None or (done.returncode != 0) == fails
        lines = done.stdout.splitlines()[-25 if expected else 0 :]
        print("\n".join(f"  {line}" for line in lines), flush=True)
        assert expected, f"exit code {done.returncode}: {shown}"
        for pattern in says:
            assert re.search(pattern, done.stdout), f"{pattern!r} not in the output of: {shown}"
        return done.stdout

    def step(self, name: str, work: Callable[[], object]) -> None:
        """Do a step and note how long it took."""
        started = time.monotonic()
        work()
        self.table.append((name, time.monotonic() - started))

    def on_head(self, command: str, **options: object) -> str:
        """`ray exec`."""
        return self.run("ray", "exec", SHIPPED, command, **options)  # type: ignore[arg-type]

    def train(self, name: str, *more: str, config: str = OF_PROJECT) -> list[str]:
        """Arguments of `colad train`: a few iterations, a network on each of two machines."""
        return [
            config,
            *("--work-dir", str(self.shared / "runs" / name)),
            *("--set", f"data.root={self.shared / 'shapes'}", *TINY, "train.max_iterations=4"),
            *("resources.placement=spread", "feed.placement=per_node"),
            *("resources.cpus_per_network=1.2", *more),
        ]

    # -- the steps --------------------------------------------------------------------------------

    def up(self) -> None:
        self.run("ray", "get-auth-token", "--generate")
        self.run("ray", "up", "--yes", SHIPPED, RAY_UP_enable_autoscaler_v2="0")

    def workers_join(self) -> None:
        deadline = time.monotonic() + STEP_S
        while self.living() < 1 + len(self.workers):
            assert time.monotonic() < deadline, "the workers did not join"
            time.sleep(3)

    def living(self) -> int:
        """Nodes that the cluster counts."""
        status = self.on_head("ray status")
        return sum(map(int, re.findall(r"^ (\d+) local\.cluster\.node", status, re.MULTILINE)))

    def submit(self) -> None:
        """Train on the cluster, look at the result there, fetch it, and the copy that it kept."""
        copy = (self.shared / "copy").as_uri()
        self.run(
            "ray",
            "submit",
            SHIPPED,
            "jobs/train.py",
            *map(quoted, self.train("first", f"checkpoint.upload={copy}")),
            says=["finished at iteration 4"],
        )
        self.run("colad", "fetch", copy, self.home / "copy", says=["files in"])
        self.run("colad", "eval", self.home / "copy", says=["r18", "r34"])
        run = self.shared / "runs" / "first"
        self.on_head(f"colad report {run}", says=["index.html"])
        fetched = self.home / "fetched"
        fetched.mkdir()
        self.run("ray", "rsync-down", SHIPPED, f"{run}/", f"{fetched}/")
        self.run("colad", "eval", fetched, says=["r18", "r34"])
        assert (fetched / "report" / "index.html").is_file()
        self.look_for_the_token(fetched)

    def look_for_the_token(self, folder: Path) -> None:
        token = (self.home / ".ray" / "auth_token").read_bytes().strip()
        assert len(token) > 20
        holding = [p for p in folder.rglob("*") if p.is_file() and token in p.read_bytes()]
        assert not holding, f"the token is in {holding}"

    def unshared(self) -> None:
        """A run directory in a home, which the other machines do not see, is refused."""
        arguments = self.train("unshared")
        arguments[2] = "~/runs/unshared"
        self.run(
            "ray",
            "submit",
            SHIPPED,
            "jobs/train.py",
            *map(quoted, arguments),
            fails=True,
            says=[r"--work-dir .*do(es)? not see a file written there", "10.0.0"],
        )

    def job(self) -> None:
        """A working directory with a module and a configuration of one's own."""
        project = self.home / "project"
        self.write_project(project, "job")
        arguments = self.train("second", config="my_config.py")
        self.run(
            "ray",
            "job",
            "submit",
            "--address",
            DASHBOARD,
            "--working-dir",
            project,
            "--",
            "python",
            "jobs/train.py",
            *arguments,
            says=["finished at iteration 4", "succeeded"],
            RAY_AUTH_MODE="token",
        )
        self.expect_seen("job", at_least=2)

    def join(self) -> None:
        """`colad train --address` on the head: a module that lies only there is sent."""
        self.write_project(self.home / "mine", "join")
        self.run("ray", "rsync-up", SHIPPED, f"{self.home / 'mine'}/", f"{self.home / 'mine'}/")
        words = " ".join(map(quoted, self.train("third", config="my_config.py")))
        self.on_head(
            f"cd ~/mine && PYTHONPATH=. colad train {words} --address {self.head}:6379",
            says=["finished at iteration 4"],
        )
        self.expect_seen("join", at_least=2)

    def write_project(self, folder: Path, name: str) -> None:
        seen = self.shared / "seen" / name
        seen.mkdir(parents=True)
        shutil.copytree(ROOT / "jobs", folder / "jobs")
        base = str(self.home / "colad" / "configs" / "tiny" / "colad_shapes.py")
        (folder / "my_config.py").write_text(OWN_CONFIG.format(base=base))
        (folder / "my_module.py").write_text(OWN_MODULE.format(seen=str(seen)))

    def expect_seen(self, name: str, *, at_least: int) -> None:
        """On how many machines the module was imported."""
        seen = sorted(path.name for path in (self.shared / "seen" / name).iterdir())
        print(f"my_module was imported on {seen}")
        assert len(seen) >= at_least

    def strangers(self) -> None:
        """Without the token, or with another one, nobody submits, joins or even asks."""
        empty, guess, head = self.folder / "stranger", "0" * 64, f"{self.head}:6379"
        empty.mkdir()
        submit = [
            "ray",
            "job",
            "submit",
            "--address",
            DASHBOARD,
            "--",
            "touch",
            self.shared / "intruder",
        ]
        refused = r"(?i)auth|token|401|403|permission"
        guest: dict[str, str] = dict(HOME=str(empty))
        forger = dict(**guest, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=guess)
        for who in (guest, forger):
            self.run(*submit, fails=True, says=[refused], **who)
        self.run("ray", "status", "--address", head, fails=True, says=[refused], **guest)
        self.run("ray", "start", f"--address={head}", fails=True, says=[refused], **guest)
        probe = [sys.executable, "-c", PROBE.format(address=f"ray://{self.head}:10001")]
        silence = "ray client connection timeout"
        self.run(*probe, fails=True, says=[silence], **guest)
        # The proxy answers who has the token, whether or not it can then start what it proxies for.
        assert silence not in self.run(*probe, fails=None, RAY_AUTH_MODE="token")
        intruding = [*self.train("intruder"), "--address", head]
        self.run("colad", "train", *intruding, fails=True, says=["ResourceError.*token"], **forger)
        assert not (self.shared / "intruder").exists()
        code = f"import socket; socket.create_connection(('{self.head}', 8265), timeout=5)"
        self.run(sys.executable, "-c", code, fails=True, says=["refused"])
        assert self.living() == 1 + len(self.workers)

    def down(self) -> None:
        """The head at once; the workers, which then miss it, by themselves."""
        self.run("ray", "down", "--yes", SHIPPED)
        deadline = time.monotonic() + STEP_S
        for address in (self.head, *self.workers):
            while self.processes(address):
                assert time.monotonic() < deadline, f"{address}: Ray still runs"
                time.sleep(5)

    def processes(self, address: str) -> list[str]:
        """On a machine: Ray's control store, raylets and workers, by their programs' names.

        Agents and log monitors go later than the raylet that they belong to, and hold nothing.
        """
        key = self.home / ".ssh" / "id_ed25519"
        login = [*("-o", "StrictHostKeyChecking=no"), f"{machines.USER}@{address}"]
        said = self.run("ssh", "-i", key, *login, "ps -eo comm")
        return [line for line in said.splitlines() if re.match("raylet|gcs_server|ray::", line)]


def quoted(argument: str) -> str:
    """`ray submit` and `ray exec` join arguments without quotes; a shell reads them again."""
    if re.search(r"[^\w./=:~-]", argument) is None:
        return argument
    return "'" + argument.replace("'", "'\\''") + "'"


def play(folder: Path) -> None:
    cluster = yaml.safe_load((ROOT / SHIPPED).read_text())
    provider = cluster["provider"]
    story = Scenario(folder, provider["head_ip"], provider["worker_ips"])
    make_homes(folder, ["client", "head", *(f"worker{i}" for i in range(len(story.workers)))])
    machines.make_keys(folder)
    machines.become("client", machines.GATEWAY, folder)
    story.shared.mkdir()
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ.update(HOME=str(story.home), PATH=programs, PYTHONPATH=str(ROOT))
    machines.start_switch()
    names = {"head": story.head, **{f"worker{i}": ip for i, ip in enumerate(story.workers)}}
    for name, address in names.items():
        machines.start_machine(name, address, folder)
    try:
        story.step("ray up", story.up)
        story.step("workers join", story.workers_join)
        story.step("ray submit, report, fetch, eval", story.submit)
        story.step("unshared run directory refused", story.unshared)
        forward = subprocess.Popen(
            ["ray", "dashboard", SHIPPED], cwd=ROOT, stdin=subprocess.DEVNULL
        )
        machines.wait_for_port("127.0.0.1", 8265)
        story.step("ray job submit", story.job)
        story.step("colad train --address", story.join)
        story.step("strangers refused", story.strangers)
        forward.terminate()
        story.step("ray down", story.down)
    finally:
        print("\n" + "\n".join(f"{seconds:6.1f} s  {name}" for name, seconds in story.table))
    print("test-cluster: all steps passed")


def main(folder: Path) -> int:
    """Process 1 of the namespaces reaps; its child plays."""
    child = os.fork()
    if child:
        return machines.reap_until(child)
    try:
        play(folder)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
