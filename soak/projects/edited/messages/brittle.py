from soak import journal

GENERATION = 0


def handleMessage(payload, context):
    with journal.running(payload, context):
        return {"id": payload["id"], "body": payload["body"], "generation": GENERATION}
