# The impasto server. How to build and run it, and every build argument: docs/howto/docker.md.
# Plain `docker build .` builds the image for NVIDIA GPUs with the built-in filters.

ARG BASE_IMAGE=python:3.11-slim-bookworm


# impasto's wheel. It does not depend on the variant.
FROM ${BASE_IMAGE} AS build
ARG PIP_ARGS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/build.txt requirements/build.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /build \
    && /build/bin/python -m pip install --require-hashes ${PIP_ARGS} --requirement requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY proto proto
COPY engine engine
COPY server server
RUN --mount=type=cache,target=/root/.cache/pip \
    /build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /dist ${PIP_ARGS} .


# A venv with all libraries in the locked versions, whose hashes are checked. It is rebuilt only when these change.
FROM ${BASE_IMAGE} AS deps
ARG VARIANT=gpu
ARG TORCH_REQUIREMENTS="torch"
ARG TORCH_INDEX_URL=""
ARG TORCH_PIP_ARGS=""
ARG PIP_ARGS=""
# RAY=yes adds Ray, for servers and hosts of a cluster (docs/howto/cluster.md): 285 MB.
ARG RAY=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv --without-pip /opt/venv
COPY requirements/run.txt requirements/torch.txt requirements/ray.txt /requirements/
# For the CPU, torch is installed first and alone (--no-deps), so that an index of such builds needs no other packages, and no
# other package is ever taken from it. torchvision is optional: impasto has definitions of the networks of its own.
RUN --mount=type=cache,target=/root/.cache/pip \
    set -eu; \
    case "${VARIANT}" in \
        gpu) ;; \
        cpu) if [ -z "${TORCH_INDEX_URL}${TORCH_PIP_ARGS}" ]; then \
                echo "VARIANT=cpu needs TORCH_INDEX_URL or TORCH_PIP_ARGS: where torch's CPU builds are" >&2; exit 1; \
            fi ;; \
        *) echo "VARIANT must be gpu or cpu, got '${VARIANT}'" >&2; exit 1 ;; \
    esac; \
    pip="python3 -m pip --python /opt/venv/bin/python install ${PIP_ARGS}"; \
    if [ "${VARIANT}" = cpu ]; then \
        ${pip} --no-deps ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} ${TORCH_PIP_ARGS} ${TORCH_REQUIREMENTS}; \
        ${pip} --require-hashes --requirement /requirements/run.txt; \
    else \
        ${pip} --require-hashes --requirement /requirements/run.txt --requirement /requirements/torch.txt; \
    fi; \
    if [ -n "${RAY}" ]; then ${pip} --no-deps --require-hashes --requirement /requirements/ray.txt; fi
# The build fails here if torch is of the other kind.
RUN /opt/venv/bin/python -c "import torch; v = 'gpu' if torch.version.cuda else 'cpu'; \
    print('torch', torch.__version__, 'for the', v); \
    v == '${VARIANT}' or exit('torch is built for the ' + v + ', VARIANT is ${VARIANT}')"


# impasto itself, in a separate folder that is copied over the venv: a small layer.
FROM deps AS app
COPY --from=build /dist /dist
RUN python3 -m pip --python /opt/venv/bin/python install --no-deps --no-index --prefix /app /dist/*.whl


# The filters. `builtin` is part of the package; other names are downloaded and verified.
FROM deps AS weights
ARG WEIGHTS=builtin
ENV IMPASTO_CACHE=/var/cache/impasto
COPY --from=app /app /opt/venv
RUN set -eu; mkdir -p "${IMPASTO_CACHE}"; \
    for name in ${WEIGHTS}; do \
        [ "${name}" = builtin ] || /opt/venv/bin/impasto weights download "${name}"; \
    done; \
    chmod -R u=rwX,go=rX "${IMPASTO_CACHE}"


FROM ${BASE_IMAGE} AS runtime
RUN groupadd --gid 10001 impasto \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin impasto
# A volume here keeps jobs beyond the lifetime of the container. Without one they survive only a crash of the server.
RUN install --directory --owner=10001 --group=10001 --mode=0770 /var/lib/impasto
COPY --from=deps /opt/venv /opt/venv
COPY --from=weights --chown=10001:10001 /var/cache/impasto /var/cache/impasto
COPY --from=app /app /opt/venv

# HOME is /tmp, the only place that libraries can write to when the root filesystem is read-only.
# NVIDIA_DRIVER_CAPABILITIES selects the driver features; it does not request a GPU.
ENV PATH=/opt/venv/bin:${PATH} \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    IMPASTO_CACHE=/var/cache/impasto \
    IMPASTO_DATA_DIR=/var/lib/impasto \
    IMPASTO_LISTEN=0.0.0.0:50051 \
    IMPASTO_METRICS=0.0.0.0:9464

ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="impasto" \
      org.opencontainers.image.description="Neural style transfer as a service, over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

USER 10001:10001
WORKDIR /tmp
EXPOSE 50051 9464
# IMPASTO_GRACE_S (30 s) and 30 s more, which an image cannot set: run it with --stop-timeout 60 (docs/howto/docker.md).
STOPSIGNAL SIGTERM
# Uses the port of IMPASTO_METRICS, which needs neither TLS nor a token, or that of IMPASTO_LISTEN if there are no metrics.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
    CMD if [ -n "${IMPASTO_METRICS}" ]; then impasto health --http "127.0.0.1:${IMPASTO_METRICS##*:}"; \
        else no_grpc_proxy=127.0.0.1 impasto health --server "127.0.0.1:${IMPASTO_LISTEN##*:}"; fi
ENTRYPOINT ["impasto"]
CMD ["serve"]
