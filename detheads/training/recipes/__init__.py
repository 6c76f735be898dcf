"""Recipes: whole trainings as files, of one stage or several; and the ladder, recipes that differ by one step each."""
