# SPDX-License-Identifier: Apache-2.0
"""From what is to what should be: steps as data, their order, their undo, and the one loop that carries them out."""
