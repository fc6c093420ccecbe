import time

from soak import journal


def handleMessage(payload, context):
    with journal.running(payload, context):
        time.sleep(payload["sleep"])
        return {"id": payload["id"], "body": payload["body"]}
