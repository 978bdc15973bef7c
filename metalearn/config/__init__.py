"""Configurations as plain mappings: where the YAML files lie, what values may be, what makes two equal, how to build from them."""
