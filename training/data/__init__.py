"""From sources of text to prepared rows, with their tokenizer."""

from arche_mdlm.configuration.extras import require

require("reading data", "datasets", "pyarrow")
