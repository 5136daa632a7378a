"""The controlled comparison: the paper's question without its confounds."""
