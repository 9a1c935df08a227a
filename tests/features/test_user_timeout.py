# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.features.conftest import Tune

pytestmark = pytest.mark.root


def test_socket_has_the_timeout(tune: Tune, role: str, family: str) -> None:
    found = tune({"user_timeout": "7s"}, role, family)
    assert found.state.user_timeout_ms == 7000
    assert (found.peer.user_timeout_ms, found.unmatched.user_timeout_ms) == (0, 0)


@pytest.mark.parametrize(("written", "milliseconds"), [("10ms", 10), ("10001us", 11), ("1440m", 86_400_000)])
def test_bounds_are_taken_by_the_kernel_and_part_of_a_millisecond_counts(
    tune: Tune, written: str, milliseconds: int
) -> None:
    assert tune({"user_timeout": written}, "client", "ipv6").state.user_timeout_ms == milliseconds
