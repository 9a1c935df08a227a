# SPDX-License-Identifier: Apache-2.0
"""One host: its policies, its journal and its kernel, brought and kept in agreement."""
