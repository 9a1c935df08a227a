# SPDX-License-Identifier: Apache-2.0
"""A host's policies at work, live: what is read of it, as tables, and the screen that shows them."""
