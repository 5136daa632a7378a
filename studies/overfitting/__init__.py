"""Whether AR overfits a small corpus while MDLM still improves, over seeds and subsets."""
