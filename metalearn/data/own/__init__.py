"""Somebody's own images: which class each belongs to, how classes are divided, what is wrong with them, and what a trained model makes of them."""
