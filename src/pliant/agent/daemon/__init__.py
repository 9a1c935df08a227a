# SPDX-License-Identifier: Apache-2.0
"""The agent: one thread that waits for something to happen, and keeps the kernel as the policies in force ask for."""
