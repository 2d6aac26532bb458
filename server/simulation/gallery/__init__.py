"""People and their pictures: the data of the image tasks.

Drawings and glyphs are real; avatars and everything that they wear, sell or show are synthetic, and
say so. :data:`~.rows.TASK_DATA` says which task uses which gallery. To look at one:

    python -m locavore.server.simulation.gallery sheet faces --out faces.png
"""

from .pictures import Artist, Gallery, Impression, Picture
from .rows import GALLERIES, TASK_DATA, load_gallery

__all__ = ["GALLERIES", "TASK_DATA", "Artist", "Gallery", "Impression", "Picture", "load_gallery"]
