"""The access log: a JSON line on standard output for each request."""

import json
import sys
from datetime import datetime, timezone
from time import perf_counter

from detheads.deploy.serving.gate import Exchange


def write_access(exchange: Exchange) -> None:
    """Write the line of one request. ``status`` 0: the client hung up before its answer."""
    scope = exchange.scope
    line = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "id": exchange.id,
        "client": (scope.get("client") or ["unknown"])[0],
        "method": scope["method"],
        "path": scope["path"],
        "status": exchange.status,
        "ms": round(1000 * (perf_counter() - exchange.began), 2),
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
