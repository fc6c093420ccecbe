import time

import headgate
from soak import journal


@headgate.handler(concurrency=1, queue=3)
def handleMessage(payload, context):
    with journal.running(payload, context):
        time.sleep(0.002)
        return {"id": payload["id"], "body": payload["body"]}
