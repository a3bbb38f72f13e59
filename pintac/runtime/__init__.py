"""Running programs: machine state, engines, sessions. Needs neither the compiler nor torch."""
