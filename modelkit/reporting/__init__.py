"""Reports: what files say together, sentences and tables of each page, figures, and rendering."""
