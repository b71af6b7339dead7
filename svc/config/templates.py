"""Where the config templates lie: beside the user's work, in the installed package, or in a source checkout."""

from __future__ import annotations

from pathlib import Path

from svc.errors import MissingFileError

TEMPLATES = (
    "template.json",
    "template_tiny.json",
    "template_quick.json",
    "diffusion_template.yaml",
    "template_vocoder.json",
    "template_vocoder_small.json",
)


def find_template(name: str) -> Path:
    """Find a template by its file name.

    A copy in the working directory's `configs/` wins, so a user can edit the template of a project.

    Raises:
        MissingFileError: no such template.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (Path("configs"), package / "templates", package.parent / "configs"):
        candidate = folder / name
        if candidate.is_file():
            return candidate
    raise MissingFileError(f'no config template "{name}"; the known ones: {", ".join(TEMPLATES)}')
