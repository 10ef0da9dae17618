"""Prepare the database of a local stack: migrations and the first API key (`python -m app.local.bootstrap FILE`).

A process of its own, because it needs the stack's settings and the supervisor has none.
"""

import sys
from pathlib import Path

from app.audit import repository as audit
from app.auth import service
from app.auth.scopes import EVERY, Scope
from app.auth.tokens import token_digest
from app.db.engine import transaction
from app.db.migrate import upgrade
from app.local.state import write_private
from app.settings import get_settings

PROJECT = "default"
KEY_NAME = "local stack"


def main(key_file: Path) -> None:
    """Bring the database to head; make the key unless the file has one that works and is an operator's."""
    settings = get_settings()
    upgrade(settings.database_url.get_secret_value())
    with transaction() as session:
        kept = key_file.read_text().strip() if key_file.exists() else ""
        digest = token_digest(kept, settings.secret.get_secret_value())
        found = service.authenticate(session.connection(), [digest])[0]
        if found is not None and found.may(Scope.admin):
            return
        made = service.create_key(session, PROJECT, KEY_NAME, EVERY)
        audit.note(session, "create_key", made.key.project_id, object_id=made.key.id)
    write_private(key_file, made.text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
