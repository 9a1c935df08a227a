# SPDX-License-Identifier: Apache-2.0
"""Packages from the Debian mirror this machine is set up for, of any of its suites, without touching the machine's apt.

Each suite has lists and a cache of its own under the working directory; signatures are checked with the machine's keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from kernels.failure import Failure, run

_TARGET = "$(SITE)|$(LABEL)|$(COMPONENT)"


def mirror() -> str:
    """The address of the Debian archive in this machine's apt configuration; raises :class:`Failure` without one."""
    for line in run(["apt-get", "indextargets", "--format", _TARGET, "Created-By: Packages"]).splitlines():
        site, label, component = line.split("|")
        if (label, component) == ("Debian", "main"):
            return site
    raise Failure(
        "apt knows no Debian archive on this machine: add one to its sources and run 'apt-get update'"
    )


class Suite:
    """One suite of the archive, by its name ("bookworm", "trixie-backports")."""

    def __init__(self, name: str, site: str, directory: Path) -> None:
        self.name = name
        self._directory = directory / name
        for part in ("lists/partial", "cache/archives/partial"):
            (self._directory / part).mkdir(parents=True, exist_ok=True)
        (self._directory / "status").touch()
        (self._directory / "sources.list").write_text(f"deb {site} {name} main\n")
        self._configuration = self._directory / "apt.conf"
        self._configuration.write_text(self._settings())

    def _settings(self) -> str:
        here = self._directory
        return (
            f'Dir::Etc::SourceList "{here}/sources.list";\nDir::Etc::SourceParts "/dev/null";\n'
            f'Dir::State::Lists "{here}/lists";\nDir::State::Status "{here}/status";\n'
            f'Dir::State "{here}";\nDir::Cache "{here}/cache";\n'
            'Acquire::Languages "none";\nAPT::Install-Recommends "false";\nAPT::Sandbox::User "root";\n'
        )

    def refresh(self) -> None:
        """Fetch the lists; raises :class:`Failure` with apt's words where the suite cannot be had."""
        try:
            self._apt("apt-get", "update", "-q", "--error-on=any")
        except Failure as failure:
            raise Failure(
                f"the suite {self.name} cannot be had from this mirror: {_reason(failure)}"
            ) from failure

    def kernel(self, flavour: str) -> list[tuple[str, str]]:
        """The packages of the suite's newest kernel of a flavour ("cloud-amd64"), each with its version, image first.

        The image package holds all, or (since Linux 7) depends on packages of the kernel itself and its modules.
        """
        [image] = named_dependencies(self._shown(f"linux-image-{flavour}"), r"linux-image-\d\S*")[:1] or [
            ("", "")
        ]
        if not image[0]:
            raise Failure(f"the suite {self.name} has no kernel linux-image-{flavour}")
        return [image, *named_dependencies(self._shown(image[0]), r"linux-(?:binary|modules)-\d\S*")]

    def _shown(self, package: str) -> str:
        try:
            return self._apt("apt-cache", "show", "--no-all-versions", package)
        except Failure as failure:
            raise Failure(f"the suite {self.name} has no package {package}") from failure

    def download(self, packages: Sequence[str]) -> list[Path]:
        """Packages with all that they depend on, as files."""
        self._apt("apt-get", "install", "-q", "-y", "--download-only", *packages)
        archives = self._directory / "cache" / "archives"
        planned = self._apt("apt-get", "install", "-q", "-y", "--simulate", *packages)
        names = re.findall(r"^Inst (\S+) \((\S+) .*\[(\w+)\]\)", planned, re.MULTILINE)
        return sorted(
            archives / f"{name.partition(':')[0]}_{version.replace(':', '%3a')}_{architecture}.deb"
            for name, version, architecture in names
        )

    def download_alone(self, package: str, version: str) -> Path:
        """One package without what it depends on, as a file."""
        architecture = run(["dpkg", "--print-architecture"]).strip()
        file = self._directory / f"{package}_{version.replace(':', '%3a')}_{architecture}.deb"
        if not file.exists():
            self._apt("sh", "-c", 'cd "$1" && apt-get download -q "$2"', "sh", str(self._directory), package)
        return file

    def install_on_this_machine(self, package: str, base: str) -> None:
        """Install a package of this suite on the machine itself; ``base`` is the suite the machine has."""
        sudo = [] if os.geteuid() == 0 else ["sudo"]
        sources = self._directory / "machine.list"
        site = (self._directory / "sources.list").read_text().split()[1]
        sources.write_text(f"deb {site} {base} main\ndeb {site} {self.name} main\n")
        options = [
            *("-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null"),
            *("-o", f"Dir::State::Lists={self._directory / 'machine-lists'}"),
        ]
        run([*sudo, "apt-get", *options, "update", "-q"])
        noninteractive = ["env", "DEBIAN_FRONTEND=noninteractive"]
        install = ["install", "-q", "-y", "--no-install-recommends", "-t", self.name, package]
        run([*sudo, *noninteractive, "apt-get", *options, *install])

    def _apt(self, *argv: str) -> str:
        return run(argv, env={**os.environ, "APT_CONFIG": str(self._configuration), "LC_ALL": "C"})


def _reason(failure: Failure) -> str:
    errors = [line.removeprefix("E: ") for line in str(failure).splitlines() if line.startswith("E: ")]
    return re.sub(r"https?://\S+", "its release file", errors[0]) if errors else "apt gave no reason"


def named_dependencies(shown: str, pattern: str) -> list[tuple[str, str]]:
    """The dependencies whose names match, with their versions, in what ``apt-cache show`` prints."""
    line = next((line for line in shown.splitlines() if line.startswith("Depends: ")), "")
    return re.findall(rf"({pattern}) \(= ([^)]+)\)", line)
