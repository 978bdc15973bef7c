"""Adds the folder `conf` of every trusted plug-in to Hydra's search path, for the composer and for Hydra's own application."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from metalearn.config.plugins import conf_dirs


class PluginFiles(SearchPathPlugin):
    """What Hydra asks for further folders of YAML files; the shipped files win over a plug-in's of the same name."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in conf_dirs():
            search_path.append("metalearn-plugin", f"file://{folder}")


Plugins.instance().register(PluginFiles)
