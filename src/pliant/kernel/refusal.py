# SPDX-License-Identifier: Apache-2.0
"""From libbpf's messages about a failed load to one sentence for a person and a file with the rest."""

from __future__ import annotations

import contextlib
import errno as codes
import os
import re
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pliant.kernel.errors import KernelError, NoPermission, NotSupported, Refused, kernel_error

_LOG = re.compile(
    r"prog '(?P<program>[^']+)': -- BEGIN PROG LOAD LOG --\n(?P<log>.*?)-- END PROG LOAD LOG --", re.S
)
_STATISTICS = re.compile(r"processed \d+ insns|verification time|stack depth|max_states|^\s*$")
# Said by the verifier, or by libbpf, when the kernel has no such function; the rest of the line names it.
_LACKS = re.compile(
    r"invalid func (?P<helper>\S+#\d+)"
    r"|unknown func (?P<unknown>\S+)"
    r"|program of this type cannot use helper (?P<denied>\S+)"
    r"|extern \(func ksym\) '(?P<kfunc>\w+)': not found"
    r"|kfunc (?P<plain>bpf_rdonly_cast) type ID argument must be of a struct"
    r"|struct_ops init_kern (?P<ops>\w+): struct (?:\S+) is not found"
)
_SINCE = {"bpf_cast_to_kern_ctx": "6.2"}
"""The versions of Linux that functions came with which are not optional."""


def load_error(feature: str, path: Path, number: int, messages: Sequence[str]) -> KernelError:
    """Make the error for a load that failed with ``number``, from what libbpf said meanwhile."""
    text = "\n".join(messages)
    where = f"{feature} ({path.name})"
    log = _LOG.search(text)
    lacks = _LACKS.search(text)
    if lacks:
        name = next(group for group in lacks.groups() if group)
        if lacks["plain"]:
            name += "() of memory without a type, which Linux 6.17 has"
        elif name in _SINCE:
            name += f"(), which Linux {_SINCE[name]} has"
        return NotSupported(f"{where}: this kernel lacks {name}", errno=number)
    if log:
        program, cause = log["program"], _cause(log["log"])
        filed = _filed(f"{feature}-{program}", text)
        message = f"{where}: the verifier refused the program {program}: {cause} ({filed})"
        return Refused(
            message, remedy="report this with that file and the version of the kernel", errno=number
        )
    error = kernel_error(number, f"load {where}")
    if isinstance(error, NoPermission):
        return error
    last = next(
        (line for line in reversed(messages) if line.strip() and "failed to load object" not in line), ""
    )
    filed = _filed(feature, text)
    kind = type(error)
    detail = last.removeprefix("libbpf: ").splitlines()[0] if last else error.message
    return kind(f"cannot load {where}: {detail} ({filed})", errno=number)


def _filed(name: str, text: str) -> str:
    try:
        return f"full log: {write_log(name, text)}"
    except KernelError as error:  # must not hide what went wrong before
        return error.message


def _cause(log: str) -> str:
    lines = [line.strip() for line in log.splitlines()]
    telling = [line for line in lines if line and not _STATISTICS.search(line)]
    plain = [line for line in telling if not re.match(r"; |\d+: \(|\d+: R\d+=|from \d+ to \d+", line)]
    return (plain or telling or ["no reason given"])[-1]


def write_log(name: str, text: str) -> Path:
    """Write a log, replacing the one before of that name, and return its path.

    Goes to ``$PLIANT_LOG_DIR``, else /var/log/pliant, else a private directory under the temporary one.
    """
    wanted = Path(os.environ.get("PLIANT_LOG_DIR") or "/var/log/pliant")
    fallback = Path(tempfile.gettempdir()) / f"pliant-{os.geteuid()}"
    file_name = re.sub(r"[^\w.-]", "_", name) + ".log"
    header = f"{name}\nkernel {os.uname().release}, {os.uname().machine}\n\n"
    for directory in (wanted, fallback):
        with contextlib.suppress(OSError):
            return _replace(directory, file_name, header + text + "\n")
    raise KernelError(f"no log could be written to {wanted} or {fallback}", errno=codes.EACCES)


def _replace(directory: Path, name: str, text: str) -> Path:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():  # someone else's, under a shared /tmp
        raise PermissionError(codes.EACCES, "not ours", str(directory))
    handle, temporary = tempfile.mkstemp(dir=directory)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    Path(temporary).replace(directory / name)
    return directory / name
