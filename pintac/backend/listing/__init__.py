"""A schedule as a list of instructions: addresses, semaphores, encoding, and the check of all that."""
