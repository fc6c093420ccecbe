from soak import journal


def handleMessage(payload, context):
    journal.note(journal.INNER_BEGUN, payload, context)
    return payload
