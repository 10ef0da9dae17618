# syntax=docker/dockerfile:1
# Two images from one file: `api` (API, dispatcher, migrations: no torch) and `worker` (GPU and CPU workers).
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/secateur
ENV PATH=/opt/secateur/bin:$PATH
COPY deploy/constraints.txt deploy/constraints.txt
COPY pyproject.toml README.md ./
COPY app app
COPY migrations migrations
COPY secateur secateur
COPY worker worker

FROM build AS build-api
RUN pip install --constraint deploy/constraints.txt '.[server]'

FROM build AS build-worker
RUN pip install --constraint deploy/constraints.txt torch==2.13.0 \
 && pip install --constraint deploy/constraints.txt '.[worker]'

FROM python:${PYTHON}-slim AS runtime
RUN useradd --uid 10001 --create-home --home-dir /home/secateur secateur \
 && mkdir /work && chown secateur /work
ENV PATH=/opt/secateur/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /home/secateur
USER 10001

FROM runtime AS api
COPY --from=build-api /opt/secateur /opt/secateur
EXPOSE 8000
CMD ["python", "-m", "app.serve", "--host", "0.0.0.0", "--port", "8000"]

FROM runtime AS worker
# Read by Celery before it loads any module: SIGTERM then gives the job back at once.
ENV REMAP_SIGTERM=SIGQUIT
COPY --from=build-worker /opt/secateur /opt/secateur
VOLUME /work
CMD ["celery", "-A", "worker.celery", "worker", "-Q", "gpu", "-c", "1", "--loglevel", "INFO"]
