"""The hardware table: a step on the simulated machine beside the same training step measured on this host."""
