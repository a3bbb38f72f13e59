"""The public functions: one for each task of the command line."""
