from soak import journal


def handleMessage(payload, context):
    with journal.running(payload, context):
        for step in range(payload["steps"]):
            context.progress({"id": payload["id"], "step": step})
        return {"id": payload["id"], "body": payload["body"]}
