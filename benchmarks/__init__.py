"""How fast models train and rank, against what the machine can do."""
