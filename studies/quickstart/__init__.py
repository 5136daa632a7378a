"""The comparison of a trained pair, by `arche-mdlm compare`."""
