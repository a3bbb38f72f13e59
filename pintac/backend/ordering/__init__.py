"""The order of the operations of a run: a search over what the four units would do."""
