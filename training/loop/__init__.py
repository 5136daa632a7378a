"""Steps of training, from their first to their last checkpoint."""
