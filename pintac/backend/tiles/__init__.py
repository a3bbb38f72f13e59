"""Tile IR: operations on strided views of buffers, what they cost and what they wait for."""
