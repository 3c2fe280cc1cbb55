"""Follows an event stream with httpx-sse, and comes back after every break; writes a JSON object for each event."""

import json
import sys
import time

import httpx
from httpx_sse import connect_sse


def follow(url: str) -> None:
    last, retry = "", 0.1
    # Heartbeats come far more often than this.
    with httpx.Client(trust_env=False, timeout=60) as client:
        while True:
            headers = {"Last-Event-ID": last} if last else {}
            try:
                with connect_sse(client, "GET", url, headers=headers) as source:
                    source.response.raise_for_status()
                    for event in source.iter_sse():
                        last = event.id or last
                        retry = event.retry / 1000 if event.retry is not None else retry
                        # httpx-sse makes an event of every blank line; to the standard, one without data is none.
                        if not event.data:
                            continue
                        print(json.dumps({"event": event.event, "id": event.id, "data": event.data}), flush=True)
            except httpx.TransportError as error:
                print(error, file=sys.stderr)
            time.sleep(retry)


follow(sys.argv[1])
