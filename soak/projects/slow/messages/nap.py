import time

from soak import journal


def handleMessage(payload, context):
    with journal.running(payload, context):
        end = time.monotonic() + payload["sleep"]
        while time.monotonic() < end and not context.cancelled:
            time.sleep(0.01)
        return {"id": payload["id"], "body": payload["body"]}
