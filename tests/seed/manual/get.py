# ruff: noqa
# fmt: off
# This calls the message handler 'test', and returns a handle into myHandle. 
# We then call get() on myHandle, which will block the script and will wait for a return or throw an exception on failure.
myHandle = system.util.sendRequestAsync(project='ACME', messageHandler='test', payload={'number':55})
myHandle.get()
