# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pliant.kernel import sysctls
from pliant.kernel.congestion_controls import congestion_controls
from pliant.kernel.errors import KernelError, NotSupported
from pliant.kernel.namespaces import entered


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.tcp_rmem", "net/ipv4/tcp_rmem"),
        ("net/ipv4/tcp_rmem", "net/ipv4/tcp_rmem"),
        ("net/ipv4/conf/eth0.100/rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
        ("net.ipv4.conf.eth0/100.rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
    ],
)
def test_a_name_may_be_given_with_dots_or_slashes(name: str, path: str) -> None:
    assert sysctls.path_of(name) == Path("/proc/sys") / path


@pytest.mark.parametrize("name", ["", "net..ipv4", "net/../../etc", "/etc/passwd"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(KernelError, match="is not the name of a sysctl"):
        sysctls.path_of(name)


@pytest.mark.root
def test_a_value_is_written_and_read_back(network: Any) -> None:
    with entered(network.fd):
        sysctls.write("net.ipv4.tcp_rmem", "4096\t131072  6291456")
        assert sysctls.read("net.ipv4.tcp_rmem") == "4096 131072 6291456"
        sysctls.write("net.ipv4.tcp_ecn", 1)
        assert sysctls.read("net.ipv4.tcp_ecn") == "1"


@pytest.mark.root
def test_an_interface_with_a_dot_in_its_name_is_reached(network: Any) -> None:
    with entered(network.fd):
        subprocess.run(["ip", "link", "add", "v.1", "type", "veth", "peer", "name", "w.1"], check=True)
        sysctls.write("net/ipv4/conf/v.1/rp_filter", 2)
        assert sysctls.read("net.ipv4.conf.v/1.rp_filter") == "2"


@pytest.mark.root
def test_a_value_that_is_not_taken_is_an_error_that_names_both(network: Any) -> None:
    with entered(network.fd), pytest.raises(KernelError, match="was set to '30,31,32' but reads '30-32'"):
        sysctls.write("net.ipv4.ip_local_reserved_ports", "30,31,32")


@pytest.mark.root
def test_a_value_the_kernel_refuses_is_an_error(network: Any) -> None:
    with entered(network.fd), pytest.raises(KernelError, match="to 'loud': Invalid argument") as caught:
        sysctls.write("net.ipv4.tcp_ecn", "loud")
    assert caught.value.errno == errno.EINVAL


@pytest.mark.root
def test_a_parameter_this_kernel_lacks_is_not_supported() -> None:
    for action in (lambda: sysctls.read("net.pliant.none"), lambda: sysctls.write("net.pliant.none", 1)):
        with pytest.raises(NotSupported, match=r"net\.pliant\.none.*: this kernel has none of that name"):
            action()


@pytest.mark.root
def test_available_congestion_controls_are_listed() -> None:
    assert {"reno", "cubic"} <= congestion_controls()
