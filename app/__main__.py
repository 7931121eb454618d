"""`python -m app serve` runs the service; `openapi`, `errors` and `settings` print the generated documents;
`keys` looks after the keys of sensitive messages.
"""

import json
import sys

from app import log, main, problems, settings, wire

_USAGE = "usage: python -m app serve|openapi|errors|settings|keys"


def document(name: str) -> str:
    """The text of docs/openapi.json, docs/errors.md or docs/settings.md."""
    if name == "errors":
        return problems.table()
    if name == "settings":
        return settings.table()
    edge = main.create_app(settings.Settings(supabase_url="https://example.org", supabase_publishable_key="not-a-key"))
    return json.dumps(json.loads(edge.app.state["openapi"]), indent=2, ensure_ascii=False) + "\n"


def serve() -> None:
    """Run the server with what the service relies on; what stands in its way is one sentence."""
    import uvicorn

    from app import server
    from app.connection import Connection, connections_count_max

    try:
        config = settings.load()
    except settings.SettingsError as error:
        raise SystemExit(f"settings: {error}") from None
    log.configure()
    Connection.count_max = connections_count_max(config.upstream_concurrency_max)
    edge = main.create_app(config)
    try:
        listeners = server.bound(config.host, config.port)
    except OSError as error:
        raise SystemExit(f"cannot listen on {config.host} port {config.port}: {error.strerror}") from None
    server.Server(
        uvicorn.Config(
            edge,
            loop="uvloop",
            http=Connection,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            # Ours is the only reading of X-Forwarded-For, by TRUSTED_PROXIES.
            proxy_headers=False,
            timeout_keep_alive=config.keep_alive_s,
        ),
        listeners,
        delay_s=config.drain_delay_s,
        # A request under way may use all its deadlines: for its body, and for Supabase.
        patience_s=wire.BODY_TIMEOUT_S + config.upstream_timeout_s + 2,
        on_end=edge.app.state["readiness"].leave,
    ).run(listeners)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    elif sys.argv[1:2] == ["keys"]:
        # The client it calls with is slow to load, and the service does without.
        from app import keys

        keys.run(sys.argv[2:])
    elif len(sys.argv) == 2 and sys.argv[1] in ("openapi", "errors", "settings"):
        sys.stdout.write(document(sys.argv[1]))
    else:
        raise SystemExit(_USAGE)
