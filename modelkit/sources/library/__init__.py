"""The library: named instances with the best that is known of them (`entries`), and how each is had (`instances`)."""

from __future__ import annotations

from modelkit.sources.library.entries import DIVISIONS as DIVISIONS
from modelkit.sources.library.entries import Entry as Entry
from modelkit.sources.library.entries import find_entry as find_entry
from modelkit.sources.library.entries import library_entries as library_entries
from modelkit.sources.library.entries import library_folder as library_folder
from modelkit.sources.library.entries import write_entries as write_entries
from modelkit.sources.library.instances import library as library
