# Service and command line on a CPU, with the default model inside and without torch:
#     docker build --tag coca-captioners .
# Each step also runs in a chroot of Debian: `make test-image`.

FROM debian:trixie-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv
COPY . /src
RUN python3 -m venv /opt/coca \
    && /opt/coca/bin/pip install --no-cache-dir --no-compile '/src[heif,milvus,places,serve]'

FROM debian:trixie-slim
RUN apt-get update && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --no-create-home --home-dir /data coca && install -d -o coca /data
COPY --from=build /opt/coca /opt/coca
# Collections, uploads, thumbnails and the cache are in one volume; nothing else is written.
ENV PATH=/opt/coca/bin:/usr/bin:/bin COCA_URI=/data/coca.db XDG_CACHE_HOME=/data/cache
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --start-period=60s CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=5)"]
ENTRYPOINT ["coca"]
# Beyond loopback the service needs a key: COCA_API_KEYS.
CMD ["serve", "--host", "0.0.0.0", "--create", "--uploads", "/data/uploads"]
