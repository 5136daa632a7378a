"""From sources of text to prepared rows, with their tokenizer."""
