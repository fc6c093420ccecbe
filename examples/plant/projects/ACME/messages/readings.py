"""Reads several instruments at the same time; an `async def` handler holds no thread."""

import asyncio

INSTRUMENTS = {"flow": 41.8, "level": 0.73, "pressure": 5.2, "temperature": 4.1}


async def handleMessage(payload):
    names = payload.get("names", list(INSTRUMENTS))
    values = await asyncio.gather(*(read(name, payload.get("seconds", 0.05)) for name in names))
    return dict(zip(names, values, strict=True))


async def read(name, seconds):
    await asyncio.sleep(seconds)  # stands for the way to the instrument and back
    return INSTRUMENTS[name]
