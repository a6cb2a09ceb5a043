"""The models: one file and one yaml each."""
