# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.features.conftest import Tune

pytestmark = pytest.mark.root

NO_LIMIT = 0  # the host's net.ipv4.tcp_notsent_lowat holds


def test_socket_has_the_mark(tune: Tune, role: str, family: str) -> None:
    found = tune({"notsent_lowat": "128KiB"}, role, family)
    assert found.state.notsent_lowat == 128 << 10
    assert (found.peer.notsent_lowat, found.unmatched.notsent_lowat) == (NO_LIMIT, NO_LIMIT)


@pytest.mark.parametrize(("written", "size"), [("1KiB", 1 << 10), ("1GiB", 1 << 30)])
def test_bounds_are_taken_by_the_kernel(tune: Tune, written: str, size: int) -> None:
    assert tune({"notsent_lowat": written}, "server", "ipv6").state.notsent_lowat == size
