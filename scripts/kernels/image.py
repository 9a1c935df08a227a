# SPDX-License-Identifier: Apache-2.0
"""The guest's root file system: an archive (cpio, "newc") that the kernel unpacks into memory.

The kernel takes several archives one after the other, so what all kernels share is packed once.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from kernels.failure import Failure, run

USER_SPACE = ("python3", "libbpf1", "iproute2", "busybox-static", "dash", "kmod", "nftables")
PYTHON = "3.11"  # of the suite the user space is from
NOT_WANTED = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/perl5"),
    *(
        "usr/share/lintian",
        "usr/share/bug",
        "usr/share/i18n",
        "usr/share/consolefont",
        "usr/lib/x86_64-linux-gnu/gconv",
    ),
    *("usr/lib/python3.11/idlelib", "usr/lib/python3.11/lib2to3", "usr/lib/python3.11/pydoc_data"),
)
# What a policy may need of a kernel is built in or among these; whatever they depend on comes with them.
MODULES = (
    *(f"kernel/net/{name}/" for name in ("ipv4", "ipv6", "sched", "core", "netfilter", "bridge")),
    *(f"kernel/drivers/net/{name}.ko" for name in ("veth", "tun", "dummy", "ifb", "vxlan/vxlan")),
    *("kernel/crypto/crc32c", "kernel/arch/x86/crypto/crc32c"),  # conntrack asks for them when it is loaded
)
_TAR = ("tar", "--extract", "--keep-directory-symlink", "--no-same-owner", "--directory")
_MERGED = ("bin", "sbin", "lib", "lib64")


def unpack(package: Path, directory: Path) -> None:
    """Unpack a Debian package without running anything of it."""
    directory.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as reader:
        done = subprocess.run([*_TAR, directory], stdin=reader.stdout, capture_output=True, text=True)
    if reader.returncode or done.returncode:
        raise Failure(f"{package.name} cannot be unpacked: {done.stderr.strip()}")


def make_root(packages: Iterable[Path], root: Path) -> None:
    """Unpack the user space; ``root`` is made anew when the packages are others than before."""
    packages = list(packages)
    stamp, listed = root.with_suffix(".packages"), "\n".join(sorted(package.name for package in packages))
    if stamp.exists() and stamp.read_text() == listed:
        return
    stamp.unlink(missing_ok=True)
    shutil.rmtree(root, ignore_errors=True)
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in packages:
        unpack(package, root)
    for name in NOT_WANTED:
        shutil.rmtree(root / name, ignore_errors=True)
    for name in ("proc", "sys", "dev", "run", "tmp", "root", "opt/pliant", "var/lib", "var/log"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "usr/bin/sh").unlink(missing_ok=True)
    (root / "usr/bin/sh").symlink_to("dash")  # busybox has an "ip" of its own
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    compile_python(root, "usr/lib")
    stamp.write_text(listed)


def _inside(root: Path, name: str, *arguments: str) -> str:
    """Run a program of the root file system with its own libraries, without entering it."""
    libraries = f"{root}/usr/lib/x86_64-linux-gnu"
    program = root / "usr/bin" / ("kmod" if name == "depmod" else name)
    loader: list[str | Path] = [
        root / "lib64/ld-linux-x86-64.so.2",
        "--library-path",
        libraries,
        "--argv0",
        name,
    ]
    return run([*loader, program, *arguments], env={"PYTHONHOME": f"{root}/usr", "PATH": os.environ["PATH"]})


def compile_python(root: Path, directory: str) -> None:
    """Compile modules to byte code: an emulated processor takes long over it."""
    _inside(
        root,
        f"python{PYTHON}",
        *("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", str(root), "-p", "/"),
        str(root / directory),
    )


def install_wheel(wheel: Path, root: Path) -> None:
    """Install the wheel and what it depends on under /opt/pliant of the root file system."""
    target = root / "opt/pliant"
    shutil.rmtree(target, ignore_errors=True)
    platforms = [
        word for name in ("manylinux2014_x86_64", "manylinux_2_28_x86_64") for word in ("--platform", name)
    ]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--no-warn-script-location",
    ]
    kind = ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON, *platforms]
    run([*pip, *kind, "--target", target, wheel])
    compile_python(root, "opt/pliant")


def unpack_kernel(packages: Iterable[Path], directory: Path) -> tuple[Path, str]:
    """Unpack a kernel; return its image and its release."""
    marker = directory / "unpacked"
    if not marker.exists():
        shutil.rmtree(directory, ignore_errors=True)
        for package in packages:
            unpack(package, directory)
        marker.touch()
    [image] = [*directory.glob("boot/vmlinuz-*"), *directory.glob("usr/lib/modules/*/vmlinuz")][:1]
    [modules] = [*directory.glob("lib/modules/*"), *directory.glob("usr/lib/modules/*")][:1]
    return image, modules.name


def choose_modules(kernel: Path, release: str, root: Path, chosen: Path) -> None:
    """Copy the modules that policies may need, and those these depend on."""
    shutil.rmtree(chosen, ignore_errors=True)
    source = next(
        p for p in (kernel / "lib/modules" / release, kernel / "usr/lib/modules" / release) if p.is_dir()
    )
    base = source.parent.parent.parent
    _inside(root, "depmod", "-b", str(base), release)
    target = chosen / "usr/lib/modules" / release
    for line in (source / "modules.dep").read_text().splitlines():
        module, _, needed = line.partition(":")
        if module.startswith(MODULES):
            for name in (module, *needed.split()):
                _copy(source / name, target / name)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        if (source / name).exists():
            _copy(source / name, target / name)
    _inside(root, "depmod", "-b", str(chosen / "usr"), release)


def _copy(source: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def pack(tree: Path) -> bytes:
    """A directory as one archive, everything owned by root."""
    paths = [tree, *sorted(_below(tree))]
    parts = [_member(path, os.path.relpath(path, tree), number) for number, path in enumerate(paths, 1)]
    archive = b"".join((*parts, _record("TRAILER!!!", 0, 0, b"")))
    return archive + bytes(-len(archive) % 512)


def _below(tree: Path) -> Iterator[Path]:
    for directory, directories, files in os.walk(tree):
        yield from (Path(directory, name) for name in (*directories, *files))


def _member(path: Path, name: str, number: int) -> bytes:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return _record(name, number, found.st_mode, os.fsencode(path.readlink()))
    content = path.read_bytes() if stat.S_ISREG(found.st_mode) else b""
    return _record(name, number, found.st_mode, content)


def _record(name: str, number: int, mode: int, content: bytes) -> bytes:
    encoded = os.fsencode(name) + b"\0"
    links, nobody = 2 if stat.S_ISDIR(mode) else 1, 0
    values = (number, mode, nobody, nobody, links, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % value for value in values) + encoded
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
