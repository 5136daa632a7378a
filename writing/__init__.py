"""Stories written by a model of either arm, and the files that hold them."""
