# SPDX-License-Identifier: Apache-2.0
"""Pliant: programmable Linux host networking, measured and reversible."""

__version__ = "0.1.0"
