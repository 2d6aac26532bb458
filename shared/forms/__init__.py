"""The shared adapter's forms: what a federation's one flat vector stands for."""

from .directions import Directions
from .form import FORMS, FormName, Matrix, SharedForm, Turns

__all__ = ["FORMS", "Directions", "FormName", "Matrix", "SharedForm", "Turns"]
