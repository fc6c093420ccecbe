import asyncio

from soak import journal


async def handleMessage(payload, context):
    with journal.running(payload, context):
        await asyncio.sleep(payload["sleep"])
        return {"id": payload["id"], "body": payload["body"]}
