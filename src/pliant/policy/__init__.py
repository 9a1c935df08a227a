# SPDX-License-Identifier: Apache-2.0
"""Intent: what people write, and the state of a host that it compiles to. No I/O beyond reading policy files."""
