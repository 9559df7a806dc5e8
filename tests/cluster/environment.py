"""The Python of the machines: what setup_commands find already done, without a network."""

from __future__ import annotations

import shutil
import site
import subprocess
import sys
from pathlib import Path

RAY = """#!{python}
import sys
from ray.scripts.scripts import main

sys.exit(main())
"""
PIP = """[global]
no-index = true
disable-pip-version-check = true
[install]
no-build-isolation = false
"""
"""No index: what is asked for must be there. (False is how pip's files say "no isolation".)"""


def make_homes(folder: Path, names: list[str]) -> None:
    """A home for each machine, with the login files of a new user and a ``venv``.

    The venv holds nothing of its own; it sees the packages of the environment that runs the test,
    so the shipped ``pip install`` finds torch and Ray there, and installs colad into it.
    """
    home = folder / "home"
    shutil.copytree("/etc/skel", home, dirs_exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
    # Up to Python 3.11 it brings an old setuptools, which would hide the environment's.
    uninstall = [home / "venv" / "bin" / "pip", "uninstall", "--quiet", "--yes", "setuptools"]
    subprocess.run(uninstall, check=True, stderr=subprocess.DEVNULL)
    library = next((home / "venv" / "lib").glob("python*")) / "site-packages"
    (library / "environment.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    ray = home / "venv" / "bin" / "ray"
    ray.write_text(RAY.format(python=home / "venv" / "bin" / "python"))
    ray.chmod(0o755)
    (home / ".config" / "pip").mkdir(parents=True)
    (home / ".config" / "pip" / "pip.conf").write_text(PIP)
    for name in names:
        shutil.copytree(home, folder / "homes" / name, symlinks=True)
    shutil.rmtree(home)
    home.mkdir()
