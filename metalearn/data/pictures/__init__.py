"""Pictures: image files, icons and typefaces as arrays of pixels. Knows nothing of data sets."""
