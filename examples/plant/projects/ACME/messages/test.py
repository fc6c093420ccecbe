def handleMessage(payload):
    return {"double": payload["number"] * 2}
