"""Projects with their keys, as the client's `client.projects` has them."""

from collections.abc import Sequence
from typing import Any

from secateur import answers
from secateur.calls.base import Calls
from secateur.operations import Rows, listing, operation
from secateur.transport import path_of


class Projects(Calls):
    """Who may do what. All projects are an operator's (`admin`); a key with `keys:write` manages its own project's
    keys, one with `data:write` its hub token."""

    @operation
    async def add(self, /, name: str, **fields: Any) -> answers.ProjectRead:
        """A new project without keys. fields: model_roots."""
        return await self._transport.create("/v1/projects", json={"name": name, **fields})

    @operation
    async def read(self, id: str) -> answers.ProjectRead:
        return await self._transport.call("GET", path_of("projects", id))

    @listing
    def list(self, /, **filters: Any) -> Rows[answers.ProjectRead]:
        """Projects, newest first."""
        return self._transport.pages("/v1/projects", filters)

    @operation
    async def change(self, /, id: str, **fields: Any) -> answers.ProjectRead:
        """Change a project. fields: name, disabled, model_roots, share, quotas."""
        return await self._transport.call("PATCH", path_of("projects", id), json=fields, repeatable=True)

    @operation
    async def delete(self, id: str) -> None:
        """Delete an empty project with its keys."""
        await self._transport.delete(path_of("projects", id))

    @operation
    async def add_key(
        self, id: str, name: str, scopes: Sequence[str], *, expires_at: str | None = None
    ) -> answers.KeyCreated:
        """A new key, with its `secret`, which is shown only now."""
        body = {
            "name": name,
            "scopes": [*scopes],
            **({"expires_at": expires_at} if expires_at is not None else {}),
        }
        return await self._transport.create(path_of("projects", id, "keys"), json=body)

    @listing
    def keys(self, /, id: str, **filters: Any) -> Rows[answers.KeyRead]:
        """A project's keys, newest first; never a secret."""
        return self._transport.pages(path_of("projects", id, "keys"), filters)

    @operation
    async def key(self, id: str, key: str) -> answers.KeyRead:
        return await self._transport.call("GET", path_of("projects", id, "keys", key))

    @operation
    async def rename_key(self, id: str, key: str, name: str) -> answers.KeyRead:
        return await self._transport.call(
            "PATCH", path_of("projects", id, "keys", key), json={"name": name}, repeatable=True
        )

    @operation
    async def rotate_key(self, id: str, key: str, *, grace_seconds: int = 86_400) -> answers.KeyCreated:
        """The key with a new `secret`; the one before works for `grace_seconds`, too."""
        return await self._transport.create(
            path_of("projects", id, "keys", key, "rotate"), json={"grace_seconds": grace_seconds}
        )

    @operation
    async def revoke_key(self, id: str, key: str) -> None:
        """End a key at once."""
        await self._transport.delete(path_of("projects", id, "keys", key))

    @operation
    async def put_hub_token(self, id: str, token: str) -> answers.HubTokenRead:
        """Fetch the project's models and datasets from the hub with this token; it is shown to nobody."""
        return await self._transport.call("PUT", path_of("projects", id, "hub_token"), json={"token": token})

    @operation
    async def hub_token(self, id: str) -> answers.HubTokenRead:
        """Whether there is one (`set`), and how it ends."""
        return await self._transport.call("GET", path_of("projects", id, "hub_token"))

    @operation
    async def delete_hub_token(self, id: str) -> None:
        """Forget the project's token."""
        await self._transport.delete(path_of("projects", id, "hub_token"))
