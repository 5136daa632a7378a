"""The data and the model of tests that train: a byte-level vocabulary, two narrow layers, rows of 32 tokens."""

MODEL = {
    "data.vocab_size": 280,
    "data.context_length": 32,
    "data.validation_fraction": 0.2,
    "model.config.vocab_size": 280,
    "model.config.hidden_size": 32,
    "model.config.intermediate_size": 64,
    "model.config.num_hidden_layers": 2,
    "model.config.max_position_embeddings": 32,
}
