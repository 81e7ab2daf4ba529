"""Keeps TFDS from importing the modules that a dataset's folder names."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

OWN = re.compile(r"tensorflow_datasets\.core\.features\.[a-z_]+\.[A-Za-z]+")
"""Names of TFDS's own feature classes."""


class ForeignFeatureError(ValueError):
    """A feature of a dataset is of a class that is not TFDS's own."""


@contextlib.contextmanager
def own_features_only(tfds: Any) -> Iterator[None]:
    """Makes TFDS refuse the features of other classes than its own, and those imported already.

    A `features.json` names the classes of its features, and TFDS imports any module that it names.
    Whoever opens a dataset of somebody else would run that somebody's code.

    Args:
        tfds: the module `tensorflow_datasets`.

    Raises:
        ForeignFeatureError: in the context, where TFDS would import such a class.
    """
    connector = tfds.features.FeatureConnector
    class_method = vars(connector)["cls_from_name"]

    def cls_from_name(cls: Any, name: str) -> Any:
        if name not in cls._registered_features and not OWN.fullmatch(name):
            raise ForeignFeatureError(
                f"its features.json names the class {name}, which is not TFDS's own and is not "
                "imported"
            )
        return class_method.__func__(cls, name)

    connector.cls_from_name = classmethod(cls_from_name)
    try:
        yield
    finally:
        connector.cls_from_name = class_method
