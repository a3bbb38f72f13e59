"""The experiments: tables of training runs, run and kept, with what they say beside what was claimed."""
