"""`python -m app.auth create-key --project default --name laptop`: prints the key and nothing else."""

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy.orm import Session

from app.audit import repository as audit
from app.auth import repository
from app.auth.scopes import EVERY, ORDINARY, Scope
from app.auth.service import create_key
from app.db.engine import transaction


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or 1 with the reason on standard error."""
    options = _parser().parse_args(arguments)
    try:
        with transaction() as session:
            text = _COMMANDS[options.command](session, options)
    except (ValueError, OverflowError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(text)
    return 0


def _create(session: Session, options: argparse.Namespace) -> str:
    expires = datetime.now(UTC) + timedelta(days=options.days) if options.days is not None else None
    scopes = options.scope or ORDINARY
    if Scope.admin in scopes and not options.another:
        _refuse_second_admin(session)
    made = create_key(session, options.project, options.name, scopes, expires)
    audit.note(session, "create_key", made.key.project_id, object_id=made.key.id)
    return made.text + "\n"


def _refuse_second_admin(session: Session) -> None:
    """The first one is shown once. Whoever has it makes more over HTTP; --another is for who has lost it."""
    known = repository.find_admin_key(session)
    if known is not None:
        raise ValueError(
            f"there is an admin key already, {known}; if it is lost, say --another, and then revoke it"
        )


def _revoke(session: Session, options: argparse.Namespace) -> str:
    project = repository.revoke_key(session, options.id)
    if project is None:
        raise ValueError("there is no such key, or it is revoked already")
    audit.note(session, "revoke_key", project, object_id=options.id)
    return ""


def _list(session: Session, options: argparse.Namespace) -> str:
    lines = [
        f"{key.id}  {key.hint}…  {key.name}  {','.join(key.scopes)}  {'revoked' if key.revoked_at else 'alive'}\n"
        for key in repository.list_keys(session, options.project)
    ]
    return "".join(lines)


_COMMANDS: Final[dict[str, Callable[[Session, argparse.Namespace], str]]] = {
    "create-key": _create,
    "list-keys": _list,
    "revoke-key": _revoke,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.auth", description="Manage API keys.")
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create-key", help="make a key and print it; it is shown only this once")
    create.add_argument("--project", required=True, help="made when missing")
    create.add_argument("--name", required=True, help="what the key is for")
    create.add_argument(
        "--scope",
        action="append",
        choices=[scope.value for scope in EVERY],
        help=f"may be repeated (default: {', '.join(ORDINARY)})",
    )
    create.add_argument("--another", action="store_true", help="an admin key although there is one")
    create.add_argument("--days", type=float, help="days until it expires (default: never)")
    listing = commands.add_parser("list-keys", help="ids, first characters, names and scopes of a project's keys")
    listing.add_argument("--project", required=True)
    revoke = commands.add_parser("revoke-key", help="end a key at once")
    revoke.add_argument("id", help="key_…, as `list-keys` shows it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
