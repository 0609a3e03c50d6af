"""What ``ssod init`` refuses before torch is imported: names of recipes that are none, and data that are not there."""

from __future__ import annotations

import glob
import os

from ssod.data.formats.infer import REST, labeled_source, unlabeled_source
from ssod.utils import recipes
from ssod.utils.address import is_url
from ssod.utils.config_errors import nearest
from ssod.utils.errors import SsodError
from ssod.utils.recipes import Recipe

DETECTOR = "retinanet_r50_fpn"


def own_recipe(method: str, detector: str) -> Recipe:
    """Return the recipe of a method and a detector on data of one's own.

    Raises:
        SsodError: an unknown name.
    """
    recipe = Recipe(method=method, detector=detector, data=recipes.OWN)
    for option, name in (("method", recipe.method), ("detector", recipe.detector)):
        known(option, name)
    weights = recipes.compose(recipe)[0]["detector"].get("weights")
    return recipe if weights else recipe.model_copy(update={"data": recipes.OWN_SMALL})


def known(option: str, name: str) -> None:
    """Refuse a name that none of the files of an option has.

    Raises:
        SsodError: code 2.
    """
    if name not in (names := recipes.names(option)):
        raise SsodError("command line", f"--{option}", f"'{name}' unknown", nearest(name, names))


def refuse_absent(labeled: str | None, val: str | None, unlabeled: str | None) -> None:
    """Refuse data of ``ssod init`` that are not there, before torch is imported.

    Raises:
        SsodError: code 2, a path that leads nowhere; what is there is looked at later.
    """
    for name, path in (("--labeled", labeled), ("--val", val), ("--unlabeled", unlabeled)):
        share = name == "--val" and path is not None and path.endswith("%")
        if path is None or share or path == REST or glob.has_magic(path) or is_url(path):
            continue
        if not os.path.exists(os.path.expanduser(path)):
            unlabeled_source(path, name, {}) if name == "--unlabeled" else labeled_source(path, name, ())
