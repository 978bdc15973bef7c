"""Datasets: named classes of images, their splits, and the seeded stream of tasks drawn from one split."""
