"""A validator whose engine is a CometBFT node beside it: sockets, files and the process around `consensus/cometbft`."""
