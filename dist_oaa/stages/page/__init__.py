"""The report page: what it shows, gathered from run directories, and how it is drawn."""
