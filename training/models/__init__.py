"""Models of both arms: made, loaded, saved, counted and described."""
