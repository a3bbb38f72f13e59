"""Read-only views of graphs, programs and runs."""
