# wsgate: locked dependencies, no compiler and no root in what runs.
#
#   docker build -t wsgate .
#   docker run --read-only -p 8080:8080 -v ./gate.yaml:/etc/wsgate/wsgate.yaml:ro wsgate
#
# The admin port listens on the loopback of the container by default, which is where the health check asks. To scrape it from outside,
# set `admin: 0.0.0.0:9901` and publish it to your Prometheus only.

FROM python:3.13-slim AS build
WORKDIR /build
COPY deploy/lock/runtime.txt .
RUN python -m venv /opt/wsgate \
 && /opt/wsgate/bin/pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes -r runtime.txt
COPY proxy /opt/wsgate/lib/python3.13/site-packages/proxy
RUN printf '#!/opt/wsgate/bin/python\nimport sys\nfrom proxy.cli import main\nsys.exit(main())\n' > /opt/wsgate/bin/wsgate \
 && chmod 755 /opt/wsgate/bin/wsgate \
 && /opt/wsgate/bin/python -m compileall -q /opt/wsgate/lib/python3.13/site-packages/proxy

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin wsgate
COPY --from=build /opt/wsgate /opt/wsgate
COPY config/wsgate.yaml /etc/wsgate/wsgate.yaml
USER 10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
  CMD ["/opt/wsgate/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9901/livez', timeout=2)"]
ENTRYPOINT ["/opt/wsgate/bin/wsgate"]
CMD ["run", "--config", "/etc/wsgate/wsgate.yaml"]
