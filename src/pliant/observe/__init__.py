# SPDX-License-Identifier: Apache-2.0
"""Reality: what is on the host, read from the kernel and never written."""
