from soak import journal


async def handleMessage(payload, context):
    with journal.running(payload, context):
        journal.note(journal.INNER_MADE, payload, context)
        return await system.util.sendRequestAsync(
            "nest",
            "inner",
            {"id": payload["id"], "body": payload["body"]},
            onSuccess=lambda value: journal.note(journal.INNER_SUCCEEDED, payload, context),
            onError=lambda error: journal.note(journal.INNER_FAILED, payload, context),
        )
