"""Graphs in parts: which axes are rows, which ops are one kernel, which values one loop computes."""
