"""The objective `low_variance` against `nelbo`, paired by seed: which one comes to a bound in fewer steps."""
