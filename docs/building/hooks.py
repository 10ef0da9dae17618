"""Pages of the site that are written elsewhere: its start is README.md, its reference the OpenAPI document."""

import json
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from reference import page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the start page, the reference and the document that it is made of."""
    from app.export_openapi import document

    openapi = document()
    made = {
        "index.md": start((ROOT / "README.md").read_text("utf-8")),
        "reference.md": page(openapi),
        "openapi.json": json.dumps(openapi, indent=1, ensure_ascii=False),
    }
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    return files


def start(readme: str) -> str:
    """README as a page beside those of docs/."""
    return re.sub(r"(\]\(|src(?:set)?=\")docs/", r"\1", readme)
