"""The page at `/`, served whole: it loads no other file."""

from functools import cache
from importlib.resources import files

PAGE = files("deepergatgnn.service.http").joinpath("page.html").read_text("utf-8")
_ROOT, _DOCUMENTS = 'data-root=""', 'href="/docs"'


@cache
def page_beneath(root_path: str) -> str:
    """Return the page as it works beneath a path; its scripts and styles, which its policy names, stay the same.

    Args:
        root_path: as in the settings, which allow no character that needs an escape.
    """
    return PAGE.replace(_ROOT, f'data-root="{root_path}"').replace(_DOCUMENTS, f'href="{root_path}/docs"')
