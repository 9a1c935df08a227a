# SPDX-License-Identifier: Apache-2.0
"""Boots stock Debian kernels in an emulator and writes down what the built wheel can do on each."""
