"""From what people really have to records: folders, mail, calendars, contacts, activity, media."""

from .ratings import rated_answer
from .sources import Imported, import_records, read_source

__all__ = ["Imported", "import_records", "rated_answer", "read_source"]
