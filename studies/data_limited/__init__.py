"""MDLM against a tuned AR on few unique tokens, for hundreds of epochs."""
