# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pliant.errors import PliantError
from pliant.features.feature import HostFacts
from pliant.features.send_buffer import check

if TYPE_CHECKING:
    from tests.conftest import MakePolicy, Pair, Pliant
    from tests.features.conftest import Ends, Tune

pytestmark = pytest.mark.root

KIB = 1 << 10
BULK = 20_000_000


def test_socket_has_the_buffer(tune: Tune, role: str, family: str) -> None:
    found = tune({"send_buffer": "256KiB"}, role, family)
    assert found.state.sndbuf == 256 * KIB
    for untouched in (found.peer, found.unmatched):
        assert untouched.sndbuf != 256 * KIB


def test_smallest_is_taken_by_the_kernel(tune: Tune) -> None:
    assert tune({"send_buffer": "8KiB"}, "server", "ipv6").state.sndbuf == 8 * KIB


def test_buffer_stays_throughout_a_bulk_transfer(tune: Tune, ends: Ends) -> None:
    tune({"send_buffer": "64KiB"}, "client", "ipv4")
    ends.client.send(BULK)
    ends.client.receive(BULK)
    now = ends.now("ipv4")
    assert now["client"].sndbuf == 64 * KIB
    assert now["server"].sndbuf > 64 * KIB


def test_buffer_beyond_what_the_host_gives_is_refused_with_the_sysctl_to_raise(
    pliant: Pliant, pair: Pair, ends: Ends, make_policy: MakePolicy
) -> None:
    with pytest.raises(PliantError, match=r"at most .* of send buffer, 1GiB needs net\.core\.wmem_max"):
        pliant.apply(make_policy("a", tune={"send_buffer": "1GiB"}, **ends.match("client")))
    assert pliant.listing() == {}


def test_buffer_that_needs_all_the_host_gives_is_accepted() -> None:
    facts = HostFacts(wmem_max=1000)
    assert check(2000, facts) is None
    assert check(2001, facts) is not None
    assert check(1 << 40, HostFacts()) is None
