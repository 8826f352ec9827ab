"""Shapes and types of every signature of megen are checked in every test."""

from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401

install_import_hook("megen", "tests.typecheck.check")
