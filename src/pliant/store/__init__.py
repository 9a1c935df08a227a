# SPDX-License-Identifier: Apache-2.0
"""Where policies come from and the journal is kept."""
