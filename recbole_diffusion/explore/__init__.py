"""A page on this machine that asks one or two saved models and shows their answers."""
