"""Let a wheel carry analysis/ and studies/ inside the package (mldiv/environment/checkout.py); pyproject.toml says all else."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CARRIED = [path.as_posix() for name in ("analysis", "studies") for end in ("py", "j2") for path in Path(name).rglob(f"*.{end}")]


class BuildWithCarried(build_py):
    """Copies them where a wheel is built; an editable install has the checkout's own."""

    def run(self) -> None:
        super().run()
        for name in () if self.editable_mode else CARRIED:
            target = Path(self.build_lib, "mldiv", "carried", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, target)

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *CARRIED]  # what a source distribution holds


setup(cmdclass={"build_py": BuildWithCarried})
