"""What stands on a page of a report, as data for the templates: sentences, tables and figures."""

from modelkit.reporting.pages.instance import instance_page
from modelkit.reporting.pages.study import runs_table, study_page
from modelkit.reporting.pages.summary import many_page
from modelkit.reporting.pages.tables import figure_table

__all__ = ["figure_table", "instance_page", "many_page", "runs_table", "study_page"]
