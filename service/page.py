"""The page for people, served whole: no file from anywhere else."""

from importlib.resources import files

PAGE = files("service").joinpath("page.html").read_text("utf-8")
