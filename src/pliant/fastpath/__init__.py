# SPDX-License-Identifier: Apache-2.0
"""The transparent fast path: what the kernel is configured to do with packets, and how it can be done sooner."""
