import asyncio

from soak import journal

GENERATION = 0


async def handleMessage(payload, context):
    with journal.running(payload, context):
        await asyncio.sleep(0)
        return {"id": payload["id"], "body": payload["body"], "generation": GENERATION}
