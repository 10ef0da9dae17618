"""`fields`: what `--set` may say."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from secateur.cli.context import AsJson, output, print_json
from secateur.cli.settings import fields
from secateur.cli.show import print_table, table


def list_fields(
    part: Annotated[str, typer.Argument(help="Only paths with this in them, such as method.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the fields of a job's spec: what `--set` takes, and what each means. `N` is a number or a name."""
    found = [each for path, each in fields().items() if part in path]
    if as_json:
        print_json([asdict(each) | {"types": sorted(each.types)} for each in found])
        return
    shown = table("field", "~takes", "default", "~meaning")
    for each in found:
        default = "" if isinstance(each.default, dict | list | None) else json.dumps(each.default)
        shown.add_row(each.path, each.takes(), default, each.description)
    print_table(output, shown)
