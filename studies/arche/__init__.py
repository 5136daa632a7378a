"""The paper's protocol, and what each of its confounds does."""
