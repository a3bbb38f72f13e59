"""Backend: graphs to programs - tiles, schedule, allocation, semaphores, instructions (`lower.lower`)."""
