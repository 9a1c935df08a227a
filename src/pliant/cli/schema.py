# SPDX-License-Identifier: Apache-2.0
"""``pliant schema``."""

from __future__ import annotations

import click

from pliant.cli import output as out
from pliant.cli.context import output_option
from pliant.features import catalogue
from pliant.policy.json_schema import policy_json_schema


@click.command()
@output_option("json", "yaml", default="json")
def schema(output: str) -> None:
    """Print the JSON Schema of policy files, for editors and for checking them elsewhere."""
    out.data(policy_json_schema(catalogue()), output)
