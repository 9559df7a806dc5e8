"""``make test-cluster``: deploy/cluster.local.yaml as shipped, on machines made of namespaces.

`ray up`, `ray submit`, fetching the results, `ray job submit`, strangers who may not, `ray down`:
docs/cluster.md's commands, over ssh. ``--keep`` leaves the folder of the test.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cluster.machines import UNSHARE, missing

LIMIT_S = 1500
NEEDED = (
    "apt-get install openssh-server rsync iproute2 util-linux, pip install 'ray[default]==2.60.0', "
    "and run it as root"
)


def main(arguments: list[str]) -> int:
    lacking = missing()
    if importlib.util.find_spec("aiohttp_cors") is None:
        lacking.append("ray[default]")
    if lacking:
        print(f"test-cluster: missing here: {', '.join(lacking)}; {NEEDED}", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="colad-cluster-", dir="/tmp"))
    command = [*UNSHARE, sys.executable, "-m", "tests.cluster.scenario", str(folder)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    try:
        return subprocess.run(command, env=environment, timeout=LIMIT_S).returncode
    finally:
        if "--keep" in arguments:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
