"""Seats, upgrade tokens and penalties in a shared store: asked for, told again after every doubt, freed when their holder is dead."""
