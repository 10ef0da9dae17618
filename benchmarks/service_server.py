"""The API as it is run, and beside it in the same process a bare FastAPI route to compare with, at /bare."""

import sys

from fastapi import FastAPI
from sqlalchemy import text
from starlette.types import Receive, Scope, Send

from app.main import create_app
from app.serve import Server


def main() -> None:
    """Serve on the given port."""
    app = create_app()
    bare = FastAPI()

    @bare.get("/bare")
    def select_one() -> dict[str, int]:
        """One statement through the same pool."""
        with app.state.backend.engine.connect() as connection:
            return {"one": connection.execute(text("SELECT 1")).scalar_one()}

    class Both(FastAPI):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["path"] == "/bare":
                await bare(scope, receive, send)
            else:
                await app(scope, receive, send)

    both = Both()
    both.state.backend, both.state.receiving = app.state.backend, app.state.receiving
    Server(both, "127.0.0.1", int(sys.argv[1])).run()


if __name__ == "__main__":
    main()
