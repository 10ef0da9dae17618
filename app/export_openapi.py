"""`python -m app.export_openapi FILE`: the OpenAPI document, without a service that runs."""

import argparse
import json
from pathlib import Path
from typing import Any

from app.main import create_app
from app.settings import Settings


def document() -> dict[str, Any]:
    """What /openapi.json answers. Contacts nothing."""
    nowhere = {"database_url": "postgresql+psycopg://nowhere/none", "broker_url": "redis://nowhere"}
    settings = Settings.model_validate({**nowhere, "secret": "-" * 32, "store_url": "file:///nowhere"})
    return create_app(settings).openapi()


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(prog="python -m app.export_openapi", description="The OpenAPI document.")
    parser.add_argument("file", type=Path)
    parser.parse_args().file.write_text(json.dumps(document(), indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
