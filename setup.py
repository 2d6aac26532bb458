"""Map the top-level folders onto the one import package ``locavore``."""

from setuptools import find_namespace_packages, setup

PARTS = ("client", "server", "shared", "export", "privacy")

setup(
    package_dir={
        "locavore": "shared/facade",
        **{f"locavore.{part}": part for part in PARTS},
    },
    packages=[
        "locavore",
        *(
            f"locavore.{part}{sub}"
            for part in PARTS
            for sub in ("", *(f".{name}" for name in find_namespace_packages(part)))
            if "__pycache__" not in sub and sub != ".facade"
        ),
    ],
)
