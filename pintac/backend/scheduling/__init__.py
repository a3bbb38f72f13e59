"""Entries as loops over rows, and what is given up where the machine is too small for all of them."""
