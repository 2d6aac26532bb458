"""The recipe of the built-in text-to-image base: freely licensed drawings in, weights out.

Each step is a module and a command, ``python -m locavore.export.image_base STEP``:
:mod:`.assets` fetches pinned packages, :mod:`.drawings` renders and captions them, :mod:`.split`
says what the base may learn from and what belongs to devices, :mod:`.train` trains, and
:mod:`.sample` draws.
"""
