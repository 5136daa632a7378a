"""Studies of trained models, one file a study."""
