"""This machine's own servers are asked directly, whatever proxy the environment names."""

from __future__ import annotations

import base64
import http.client
import os
import urllib.error
import urllib.request

HOSTS = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def bypass_proxies() -> None:
    """Excepts loopback from the environment's proxies, for all libraries here and in
    the processes started from here.

    Without a proxy in the environment nothing is changed: `no_proxy` alone would hide
    the system's proxy settings from urllib where a system has such.
    """
    named = {name.lower() for name, value in os.environ.items() if value}
    if named.isdisjoint(_PROXIES):
        return
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    stripped = [host.strip() for host in listed.split(",")]
    hosts = [host for host in stripped if host]
    if "*" in hosts:
        return
    hosts += [host for host in HOSTS if host not in hosts]
    joined = ",".join(hosts)
    os.environ["no_proxy"] = joined
    os.environ["NO_PROXY"] = joined


def status(url: str, secret: str = "", timeout: float = 5) -> int | None:
    """The HTTP status with which a server on this machine answers; None where nothing
    that speaks HTTP does.

    Args:
        secret: name and password, joined by a colon.
    """
    request = urllib.request.Request(url)
    if secret:
        request.add_header(
            "Authorization", "Basic " + base64.b64encode(secret.encode()).decode()
        )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=timeout) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as fault:
        fault.close()
        return fault.code
    except (OSError, http.client.HTTPException, ValueError):
        return None
