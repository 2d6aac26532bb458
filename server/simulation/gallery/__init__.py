"""People and their pictures: the data of the image tasks.

Drawings and glyphs are real; avatars and everything that they wear, sell or show are synthetic, and
say so. :data:`~.rows.TASK_DATA` says which task uses which gallery.
"""

from .drawings import load_drawings, load_subjects
from .pictures import Artist, Gallery, Impression, Picture
from .rows import GALLERIES, TASK_DATA, load_gallery

__all__ = [
    "GALLERIES",
    "TASK_DATA",
    "Artist",
    "Gallery",
    "Impression",
    "Picture",
    "load_drawings",
    "load_gallery",
    "load_subjects",
]
