"""pintac: compile a PINN training step to a PINTA program and run it on an instruction-level simulator."""
