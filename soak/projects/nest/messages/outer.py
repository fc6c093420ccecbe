from soak import journal


def handleMessage(payload, context):
    with journal.running(payload, context):
        journal.note(journal.INNER_MADE, payload, context)
        handle = system.util.sendRequestAsync(
            "nest",
            "inner",
            {"id": payload["id"], "body": payload["body"]},
            onSuccess=lambda value: journal.note(journal.INNER_SUCCEEDED, payload, context),
            onError=lambda error: journal.note(journal.INNER_FAILED, payload, context),
        )
        return handle.get()
