"""The HTTP service; app.serve runs it."""

from asyncio import create_task, wait
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Final

from fastapi import Depends, FastAPI
from starlette.middleware import Middleware

from app import docs, health
from app.artifacts import endpoints as artifacts
from app.artifacts import state_endpoints as state
from app.audit.record import record
from app.audit.refusals import count_refusals, keep_writing
from app.backend import open_backend
from app.comparison import endpoints as comparison
from app.datasets import endpoints as datasets
from app.history import endpoints as history
from app.history import sensitivity_endpoints as sensitivity
from app.jobs import control_endpoints as control
from app.jobs import endpoints as jobs
from app.jobs import queue_endpoints as queue
from app.kit.handlers import install_handlers
from app.kit.head import HeadAsGet
from app.kit.lingering import LingeringClose, Receiving
from app.kit.logs import configure_logs
from app.kit.middleware import RequestContext, RequestLimits
from app.kit.parameters import refuse_unknown_parameters
from app.lineage import endpoints as lineages
from app.methods import endpoints as methods
from app.models import endpoints as models
from app.models import upload_endpoints as model_uploads
from app.openapi import install_openapi
from app.plans import endpoints as plans
from app.projects import audit_endpoints as audit
from app.projects import endpoints as projects
from app.projects import key_endpoints as keys
from app.projects import token_endpoints as hub_tokens
from app.rates.middleware import RateLimits, Rates
from app.settings import Settings, get_settings
from app.ui.routes import ROUTES
from app.usage import endpoints as usage
from app.usage.receiving import Uploads
from app.webhooks import endpoints as webhooks

SMALL_BODY: Final = 2**16
"""Bytes of a body that is no job's spec and no upload."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; contacts nothing before the first request."""
    settings = settings or get_settings()
    configure_logs(settings)
    backend = open_backend(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        writing = create_task(keep_writing(app, lambda: app.state.backend.sessions, settings.audit_seconds))
        yield
        writing.cancel()
        await wait([writing])
        await rates.close()
        backend.close()

    receiving = Receiving()
    rates = Rates(settings)
    specs = dict.fromkeys(("/v1/jobs", "/v1/plans"), settings.max_body_bytes)
    uploads = dict.fromkeys(("/v1/datasets/upload", "/v1/models/{id}/files/{path}"), settings.max_upload_bytes)
    larger = {**specs, **uploads}
    app = FastAPI(
        title="Secateur",
        version=version("secateur"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # kit/middleware.py makes the spans: FastAPI's would show addresses and queries.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        generate_unique_id_function=lambda route: route.name,
        dependencies=[Depends(refuse_unknown_parameters), Depends(record)],
        # Also bounds bodies whose length nobody announced, which FastAPI's own limit answers in plain text.
        middleware=[
            Middleware(LingeringClose, receiving=receiving),
            Middleware(RequestContext),
            Middleware(RateLimits, rates=rates),
            Middleware(
                RequestLimits,
                default=min(SMALL_BODY, settings.max_body_bytes),
                larger=larger,
                hosts=settings.allowed_hosts,
            ),
            Middleware(HeadAsGet),
            Middleware(Uploads),
        ],
    )
    app.state.backend = backend
    app.state.receiving = receiving
    install_handlers(app)
    count_refusals(app)
    install_openapi(app)
    for part in (
        datasets,
        models,
        model_uploads,
        plans,
        jobs,
        control,
        queue,
        history,
        lineages,
        sensitivity,
        comparison,
        artifacts,
        state,
        methods,
        webhooks,
        usage,
        projects,
        keys,
        hub_tokens,
        audit,
        health,
        docs,
    ):
        app.include_router(part.router)
    app.webhooks.include_router(webhooks.messages)
    if settings.dashboard:
        app.router.routes.extend(ROUTES)
    return app
