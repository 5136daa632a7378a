"""Models of several diffusion families beside one autoregressive twin, by `arche-mdlm compare --families`."""
