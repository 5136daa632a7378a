"""Laws of single tokens and of pairs of them."""
