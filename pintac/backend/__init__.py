"""Backend: graphs to programs - tiles, schedule, allocation, semaphores, instructions."""

from pintac.backend.lower import lower

__all__ = ["lower"]
