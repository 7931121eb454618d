"""`python -m app serve` runs the service; `openapi`, `errors` and `settings` print the generated documents;
`keys` looks after the keys of sensitive messages.
"""

import json
import sys

from app import keys, log, main, problems, settings

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
    """Run the server with what the service relies on; a settings error is one sentence."""
    import uvicorn

    from app.server import Connection, connections_count_max

    try:
        config = settings.load()
    except settings.SettingsError as error:
        raise SystemExit(f"settings: {error}") from None
    log.configure()
    Connection.count_max = connections_count_max(config.upstream_concurrency_max)
    uvicorn.run(
        main.create_app(config),
        host=config.host,
        port=config.port,
        loop="uvloop",
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Ours is the only reading of X-Forwarded-For, by TRUSTED_PROXIES.
        proxy_headers=False,
        # After SIGTERM, requests under way may use their whole deadline.
        timeout_graceful_shutdown=int(config.upstream_timeout_s) + 5,
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    elif sys.argv[1:2] == ["keys"]:
        keys.run(sys.argv[2:])
    elif len(sys.argv) == 2 and sys.argv[1] in ("openapi", "errors", "settings"):
        sys.stdout.write(document(sys.argv[1]))
    else:
        raise SystemExit(_USAGE)
