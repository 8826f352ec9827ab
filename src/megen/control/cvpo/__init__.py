"""Constrained variational policy optimisation (Liu et al. 2022) for discrete decisions: on tables, and with networks."""
