"""``ssod config``: the merged config as YAML, each line with who set it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssod.config import Config
from ssod.utils.config_errors import origin_of
from ssod.utils.yaml_io import dump_yaml

_WIDE = 76  # longer lines do not push the column of origins to the right


def describe(cfg: Config) -> str:
    """Return the resolved config as YAML, each line with the file that set it; what no file set is ``default``."""
    lines: list[str] = []
    _describe(cfg.dump(), cfg.origins, "", lines)
    width = max(len(text) for text, _ in lines if len(text) <= _WIDE)
    return "\n".join(f"{text:<{width}}  # {origin}" if origin else text for text, origin in lines)


def _describe(tree: Mapping[str, Any], origins: Mapping[str, str], prefix: str, lines: list[tuple[str, str]]) -> None:
    indent = "  " * prefix.count(".")
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            lines.append((f"{indent}{key}:", ""))
            _describe(value, origins, f"{path}.", lines)
        else:
            text = dump_yaml({key: value}, default_flow_style=True, width=10_000).strip()
            lines.append((f"{indent}{text[1:-1]}", origin_of(path, origins) or "default"))
