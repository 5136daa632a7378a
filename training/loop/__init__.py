"""Steps of training, from their first to their last checkpoint."""

from arche_mdlm.configuration.extras import require

require("training", "accelerate", "datasets", "tensorboard")
