from soak import journal


def handleMessage(payload, context):
    with journal.running(payload, context):
        raise ValueError(str(payload["id"]))
