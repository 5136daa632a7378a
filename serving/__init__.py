"""An HTTP server with OpenAI's endpoints for a model of either arm: `arche-mdlm serve`."""
