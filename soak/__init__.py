"""
The soak: hours of a plant's life in minutes, with every request accounted for.

    python -m soak --seconds 1200

`__main__` takes the arguments, `controller` runs the rounds. Around it stand the processes:
`gateway` (a real one, killed and started again), `clients` (drivers of a plan, `plan` and
`payloads`, whose connections `cutter` cuts) and `slow` (peers that do not read). They leave two
kinds of books: `ledger`, what each request came to as its caller saw it, and `journal`, what the
handlers in `projects/` saw. `account` holds one against the other; `flat` holds the samples of
`sample` against a line; `report` prints it all.
"""
