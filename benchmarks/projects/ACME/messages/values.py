def handleMessage(payload):
    yield from range(payload["count"])
