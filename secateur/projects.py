"""Projects with their keys, as the client's `client.projects` has them."""

from collections.abc import Iterator, Sequence
from typing import Any

from secateur.transport import Json, Transport, path_of


class Projects:
    """Who may do what. All projects are an operator's (`admin`); a key with `keys:write` manages its own project's
    keys, one with `data:write` its hub token."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def add(self, name: str, **fields: Any) -> Json:
        """A new project without keys. fields: model_roots."""
        return self._transport.create("/v1/projects", json={"name": name, **fields})

    def read(self, id: str) -> Json:
        return self._transport.call("GET", path_of("projects", id))

    def list(self, **filters: Any) -> Iterator[Json]:
        """Projects, newest first."""
        return self._transport.pages("/v1/projects", filters)

    def change(self, id: str, **fields: Any) -> Json:
        """Change a project. fields: name, disabled, model_roots, share, quotas."""
        return self._transport.call("PATCH", path_of("projects", id), json=fields, repeatable=True)

    def delete(self, id: str) -> None:
        """Delete an empty project with its keys."""
        self._transport.delete(path_of("projects", id))

    def add_key(self, id: str, name: str, scopes: Sequence[str], *, expires_at: str | None = None) -> Json:
        """A new key, with its `secret`, which is shown only now."""
        body = {
            "name": name,
            "scopes": [*scopes],
            **({"expires_at": expires_at} if expires_at is not None else {}),
        }
        return self._transport.create(path_of("projects", id, "keys"), json=body)

    def keys(self, id: str, **filters: Any) -> Iterator[Json]:
        """A project's keys, newest first; never a secret."""
        return self._transport.pages(path_of("projects", id, "keys"), filters)

    def key(self, id: str, key: str) -> Json:
        return self._transport.call("GET", path_of("projects", id, "keys", key))

    def rename_key(self, id: str, key: str, name: str) -> Json:
        return self._transport.call(
            "PATCH", path_of("projects", id, "keys", key), json={"name": name}, repeatable=True
        )

    def rotate_key(self, id: str, key: str, *, grace_seconds: int = 86_400) -> Json:
        """The key with a new `secret`; the one before works for `grace_seconds`, too."""
        return self._transport.create(
            path_of("projects", id, "keys", key, "rotate"), json={"grace_seconds": grace_seconds}
        )

    def revoke_key(self, id: str, key: str) -> None:
        """End a key at once."""
        self._transport.delete(path_of("projects", id, "keys", key))

    def put_hub_token(self, id: str, token: str) -> Json:
        """Fetch the project's models and datasets from the hub with this token; it is shown to nobody."""
        return self._transport.call("PUT", path_of("projects", id, "hub_token"), json={"token": token})

    def hub_token(self, id: str) -> Json:
        """Whether there is one (`set`), and how it ends."""
        return self._transport.call("GET", path_of("projects", id, "hub_token"))

    def delete_hub_token(self, id: str) -> None:
        """Forget the project's token."""
        self._transport.delete(path_of("projects", id, "hub_token"))
