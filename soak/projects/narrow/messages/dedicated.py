import time

import headgate
from soak import journal


@headgate.handler(threading="Dedicated", queue=200)
def handleMessage(payload, context):
    with journal.running(payload, context):
        time.sleep(0.001)
        return {"id": payload["id"], "body": payload["body"]}
