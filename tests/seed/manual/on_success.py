# ruff: noqa
# fmt: off
# This will call the message handler 'test', and will return a handle into myHandle. 
# In this example, we will define a function to run when the message handler has successfully finished, using the onSuccess function on the Request Handle.

# Note that function accepts a single argument for the message. 
def successFunc(message):
	system.gui.messageBox("Successfully finished: %s" % message)

# We're specifying that the request should timeout after 5 seconds. 
myHandle = system.util.sendRequestAsync(project='ACME', messageHandler='test', payload={'number':55}, timeoutSec=5)

# Call the Request Handler's onSuccess function, passing in successFunc.
myHandle.onSuccess(successFunc)
