def handleMessage(payload):
    yield from range(payload["values"])
