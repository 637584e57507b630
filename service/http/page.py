"""The page for people, served whole: no file from anywhere else."""

from functools import cache
from importlib.resources import files

PAGE = files("deepergatgnn.service.http").joinpath("page.html").read_text("utf-8")
_ROOT, _DOCUMENTS = 'data-root=""', 'href="/docs"'


@cache
def page_beneath(root_path: str) -> str:
    """The page as it works beneath a path; its scripts and styles, which its policy names, are the same.

    Args:
        root_path: as of the settings, whose characters need no escape.
    """
    return PAGE.replace(_ROOT, f'data-root="{root_path}"').replace(_DOCUMENTS, f'href="{root_path}/docs"')
