from soak import sample


def handleMessage(payload):
    return sample.of_this_process()
