"""The commands as functions. `metalearn/__init__.py` says where each stands and imports it when it is first used."""
