"""`pintac explain`: where the cycles of a program go, from the program file alone."""
