# SPDX-License-Identifier: Apache-2.0
"""A soak: one host under load to which everything happens at random, and what must hold throughout.

``make soak`` runs it. Services come and go, policies are applied, changed, deleted and switched off, commands and the
agent are killed, builds of another layout take over and give back. :mod:`~pliant.soak.checks` says what must hold.
"""
