"""CometBFT as the engine: the application side of ABCI 2.0, bytes in and bytes out, without sockets, files or clocks.

CometBFT agrees on blocks and calls us, its application, over four connections. Each carries length-delimited protobuf
requests, answered in order. Read the modules in this order:

`protobuf`    the wire format, driven by tables
`messages`    the tables: all messages of CometBFT 0.38
`port`        what is needed of the ledger, and of the place where snapshots are kept
`chain`       how CometBFT names our chains
`validators`  identities as CometBFT's validators; changes of the set; offenders
`snapshots`   the app hash, and a state in chunks that can be checked one by one
`adapter`     one method for each request
`connection`  frames in, frames out
"""
