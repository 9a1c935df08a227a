# SPDX-License-Identifier: Apache-2.0
"""The demo: the main job on real traffic in a lab, before and after, and back again."""
