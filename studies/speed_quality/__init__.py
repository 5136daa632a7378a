"""Speed against quality, by sampler and steps."""
