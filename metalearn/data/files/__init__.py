"""The files of data sets: published, fetched, packed. Knows nothing of splits and tasks."""
