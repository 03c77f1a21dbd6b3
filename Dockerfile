# syntax=docker/dockerfile:1
# The images of tuneloop. docs/how-to/images.md has the arguments, sizes, and what was tried with which builder.
#   base   export, import, plan, check, submit, serve: everything without JAX
#   serve  base, as the trace store by itself: command and health check
#   train  all four stages: JAX and Tunix, no client of the cluster
# Nothing is fetched but by pip; how pip reaches its index is a secret of the build (`pipconf`, `cacert`), so it
# is in no layer.

# Both images need the same interpreter at the same path, because the virtual environment is copied
# from one to the other. BUILD_IMAGE needs venv with pip, and `strip` for small images. BASE_IMAGE
# needs Python and certificates.
ARG BUILD_IMAGE=python:3.11-bookworm@sha256:a8f8fbe1a0edc9e4dddafa64ba73f7e04be7be5ebc23f332362e779e0a2e4e52
ARG BASE_IMAGE=python:3.11-slim-bookworm@sha256:d29f48a31a8b408ed19272ca1e7b10ebae13b240a27e862d3d4217c528e2e0c3

# ---- common part of all builder stages ----------------------------------------------------------
FROM ${BUILD_IMAGE} AS tools
ARG PYTHON=python3
# pip has its own environment, so that the environment of the image does not contain it.
RUN ["/bin/sh", "-euc", "python=$(command -v ${PYTHON}); $python -m venv /opt/pip; $python -m venv --without-pip /opt/tuneloop"]
WORKDIR /app
ENV PIP_CACHE_DIR=/var/cache/pip \
    PIP_CONFIG_FILE=/run/secrets/pipconf \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
COPY pyproject.toml setup.py README.md LICENSE ./
COPY images/install images/prune.py images/compile.py /images/
COPY requirements ./requirements
COPY lib ./lib
COPY jobs ./jobs
COPY eval ./eval
COPY manifests ./manifests

FROM tools AS base-built
RUN --mount=type=secret,id=pipconf --mount=type=secret,id=cacert \
    --mount=type=cache,target=/var/cache/pip \
    /images/install requirements/base.txt

FROM tools AS train-built
ARG JAX_VARIANT=cpu
ARG METRICS_SINK=
ARG TUNIX_REF=
RUN --mount=type=secret,id=pipconf --mount=type=secret,id=cacert \
    --mount=type=cache,target=/var/cache/pip \
    JAX_VARIANT=${JAX_VARIANT} METRICS_SINK=${METRICS_SINK} TUNIX_REF=${TUNIX_REF} \
    /images/install --train

# ---- common part of all final stages ------------------------------------------------------------
FROM ${BASE_IMAGE} AS runtime
# The user of manifests/k8s/pod.yaml. It is in /etc/passwd, because libraries look up its name. The
# cluster mounts a cache in its home. Without the cluster, a container writes only below /tmp.
RUN ["/bin/sh", "-euc", "echo tuneloop:x:10001:10001::/home/tuneloop:/usr/sbin/nologin >> /etc/passwd; echo tuneloop:x:10001: >> /etc/group; mkdir -p /app /home/tuneloop/.cache; chown -R 10001:10001 /home/tuneloop"]
# gcsfs would ask for the type of each bucket over gRPC, whose certificates images/prune.py deletes.
ENV PATH=/opt/tuneloop/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false \
    JAX_COMPILATION_CACHE_DIR=/tmp/tuneloop/jax \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Stages run from the folder that contains jobs/: `python -m jobs STAGE`.
WORKDIR /app
# `tuneloop check --server` reads the labels of dev.tuneloop; tests/images compares them with the packages.
LABEL dev.tuneloop.protocols=file,gs,s3 \
      org.opencontainers.image.title=tuneloop \
      org.opencontainers.image.licenses=Apache-2.0
USER 10001:10001
# There is no ENTRYPOINT, so that the command is the same in a container and on a laptop. CMD has
# the exec form, so that signals reach Python, which handles them: a stage saves a checkpoint and
# exits with 75, and a server finishes its requests.
CMD ["tuneloop", "--help"]

# In both images, the variables that identify the code come last, so that a new commit changes no
# earlier layer. They follow a RUN, because buildah 1.28 considers arguments only there when it
# looks for a cached layer. Records that are written in an image contain the commit, like those that
# are written in a checkout.
FROM runtime AS train
COPY --from=train-built /opt/tuneloop /opt/tuneloop
COPY --from=train-built /app /app
ARG BASE_IMAGE
ARG JAX_VARIANT=cpu
ARG REVISION=
ARG SOURCE=
ARG VERSION=
# LD_BIND_NOW: a symbol of a library that images/prune.py has deleted is missed here and not in a run.
RUN ["env", "LD_BIND_NOW=1", "python", "-c", "import duckdb, gcsfs, jax, numpy, pyarrow.compute, pyarrow.fs, pyarrow.json, pyarrow.parquet, s3fs, scipy.stats, sqlalchemy, tensorstore, tuneloop, tunix"]
ENV TUNELOOP_GIT_COMMIT=${REVISION}
LABEL dev.tuneloop.extras=data,eval,gcs,s3,store,train \
      dev.tuneloop.jax=${JAX_VARIANT} \
      org.opencontainers.image.base.name=${BASE_IMAGE} \
      org.opencontainers.image.revision=${REVISION} \
      org.opencontainers.image.source=${SOURCE} \
      org.opencontainers.image.version=${VERSION}

FROM runtime AS base
COPY --from=base-built /opt/tuneloop /opt/tuneloop
COPY --from=base-built /app /app
ARG BASE_IMAGE
ARG REVISION=
ARG SOURCE=
ARG VERSION=
RUN ["env", "LD_BIND_NOW=1", "python", "-c", "import duckdb, gcsfs, kubernetes, numpy, pyarrow.compute, pyarrow.fs, pyarrow.json, pyarrow.parquet, s3fs, sqlalchemy, tuneloop, uvloop"]
ENV TUNELOOP_GIT_COMMIT=${REVISION}
LABEL dev.tuneloop.extras=data,gcs,k8s,s3,store \
      org.opencontainers.image.base.name=${BASE_IMAGE} \
      org.opencontainers.image.revision=${REVISION} \
      org.opencontainers.image.source=${SOURCE} \
      org.opencontainers.image.version=${VERSION}

FROM base AS serve
EXPOSE 8000
# /healthz, not /readyz, because a restart of the store does not help if the database is
# unavailable.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
# Needs TUNELOOP_DATABASE, TUNELOOP_TOKENS and a writable --artifacts.
CMD ["tuneloop", "serve", "--host", "0.0.0.0"]
